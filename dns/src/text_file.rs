//! Text files that users write.

use std::{fs, io, path::Path};

/// Reads a file. The error for other encodings says so in words.
pub fn read(path: &Path) -> io::Result<String> {
    text(fs::read(path)?)
}

/// The text of a file with this content.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text"))
}

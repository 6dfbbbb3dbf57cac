//! Text, as files are read.

/// The octets as text; a file that is not UTF-8 is refused before any parser sees it.
pub fn read(octets: &[u8]) -> Option<&str> {
    std::str::from_utf8(octets).ok()
}

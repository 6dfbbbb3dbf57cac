//! A file that is read again when it changes.
//!
//! It is looked at now and then rather than watched: what stands at such a path in a container is a mount or a chain of
//! links that others swap, and whichever way they do it, the file that the path leads to is another one.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub(crate) struct FileWatcher {
    path: PathBuf,
    seen: Option<Stamp>,
    /// It could not be read when it was looked at last.
    has_failed: bool,
}

/// What differs when a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Missing,
    File { device: u64, inode: u64, size: u64, changed: (i64, i64) },
}

impl FileWatcher {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None, has_failed: false }
    }

    /// The text, if it may be another than last time; the first time it is. An error is told once, and tried again: it
    /// may be one of this machine, as when there are too many open files.
    pub(crate) fn changed(&mut self) -> Option<io::Result<String>> {
        let stamp = Stamp::of(&self.path);
        let is_new = self.seen != Some(stamp);
        if !is_new && !self.has_failed {
            return None;
        }
        self.seen = Some(stamp);
        let read = fs::read_to_string(&self.path);
        self.has_failed = read.is_err();
        (is_new || !self.has_failed).then_some(read)
    }
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let Ok(metadata) = fs::metadata(path) else { return Self::Missing };
        Self::File {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut followed = FileWatcher::new(&path);
        assert!(followed.changed().unwrap().is_err(), "missing");
        assert!(followed.changed().is_none(), "still missing");
        fs::write(&path, "one").unwrap();
        assert_eq!(followed.changed().unwrap().unwrap(), "one");
        assert!(followed.changed().is_none(), "unchanged");
        let other = directory.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(followed.changed().unwrap().unwrap(), "two", "another file of the same size");
        followed.has_failed = true;
        assert_eq!(followed.changed().unwrap().unwrap(), "two", "it can be read again");
        assert!(followed.changed().is_none(), "and is known");
    }
}

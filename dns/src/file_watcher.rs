//! A file that is read again when it changes.
//!
//! The file is polled, without inotify: in a container, such a path is a mount or a chain of symbolic links
//! (ConfigMap volumes) that are replaced. With each way of replacement the path resolves to another file.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::text_file;

#[derive(Debug)]
pub(crate) struct FileWatcher {
    path: PathBuf,
    seen: Option<Stamp>,
    /// Whether the last read failed.
    has_failed: bool,
}

/// The metadata that identify a version of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    Missing,
    File { device: u64, inode: u64, size: u64, changed: (i64, i64) },
}

impl FileWatcher {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None, has_failed: false }
    }

    /// The text on the first call, and when the file may have changed. Returns `None` otherwise. An error is
    /// returned once, and the read is retried: the cause may be this machine, such as too many open files.
    pub(crate) fn changed(&mut self) -> Option<io::Result<String>> {
        let stamp = Stamp::of(&self.path);
        let is_new = self.seen != Some(stamp);
        if !is_new && !self.has_failed {
            return None;
        }
        self.seen = Some(stamp);
        let read = text_file::read(&self.path);
        self.has_failed = read.is_err();
        (is_new || !self.has_failed).then_some(read)
    }
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Self {
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
        let mut watcher = FileWatcher::new(&path);
        assert!(watcher.changed().unwrap().is_err(), "missing");
        assert!(watcher.changed().is_none(), "still missing");
        fs::write(&path, "one").unwrap();
        assert_eq!(watcher.changed().unwrap().unwrap(), "one");
        assert!(watcher.changed().is_none(), "unchanged");
        let other = directory.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(watcher.changed().unwrap().unwrap(), "two", "another file of the same size");
        watcher.has_failed = true;
        assert_eq!(watcher.changed().unwrap().unwrap(), "two", "readable again");
        assert!(watcher.changed().is_none(), "unchanged");
    }
}

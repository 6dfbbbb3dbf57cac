//! The initramfs: a cpio archive in "newc" format, which the kernel unpacks into memory.
//! (Documentation/driver-api/early-userspace/buffer-format.rst)

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";

#[derive(Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
    paths: BTreeSet<String>,
}

impl Initramfs {
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.add(path, FILE, content);
    }

    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.add(path, PROGRAM, content);
    }

    /// Adds a directory and its parents: the kernel creates none itself.
    pub fn directory(&mut self, path: &str) {
        if !path.is_empty() && !self.has(path) {
            self.directory(parent(path));
            self.entry(path, DIRECTORY, &[]);
        }
    }

    pub fn has(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.archive
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.directory(parent(path));
        self.entry(path, mode, content);
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        self.paths.insert(path.to_owned());
        let size = u32::try_from(content.len()).expect("files of an initramfs are smaller than 4 GiB");
        let name = u32::try_from(path.len() + 1).expect("paths are short");
        // inode, mode, uid, gid, nlink, mtime, filesize, dev (2), rdev (2), namesize, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.archive.extend_from_slice(b"070701");
        for field in fields {
            self.archive.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.archive.extend_from_slice(path.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend_from_slice(content);
        self.pad();
    }

    /// Pads to a multiple of four, after each name and content.
    fn pad(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, mode and content of every entry, parsed by the kernel's rules.
    fn entries(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while !archive.is_empty() {
            assert_eq!(&archive[..6], b"070701");
            let text = |at: usize| std::str::from_utf8(&archive[6 + 8 * at..14 + 8 * at]).unwrap();
            let field = |at: usize| u32::from_str_radix(text(at), 16).unwrap();
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let content = (110 + name).next_multiple_of(4);
            let path = String::from_utf8(archive[110..109 + name].to_vec()).unwrap();
            entries.push((path, mode, archive[content..content + size].to_vec()));
            archive = &archive[(content + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn entries_are_readable_and_directories_precede_their_files() {
        let mut files = Initramfs::default();
        files.program("init", b"#!/bin/sh\n");
        files.file("a/b/c.ko", b"seven b");
        files.file("a/d.ko", b"");
        files.directory("a/e");
        let want = [
            ("init", PROGRAM, &b"#!/bin/sh\n"[..]),
            ("a", DIRECTORY, b""),
            ("a/b", DIRECTORY, b""),
            ("a/b/c.ko", FILE, b"seven b"),
            ("a/d.ko", FILE, b""),
            ("a/e", DIRECTORY, b""),
            (TRAILER, 0, b""),
        ];
        let want = want.map(|(path, mode, content)| (path.to_owned(), mode, content.to_vec()));
        assert_eq!(entries(&files.finish()), want);
    }
}

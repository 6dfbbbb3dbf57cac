//! A directory of YAML manifests as the source of objects, instead of an API server.
//!
//! Documents are independent: an invalid one is reported with its file and line, and the others are read.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use dns::text_file;

use crate::yaml;

mod document;
mod objects;
mod parallel;
mod strict;
pub mod watch;

pub use objects::{ManifestObject, Manifests};

#[derive(Debug, thiserror::Error)]
#[error("cannot read manifests from {path}", path = path.display())]
pub struct ManifestError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// As [`load`], and reports misspelt kinds and fields, as kubectl's strict validation does.
pub fn load_strictly(path: &Path) -> Result<Manifests, ManifestError> {
    let mut manifests = load(path)?;
    strict::check(path, &mut manifests).map_err(|source| ManifestError { path: path.to_owned(), source })?;
    Ok(manifests)
}

/// Reads a directory or one file.
pub fn load(path: &Path) -> Result<Manifests, ManifestError> {
    let read = if path.is_dir() { read_directory(path) } else { read_named(path) };
    let mut manifests = read.map_err(|source| ManifestError { path: path.to_owned(), source })?;
    manifests.drop_duplicates();
    Ok(manifests)
}

/// Reads the documents of a text. `file` is its name in messages.
pub fn parse(file: &str, text: &str) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.read_documents(file, text);
    manifests.drop_duplicates();
    manifests
}

fn read_directory(path: &Path) -> io::Result<Manifests> {
    let files = files(path)?;
    let mut manifests = Manifests::default();
    for read in parallel::map(&files, |file| read_file(file)) {
        manifests.objects.extend(read.objects);
        manifests.skipped.extend(read.skipped);
    }
    Ok(manifests)
}

/// Reads the one file named on the command line. Unlike a file of a directory, it must be readable, and it may be a pipe
/// (`kubectl get -o yaml`).
fn read_named(path: &Path) -> io::Result<Manifests> {
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Err(not_regular());
    }
    let mut manifests = Manifests::default();
    manifests.read_documents(&file_name(path), &text_file::text(fs::read(path)?)?);
    Ok(manifests)
}

/// The manifest files of a directory, sorted. Hidden entries are excluded: ConfigMap mounts keep their versions there.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if is_manifest(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json")) && !path.is_dir()
}

fn read_file(path: &Path) -> Manifests {
    let name = file_name(path);
    let mut manifests = Manifests::default();
    match text(path) {
        Ok(text) => manifests.read_documents(&name, &text),
        Err(error) => manifests.skip(&name, error),
    }
    manifests
}

fn text(path: &Path) -> io::Result<String> {
    // Opening a pipe or a device could block.
    if !fs::metadata(path)?.is_file() {
        return Err(not_regular());
    }
    text_file::read(path)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn not_regular() -> io::Error {
    io::Error::other("not a regular file")
}

impl Manifests {
    fn read_documents(&mut self, file: &str, text: &str) {
        let documents: Vec<_> = yaml::split(text).collect();
        let chunks: Vec<_> = documents.chunks(256).collect();
        for read in parallel::map(&chunks, |chunk| read_chunk(file, chunk)) {
            self.objects.extend(read.objects);
            self.skipped.extend(read.skipped);
        }
    }
}

fn read_chunk(file: &str, documents: &[yaml::Document<'_>]) -> Manifests {
    let mut manifests = Manifests::default();
    for document in documents {
        document::read(document, file, &mut manifests);
    }
    manifests
}

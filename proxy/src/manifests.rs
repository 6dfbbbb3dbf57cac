//! A directory of YAML manifests as the source of objects, instead of an API server.
//!
//! Documents are independent: an invalid one is reported with its file and line, and the others are read.

use std::{
    collections::HashMap,
    fs, io,
    num::NonZeroUsize,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    index::Index,
    k8s::{
        self, ObjectError,
        object::{Object, ObjectId},
    },
    model::policy::Policy,
    update::Skipped,
};

mod document;
mod tree;
pub mod watch;

#[derive(Debug, thiserror::Error)]
#[error("cannot read manifests from {path}", path = path.display())]
pub struct ManifestError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An object and its location, `file:line`.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestObject {
    pub location: String,
    pub object: Object,
}

impl ManifestObject {
    /// Location and id, for messages.
    pub fn describe(&self) -> String {
        match self.object.id() {
            Ok(id) => format!("{}: {id}", self.location),
            Err(_) => format!("{}: {}", self.location, self.object.kind().name()),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    pub objects: Vec<ManifestObject>,
    pub skipped: Vec<Skipped>,
}

/// Reads a directory or one file.
pub fn load(path: &Path) -> Result<Manifests, ManifestError> {
    let read = if path.is_dir() { read_directory(path) } else { read_named(path) };
    let mut manifests = read.map_err(|source| ManifestError { path: path.to_owned(), source })?;
    manifests.drop_duplicates();
    Ok(manifests)
}

fn read_directory(path: &Path) -> io::Result<Manifests> {
    let files = files(path)?;
    let mut manifests = Manifests::default();
    for read in in_parallel(&files, |file| read_file(file)) {
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
    manifests.read_documents(&file_name(path), &utf8(fs::read(path)?)?);
    Ok(manifests)
}

impl Manifests {
    fn skip(&mut self, object: impl Into<String>, reason: impl ToString) {
        self.skipped.push(Skipped { object: object.into(), reason: reason.to_string() });
    }

    /// Builds the index of all usable objects. Also returns the skipped ones.
    pub fn to_index(&self, policy: Policy) -> (Index, Vec<Skipped>) {
        let changes = in_parallel(&self.objects, |found| found.object.change(&policy.node_name));
        let mut index = Index::new(policy);
        let mut skipped = self.skipped.clone();
        for (found, change) in self.objects.iter().zip(changes) {
            let skip = |error: ObjectError| Skipped { object: found.describe(), reason: error.to_string() };
            match change {
                Ok(Some(read)) => {
                    skipped.extend(read.ignored.into_iter().map(skip));
                    index.apply(read.value);
                }
                Ok(None) => {}
                Err(error) => skipped.push(skip(error)),
            }
        }
        for Skipped { object, reason } in &skipped {
            tracing::warn!(object, reason, "object skipped");
        }
        (index, skipped)
    }

    /// Counts the DNS records of these objects.
    pub fn dns_records(&self) -> usize {
        k8s::dns::records(self.objects.iter().map(|found| &found.object))
    }

    /// Drops all but the first definition of each object, in the order of file names.
    fn drop_duplicates(&mut self) {
        let mut locations: HashMap<ObjectId, String> = HashMap::new();
        for found in std::mem::take(&mut self.objects) {
            match found.object.id() {
                Ok(id) => match locations.get(&id) {
                    Some(first) => {
                        let reason = format!("already defined in {first}");
                        self.skip(found.describe(), reason);
                        continue;
                    }
                    None => drop(locations.insert(id, found.location.clone())),
                },
                Err(error) => {
                    self.skip(found.describe(), error);
                    continue;
                }
            }
            self.objects.push(found);
        }
    }
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
    utf8(fs::read(path)?)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))
}

fn not_regular() -> io::Error {
    io::Error::other("not a regular file")
}

impl Manifests {
    fn read_documents(&mut self, file: &str, text: &str) {
        let documents: Vec<_> = document::split(text).collect();
        let chunks: Vec<_> = documents.chunks(256).collect();
        for read in in_parallel(&chunks, |chunk| read_chunk(file, chunk)) {
            self.objects.extend(read.objects);
            self.skipped.extend(read.skipped);
        }
    }
}

fn read_chunk(file: &str, documents: &[document::Document<'_>]) -> Manifests {
    let mut manifests = Manifests::default();
    for document in documents {
        document::read(document, file, &mut manifests);
    }
    manifests
}

/// Maps in order, on one thread per processor.
fn in_parallel<T: Sync, U: Send>(items: &[T], read: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = items.len().div_ceil(threads).max(1);
    if items.len() < 2 || threads == 1 {
        return items.iter().map(read).collect();
    }
    thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(share)
            .map(|share| scope.spawn(|| share.iter().map(&read).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

//! A directory of manifests as a source of changes (file watcher).
//!
//! Only changed files are read again, and only changed objects cause an update. An invalid new version of an object leaves
//! the old one in place, as with an API server: a typo in a file must not delete the Services in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};

use super::{ManifestError, files, is_manifest, read_file};
use crate::{
    k8s::{
        object::ObjectId,
        reader::{ObjectChanges, Reader},
    },
    update::{Skipped, Update},
};

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error(transparent)]
    Read(#[from] ManifestError),
    #[error("cannot watch {path}")]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
}

/// Reads the directory, and calls `send` with its objects and every later change. The first update holds all objects.
/// `send` returns `false` to end the watch.
pub fn watch(
    path: &Path,
    reader: Reader,
    mut send: impl FnMut(Update) -> bool + Send + 'static,
) -> Result<(), WatchError> {
    // notify reports absolute paths.
    let path = std::path::absolute(path).map_err(|source| ManifestError { path: path.to_owned(), source })?;
    let mut watcher = DirectoryWatcher::new(&path)?;
    // Watch before reading, so that a file that changes during the first read is read again.
    let mut directory = Directory::new(&path, reader);
    let first = Update { is_synced: true, ..directory.rescan()? };
    thread::spawn(move || {
        if send(first) {
            run(&mut directory, &mut watcher, send);
        }
    });
    Ok(())
}

/// Interval of the check whether the path still leads to the watched directory.
const IDENTITY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// An inotify watch on a directory. inotify watches the inode, not the path, so a replaced directory needs a new watch.
struct DirectoryWatcher {
    path: PathBuf,
    watcher: RecommendedWatcher,
    events: mpsc::Receiver<notify::Result<Event>>,
    /// Device and inode of the watched directory.
    identity: Option<(u64, u64)>,
}

impl DirectoryWatcher {
    fn new(path: &Path) -> Result<Self, WatchError> {
        let watch_error = |source| WatchError::Watch { path: path.to_owned(), source };
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event| {
            // The receiver is dropped when the agent ends.
            let _ = sender.send(event);
        })
        .map_err(watch_error)?;
        watcher.watch(directory_of(path), RecursiveMode::NonRecursive).map_err(watch_error)?;
        Ok(Self { path: path.to_owned(), watcher, events, identity: identity(path) })
    }

    /// Waits for events, at most for the check interval. Returns `None` if there will be no more.
    fn next(&self) -> Option<FileChanges> {
        let mut changes = FileChanges::default();
        match self.events.recv_timeout(IDENTITY_CHECK_INTERVAL) {
            Ok(event) => {
                // All pending events go into one update.
                for event in std::iter::once(event).chain(self.events.try_iter()) {
                    changes.add(event, &self.path);
                }
                Some(changes)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Some(changes),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Watches the new directory if the path leads to another one. Returns `false` if there is no other directory.
    fn rewatch(&mut self) -> bool {
        let now = identity(&self.path);
        if now.is_none() || now == self.identity {
            return false;
        }
        let directory = directory_of(&self.path);
        // Fails if the watch ended with the deletion of the old directory.
        let _ = self.watcher.unwatch(directory);
        match self.watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => {
                tracing::info!(path = %self.path.display(), "manifest directory replaced, reading the new one");
                self.identity = now;
                true
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "cannot watch the manifest directory, will retry");
                false
            }
        }
    }
}

/// Device and inode of the directory at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory_of(path)).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn run(directory: &mut Directory, watcher: &mut DirectoryWatcher, mut send: impl FnMut(Update) -> bool) {
    while let Some(mut changes) = watcher.next() {
        changes.all |= watcher.rewatch();
        match directory.apply(changes) {
            Ok(update) if update.is_empty() => {}
            Ok(update) => {
                if !send(update) {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "cannot read the manifests, keeping the known objects");
            }
        }
    }
}

/// The directory to watch: that of a file if the path is a file, because editors replace files.
fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() { path } else { parent.unwrap_or(Path::new(".")) }
}

/// The files that events name.
#[derive(Debug, Default)]
struct FileChanges {
    files: BTreeSet<PathBuf>,
    /// An event did not name its files: read all.
    all: bool,
}

impl FileChanges {
    fn add(&mut self, event: notify::Result<Event>, root: &Path) {
        let Ok(event) = event else {
            self.all = true;
            return;
        };
        if event.need_rescan() {
            self.all = true;
        }
        for path in event.paths.iter().filter(|path| is_complete(&event.kind, path)) {
            // A mounted ConfigMap is updated by replacing the hidden symbolic link `..data`.
            let is_file = path.extension().is_some() && !is_hidden(path) && path != root;
            self.all |= !is_file;
            self.files.insert(path.clone());
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Whether the file is complete after this event. A written file gets another event when it is closed; a link is
/// complete at once.
fn is_complete(kind: &EventKind, path: &Path) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_)) => {
            true
        }
        EventKind::Create(CreateKind::File | CreateKind::Any | CreateKind::Other) => is_link(path),
        EventKind::Remove(_) | EventKind::Other => true,
        EventKind::Access(_)
        | EventKind::Create(CreateKind::Folder)
        | EventKind::Modify(_)
        | EventKind::Any => false,
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

/// The objects of all files when they were last read.
#[derive(Debug)]
struct Directory {
    root: PathBuf,
    reader: Reader,
    files: BTreeMap<PathBuf, FileState>,
    /// The files that define an object. The first by name counts.
    definitions: HashMap<ObjectId, BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct FileState {
    objects: BTreeMap<ObjectId, ObjectChanges>,
    skipped: Vec<Skipped>,
}

impl Directory {
    fn new(path: &Path, reader: Reader) -> Self {
        Self { root: path.to_owned(), reader, files: BTreeMap::new(), definitions: HashMap::new() }
    }

    fn apply(&mut self, changes: FileChanges) -> Result<Update, ManifestError> {
        if changes.all {
            return self.rescan();
        }
        let is_single = self.root.is_file();
        let is_relevant =
            |path: &PathBuf| if is_single { *path == self.root } else { is_manifest_name(path) };
        let paths: Vec<_> = changes.files.into_iter().filter(is_relevant).collect();
        Ok(self.reread(paths))
    }

    /// Reads all files and drops the deleted ones.
    fn rescan(&mut self) -> Result<Update, ManifestError> {
        let existing =
            files(&self.root).map_err(|source| ManifestError { path: self.root.clone(), source })?;
        let paths: BTreeSet<PathBuf> = existing.into_iter().chain(self.files.keys().cloned()).collect();
        Ok(self.reread(paths))
    }

    fn reread(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Update {
        let mut before: BTreeMap<ObjectId, ObjectChanges> = BTreeMap::new();
        let mut update = Update::default();
        for path in paths {
            let old = self.files.get(&path);
            let exists = path.exists() && is_manifest(&path);
            let new = if exists { self.read(&path, old) } else { FileState::default() };
            let old_ids = old.into_iter().flat_map(|old| old.objects.keys());
            let ids: BTreeSet<ObjectId> = old_ids.chain(new.objects.keys()).cloned().collect();
            for id in ids {
                let current = self.current(&id).cloned();
                before.entry(id).or_insert(current.unwrap_or_default());
            }
            update.skipped.extend(new_skips(old, &new));
            self.replace(path, new);
        }
        update.skipped.extend(self.duplicates(before.keys()));
        for (id, before) in before {
            let ObjectChanges { index, dns } = self.difference(&id, before);
            update.changes.extend(index);
            update.names.extend(dns);
        }
        update
    }

    fn read(&self, path: &Path, old: Option<&FileState>) -> FileState {
        let manifests = read_file(path);
        let has_errors = !manifests.skipped.is_empty();
        let mut state = FileState { objects: BTreeMap::new(), skipped: manifests.skipped };
        let earlier = |id: &ObjectId| old.and_then(|old| old.objects.get(id)).cloned();
        for found in manifests.objects {
            let skip = |reason: String| Skipped::invalid(found.describe(), reason);
            let id = match found.object.id() {
                Ok(id) => id,
                Err(error) => {
                    state.skipped.push(skip(error.to_string()));
                    continue;
                }
            };
            let index = match self.reader.index_change(&found.object) {
                Ok(read) => read.map(|read| {
                    state.skipped.extend(read.ignored.iter().map(|error| skip(error.to_string())));
                    read.value
                }),
                Err(error) => {
                    state.skipped.push(skip(error.to_string()));
                    earlier(&id).and_then(|earlier| earlier.index)
                }
            };
            let changes = ObjectChanges { index, dns: self.reader.dns_change(&found.object) };
            if !changes.is_empty() {
                state.objects.entry(id).or_insert(changes);
            }
        }
        if has_errors {
            for (id, changes) in old.into_iter().flat_map(|old| &old.objects) {
                state.objects.entry(id.clone()).or_insert_with(|| changes.clone());
            }
        }
        state
    }

    fn replace(&mut self, path: PathBuf, new: FileState) {
        let old = self.files.remove(&path).unwrap_or_default();
        for id in old.objects.keys().filter(|id| !new.objects.contains_key(id)) {
            if let Some(files) = self.definitions.get_mut(id) {
                files.remove(&path);
            }
        }
        for id in new.objects.keys() {
            self.definitions.entry(id.clone()).or_default().insert(path.clone());
        }
        if path.exists() {
            self.files.insert(path, new);
        }
    }

    fn current(&self, id: &ObjectId) -> Option<&ObjectChanges> {
        let path = self.definitions.get(id)?.first()?;
        self.files.get(path)?.objects.get(id)
    }

    /// Returns the changes since `before`. Drops the entry of a deleted object.
    fn difference(&mut self, id: &ObjectId, before: ObjectChanges) -> ObjectChanges {
        let now = self.current(id).cloned();
        if now.is_none() {
            self.definitions.remove(id);
        }
        let now = now.unwrap_or_default();
        let removal = self.reader.removal(id);
        ObjectChanges {
            index: difference(now.index, before.index, removal.index),
            dns: difference(now.dns, before.dns, removal.dns),
        }
    }

    fn duplicates<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>) -> Vec<Skipped> {
        let mut skipped = Vec::new();
        for id in ids {
            let files = self.definitions.get(id).into_iter().flatten();
            let mut names = files.map(|path| path.file_name().unwrap_or_default().to_string_lossy());
            let Some(first) = names.next() else { continue };
            skipped.extend(names.map(|name| {
                Skipped::invalid(format!("{name}: {id}"), format!("already defined in {first}"))
            }));
        }
        skipped
    }
}

/// Returns the change from `before` to `now`: `now`, or `removal` if the object is deleted. `None` if nothing changed.
fn difference<T: PartialEq>(now: Option<T>, before: Option<T>, removal: Option<T>) -> Option<T> {
    if now == before { None } else { now.or(removal) }
}

/// Whether a path names a manifest, even if the file was deleted.
fn is_manifest_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The skipped objects that were not reported before.
fn new_skips(old: Option<&FileState>, new: &FileState) -> Vec<Skipped> {
    let known = |skip: &&Skipped| !old.is_some_and(|old| old.skipped.contains(skip));
    new.skipped.iter().filter(known).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";

    fn reader() -> Reader {
        Reader { node_name: "node-1".to_owned(), dns: None }
    }

    struct Fixture {
        dir: tempfile::TempDir,
        directory: Directory,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let directory = Directory::new(dir.path(), reader());
            Self { dir, directory }
        }

        /// The changes and skipped objects after a file was written, or removed if `text` is `None`.
        fn after(&mut self, file: &str, text: Option<&str>) -> (usize, Vec<String>) {
            let path = self.dir.path().join(file);
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let files = BTreeSet::from([path]);
            let update = self.directory.apply(FileChanges { files, all: false }).unwrap();
            (update.changes.len(), update.skipped.into_iter().map(|skip| skip.object).collect())
        }
    }

    #[test]
    fn only_differences_are_sent() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.after("web.yaml", Some(WEB)), (1, vec![]));
        assert_eq!(fixture.after("web.yaml", Some(WEB)), (0, vec![]));
        assert_eq!(fixture.after("web.yaml", Some(&WEB.replace("80", "81"))), (1, vec![]));
        assert_eq!(fixture.after("web.yaml", None), (1, vec![]));
        assert!(fixture.directory.definitions.is_empty() && fixture.directory.files.is_empty());
    }

    #[test]
    fn an_invalid_new_version_of_a_file_keeps_its_objects() {
        let mut fixture = Fixture::new();
        fixture.after("web.yaml", Some(WEB));
        let (changes, skipped) = fixture.after("web.yaml", Some("kind: [unclosed"));
        assert_eq!((changes, skipped.len()), (0, 1));
        let (changes, skipped) = fixture.after("web.yaml", Some(&WEB.replace("80", "0")));
        assert_eq!((changes, skipped), (0, vec!["web.yaml:1: Service shop/web".to_owned()]));
        assert_eq!(fixture.after("web.yaml", Some("")).0, 1, "an empty file holds nothing");
    }

    #[test]
    fn the_first_of_two_definitions_counts_until_it_is_removed() {
        let mut fixture = Fixture::new();
        fixture.after("b.yaml", Some(&WEB.replace("80", "81")));
        assert_eq!(fixture.after("a.yaml", Some(WEB)), (1, vec!["b.yaml: Service shop/web".to_owned()]));
        assert_eq!(fixture.after("b.yaml", Some(&WEB.replace("80", "82"))).0, 0);
        assert_eq!(fixture.after("a.yaml", None), (1, vec![]));
    }

    #[test]
    fn a_rescan_finds_changes_without_events() {
        let mut fixture = Fixture::new();
        fixture.after("web.yaml", Some(WEB));
        fs::rename(fixture.dir.path().join("web.yaml"), fixture.dir.path().join("other.yaml")).unwrap();
        assert_eq!(fixture.directory.rescan().unwrap().changes.len(), 0);
        fs::remove_file(fixture.dir.path().join("other.yaml")).unwrap();
        assert_eq!(fixture.directory.rescan().unwrap().changes.len(), 1);
    }

    #[test]
    fn a_replaced_directory_is_read_and_watched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("manifests");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("web.yaml"), WEB).unwrap();
        let (sender, updates) = mpsc::channel();
        watch(&root, reader(), move |update| sender.send(update.changes.len()).is_ok()).unwrap();
        assert_eq!(updates.recv().unwrap(), 1);
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("web.yaml"), WEB.replace("80", "81")).unwrap();
        fs::rename(&root, dir.path().join("old")).unwrap();
        fs::rename(&other, &root).unwrap();
        assert_eq!(updates.recv().unwrap(), 1, "the objects of the new directory");
        fs::remove_file(root.join("web.yaml")).unwrap();
        assert_eq!(updates.recv().unwrap(), 1, "and changes in it");
    }

    #[test]
    fn relative_paths_are_watched_too() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let relative = Path::new(dir.path().file_name().unwrap());
        fs::write(relative.join("web.yaml"), WEB).unwrap();
        let (sender, updates) = mpsc::channel();
        watch(relative, reader(), move |update| sender.send(update.changes.len()).is_ok()).unwrap();
        assert_eq!(updates.recv().unwrap(), 1);
        fs::remove_file(relative.join("web.yaml")).unwrap();
        assert_eq!(updates.recv().unwrap(), 1, "the Service is removed with its file");
    }

    #[test]
    fn changes_arrive_while_watching() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, updates) = mpsc::channel();
        watch(dir.path(), reader(), move |update| sender.send(update.changes.len()).is_ok()).unwrap();
        assert_eq!(updates.recv().unwrap(), 0);
        fs::write(dir.path().join("web.yaml"), WEB).unwrap();
        assert_eq!(updates.recv().unwrap(), 1);
        let hidden = dir.path().join(".web.yaml.new");
        fs::write(&hidden, WEB.replace("80", "81")).unwrap();
        fs::rename(&hidden, dir.path().join("web.yaml")).unwrap();
        assert_eq!(updates.recv().unwrap(), 1);
    }
}

//! A directory of manifests as a source of changes, for as long as the agent runs.
//!
//! Only files that changed are read again, and only objects that differ are passed on. An update that cannot be read
//! leaves its object as it was, as an API server would: a typo in a file must not cut off the Services in it.

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
        reader::{Meaning, Reader},
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

/// Reads the directory, and passes on its objects and every later change to them. The first update holds everything.
pub fn watch(
    path: &Path,
    reader: Reader,
    mut pass_on: impl FnMut(Update) -> bool + Send + 'static,
) -> Result<(), WatchError> {
    // Events name files by absolute paths, so that is how they are known here too.
    let path = std::path::absolute(path).map_err(|source| ManifestError { path: path.to_owned(), source })?;
    let mut watch = Watch::new(&path)?;
    // The watch comes first: what changes while the directory is read is read again.
    let mut directory = Directory::new(&path, reader);
    let first = Update { is_synced: true, ..directory.rescan()? };
    thread::spawn(move || {
        if pass_on(first) {
            follow(&mut directory, &mut watch, pass_on);
        }
    });
    Ok(())
}

/// How often it is looked whether the directory is still the one that is watched.
const STILL_THERE: Duration = Duration::from_secs(1);

/// The kernel watches a directory, not a path: one that was put in its place is another.
struct Watch {
    path: PathBuf,
    watcher: RecommendedWatcher,
    events: mpsc::Receiver<notify::Result<Event>>,
    identity: Option<(u64, u64)>,
}

impl Watch {
    fn new(path: &Path) -> Result<Self, WatchError> {
        let watch_error = |source| WatchError::Watch { path: path.to_owned(), source };
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event| {
            // The receiver ends with the agent.
            let _ = sender.send(event);
        })
        .map_err(watch_error)?;
        watcher.watch(directory_of(path), RecursiveMode::NonRecursive).map_err(watch_error)?;
        Ok(Self { path: path.to_owned(), watcher, events, identity: identity(path) })
    }

    /// The next events, or nothing for a while; `None` when there will be no more.
    fn next(&self) -> Option<Touched> {
        let mut touched = Touched::default();
        match self.events.recv_timeout(STILL_THERE) {
            Ok(event) => {
                // Whatever has come meanwhile belongs to the same update.
                for event in std::iter::once(event).chain(self.events.try_iter()) {
                    touched.add(event, &self.path);
                }
                Some(touched)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Some(touched),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Watches what is in the place of the directory now; `false` while nothing is, or nothing else.
    fn move_on(&mut self) -> bool {
        let now = identity(&self.path);
        if now.is_none() || now == self.identity {
            return false;
        }
        let directory = directory_of(&self.path);
        // The watch on the old one ended with it, or goes here.
        let _ = self.watcher.unwatch(directory);
        match self.watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => {
                tracing::info!(path = %self.path.display(), "manifests were replaced, reading what is there now");
                self.identity = now;
                true
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "manifests not watched, will retry");
                false
            }
        }
    }
}

/// Which directory a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory_of(path)).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn follow(directory: &mut Directory, watch: &mut Watch, mut pass_on: impl FnMut(Update) -> bool) {
    while let Some(mut touched) = watch.next() {
        touched.all |= watch.move_on();
        match directory.apply(touched) {
            Ok(update) if update.is_empty() => {}
            Ok(update) => {
                if !pass_on(update) {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "manifests unreadable, keeping what is known");
            }
        }
    }
}

/// A directory is watched as it is, a file through the directory it is in: editors replace files.
fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() { path } else { parent.unwrap_or(Path::new(".")) }
}

/// Which files events are about.
#[derive(Debug, Default)]
struct Touched {
    files: BTreeSet<PathBuf>,
    /// Something happened that does not name the files it concerns.
    all: bool,
}

impl Touched {
    fn add(&mut self, event: notify::Result<Event>, root: &Path) {
        let Ok(event) = event else {
            self.all = true;
            return;
        };
        if event.need_rescan() {
            self.all = true;
        }
        for path in event.paths.iter().filter(|path| is_settled(&event.kind, path)) {
            // A mounted ConfigMap is replaced by the switch of one hidden link.
            let is_file = path.extension().is_some() && !is_hidden(path) && path != root;
            self.all |= !is_file;
            self.files.insert(path.clone());
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Whether the file is whole after this event. A file that is being written says so once more when it is closed; a
/// link is whole at once.
fn is_settled(kind: &EventKind, path: &Path) -> bool {
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

/// What the files said when they were last read.
#[derive(Debug)]
struct Directory {
    root: PathBuf,
    reader: Reader,
    files: BTreeMap<PathBuf, FileState>,
    /// Which files define an object. The first by name counts.
    holders: HashMap<ObjectId, BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct FileState {
    meanings: BTreeMap<ObjectId, Meaning>,
    skipped: Vec<Skipped>,
}

impl Directory {
    fn new(path: &Path, reader: Reader) -> Self {
        Self { root: path.to_owned(), reader, files: BTreeMap::new(), holders: HashMap::new() }
    }

    fn apply(&mut self, touched: Touched) -> Result<Update, ManifestError> {
        if touched.all {
            return self.rescan();
        }
        let is_single = self.root.is_file();
        let concerns_us =
            |path: &PathBuf| if is_single { *path == self.root } else { is_manifest_name(path) };
        let paths: Vec<_> = touched.files.into_iter().filter(concerns_us).collect();
        Ok(self.reread(paths))
    }

    /// Reads everything, and forgets the files that are gone.
    fn rescan(&mut self) -> Result<Update, ManifestError> {
        let found = files(&self.root).map_err(|source| ManifestError { path: self.root.clone(), source })?;
        let paths: BTreeSet<PathBuf> = found.into_iter().chain(self.files.keys().cloned()).collect();
        Ok(self.reread(paths))
    }

    fn reread(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Update {
        let mut before: BTreeMap<ObjectId, Meaning> = BTreeMap::new();
        let mut update = Update::default();
        for path in paths {
            let old = self.files.get(&path);
            let is_there = path.exists() && is_manifest(&path);
            let new = if is_there { self.read(&path, old) } else { FileState::default() };
            let old_ids = old.into_iter().flat_map(|old| old.meanings.keys());
            let ids: BTreeSet<ObjectId> = old_ids.chain(new.meanings.keys()).cloned().collect();
            for id in ids {
                let current = self.current(&id).cloned();
                before.entry(id).or_insert(current.unwrap_or_default());
            }
            update.skipped.extend(new_skips(old, &new));
            self.replace(path, new);
        }
        update.skipped.extend(self.duplicates(before.keys()));
        for (id, before) in before {
            let Meaning { change, names } = self.difference(&id, before);
            update.changes.extend(change);
            update.names.extend(names);
        }
        update
    }

    fn read(&self, path: &Path, old: Option<&FileState>) -> FileState {
        let manifests = read_file(path);
        let was_unreadable = !manifests.skipped.is_empty();
        let mut state = FileState { meanings: BTreeMap::new(), skipped: manifests.skipped };
        let earlier = |id: &ObjectId| old.and_then(|old| old.meanings.get(id)).cloned();
        for found in manifests.objects {
            let skip = |reason: String| Skipped { object: found.describe(), reason };
            let id = match found.object.id() {
                Ok(id) => id,
                Err(error) => {
                    state.skipped.push(skip(error.to_string()));
                    continue;
                }
            };
            let change = match self.reader.change(&found.object) {
                Ok(read) => read.map(|read| {
                    state.skipped.extend(read.left_out.iter().map(|error| skip(error.to_string())));
                    read.value
                }),
                Err(error) => {
                    state.skipped.push(skip(error.to_string()));
                    earlier(&id).and_then(|earlier| earlier.change)
                }
            };
            let meaning = Meaning { change, names: self.reader.names(&found.object) };
            if !meaning.is_nothing() {
                state.meanings.entry(id).or_insert(meaning);
            }
        }
        if was_unreadable {
            for (id, meaning) in old.into_iter().flat_map(|old| &old.meanings) {
                state.meanings.entry(id.clone()).or_insert_with(|| meaning.clone());
            }
        }
        state
    }

    fn replace(&mut self, path: PathBuf, new: FileState) {
        let old = self.files.remove(&path).unwrap_or_default();
        for id in old.meanings.keys().filter(|id| !new.meanings.contains_key(id)) {
            if let Some(holders) = self.holders.get_mut(id) {
                holders.remove(&path);
            }
        }
        for id in new.meanings.keys() {
            self.holders.entry(id.clone()).or_default().insert(path.clone());
        }
        if path.exists() {
            self.files.insert(path, new);
        }
    }

    fn current(&self, id: &ObjectId) -> Option<&Meaning> {
        let path = self.holders.get(id)?.first()?;
        self.files.get(path)?.meanings.get(id)
    }

    fn difference(&mut self, id: &ObjectId, before: Meaning) -> Meaning {
        let now = self.current(id).cloned();
        if now.is_none() {
            self.holders.remove(id);
        }
        let now = now.unwrap_or_default();
        let gone = self.reader.removal(id);
        Meaning {
            change: news(now.change, before.change, gone.change),
            names: news(now.names, before.names, gone.names),
        }
    }

    fn duplicates<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>) -> Vec<Skipped> {
        let mut skipped = Vec::new();
        for id in ids {
            let holders = self.holders.get(id).into_iter().flatten();
            let mut names = holders.map(|path| path.file_name().unwrap_or_default().to_string_lossy());
            let Some(first) = names.next() else { continue };
            skipped.extend(names.map(|name| Skipped {
                object: format!("{name}: {id}"),
                reason: format!("it is defined in {first} already"),
            }));
        }
        skipped
    }
}

/// What must be heard of `now`, or that it is `gone`, by who heard `before`.
fn news<T: PartialEq>(now: Option<T>, before: Option<T>, gone: Option<T>) -> Option<T> {
    if now == before { None } else { now.or(gone) }
}

/// A file that is gone is no file, but its name tells that it was a manifest.
fn is_manifest_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// What was not complained about before.
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

        /// What the directory passes on after a file was written (or removed, without text).
        fn after(&mut self, file: &str, text: Option<&str>) -> (usize, Vec<String>) {
            let path = self.dir.path().join(file);
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let files = BTreeSet::from([path]);
            let update = self.directory.apply(Touched { files, all: false }).unwrap();
            (update.changes.len(), update.skipped.into_iter().map(|skip| skip.object).collect())
        }
    }

    #[test]
    fn only_differences_are_passed_on() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.after("web.yaml", Some(WEB)), (1, vec![]));
        assert_eq!(fixture.after("web.yaml", Some(WEB)), (0, vec![]));
        assert_eq!(fixture.after("web.yaml", Some(&WEB.replace("80", "81"))), (1, vec![]));
        assert_eq!(fixture.after("web.yaml", None), (1, vec![]));
        assert!(fixture.directory.holders.is_empty() && fixture.directory.files.is_empty());
    }

    #[test]
    fn a_file_that_became_unreadable_leaves_its_objects_alone() {
        let mut fixture = Fixture::new();
        fixture.after("web.yaml", Some(WEB));
        let (changes, skipped) = fixture.after("web.yaml", Some("kind: [unclosed"));
        assert_eq!((changes, skipped.len()), (0, 1));
        let (changes, skipped) = fixture.after("web.yaml", Some(&WEB.replace("80", "0")));
        assert_eq!((changes, skipped), (0, vec!["web.yaml:1: Service shop/web".to_owned()]));
        assert_eq!(fixture.after("web.yaml", Some("")).0, 1, "an empty file holds nothing");
    }

    #[test]
    fn the_first_of_two_definitions_counts_until_it_goes() {
        let mut fixture = Fixture::new();
        fixture.after("b.yaml", Some(&WEB.replace("80", "81")));
        assert_eq!(fixture.after("a.yaml", Some(WEB)), (1, vec!["b.yaml: Service shop/web".to_owned()]));
        assert_eq!(fixture.after("b.yaml", Some(&WEB.replace("80", "82"))).0, 0);
        assert_eq!(fixture.after("a.yaml", None), (1, vec![]));
    }

    #[test]
    fn a_rescan_finds_what_events_did_not_tell() {
        let mut fixture = Fixture::new();
        fixture.after("web.yaml", Some(WEB));
        fs::rename(fixture.dir.path().join("web.yaml"), fixture.dir.path().join("other.yaml")).unwrap();
        assert_eq!(fixture.directory.rescan().unwrap().changes.len(), 0);
        fs::remove_file(fixture.dir.path().join("other.yaml")).unwrap();
        assert_eq!(fixture.directory.rescan().unwrap().changes.len(), 1);
    }

    #[test]
    fn a_directory_that_was_replaced_is_read_and_watched() {
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
        assert_eq!(updates.recv().unwrap(), 1, "what is there now");
        fs::remove_file(root.join("web.yaml")).unwrap();
        assert_eq!(updates.recv().unwrap(), 1, "and what becomes of it");
    }

    #[test]
    fn relative_paths_are_followed_too() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let relative = Path::new(dir.path().file_name().unwrap());
        fs::write(relative.join("web.yaml"), WEB).unwrap();
        let (sender, updates) = mpsc::channel();
        watch(relative, reader(), move |update| sender.send(update.changes.len()).is_ok()).unwrap();
        assert_eq!(updates.recv().unwrap(), 1);
        fs::remove_file(relative.join("web.yaml")).unwrap();
        assert_eq!(updates.recv().unwrap(), 1, "the Service goes with its file");
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

//! The configuration file, watched. It is read at the start only, so a change ends the agent, to be
//! restarted.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

use crate::config::WatchedFile;

pub struct ConfigFileWatch {
    file: WatchedFile,
    /// An event in the file's directory, or the initial check.
    touched: mpsc::Receiver<()>,
    /// Dropping it ends the watch.
    _watcher: RecommendedWatcher,
}

impl ConfigFileWatch {
    pub fn new(file: WatchedFile) -> Result<Self> {
        let (sender, touched) = mpsc::channel(1);
        // The file was read before the watch started.
        sender.try_send(())?;
        let mut watcher = notify::recommended_watcher(move |event| {
            if may_be_change(&event) {
                // One pending event suffices, and the receiver ends with the agent.
                let _ = sender.try_send(());
            }
        })?;
        // The file may be a symlink that is replaced (as in a mounted ConfigMap), or whose target is.
        let target =
            fs::canonicalize(&file.path).with_context(|| format!("cannot find {}", file.path.display()))?;
        for path in [file.path.as_path(), target.as_path()] {
            let directory = directory_of(path);
            watcher
                .watch(directory, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", directory.display()))?;
        }
        Ok(Self { file, touched, _watcher: watcher })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Returns once the content has changed. A missing file is being replaced and does not count.
    pub async fn changed(&mut self) {
        while self.touched.recv().await.is_some() {
            if self.differs() {
                return;
            }
        }
        std::future::pending().await
    }

    fn differs(&self) -> bool {
        fs::read_to_string(&self.file.path).is_ok_and(|now| now != self.file.text)
    }
}

/// Whether an event may be a change. Opening a file causes an event, too, and reading on each of those would
/// loop.
fn may_be_change(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(Event { kind: EventKind::Access(AccessKind::Close(AccessMode::Write)), .. }) => true,
        Ok(Event { kind: EventKind::Access(_), .. }) => false,
        // Lost events may have been changes.
        Ok(_) | Err(_) => true,
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, os::unix::fs::symlink, pin::pin, task};

    use super::*;

    fn watch(path: &Path) -> ConfigFileWatch {
        let text = fs::read_to_string(path).unwrap();
        ConfigFileWatch::new(WatchedFile { path: path.to_owned(), text }).unwrap()
    }

    fn is_pending(watch: &mut ConfigFileWatch) -> bool {
        let changed = pin!(watch.changed());
        changed.poll(&mut task::Context::from_waker(task::Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn only_another_content_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        fs::write(&path, "a").unwrap();
        let mut watch = watch(&path);
        assert!(is_pending(&mut watch));
        fs::write(&path, "a").unwrap();
        assert!(is_pending(&mut watch));
        fs::remove_file(&path).unwrap();
        assert!(is_pending(&mut watch));
        fs::write(&path, "b").unwrap();
        watch.changed().await;
    }

    #[test]
    fn reading_the_file_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        fs::write(&path, "a").unwrap();
        let (sender, events) = std::sync::mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let _ = sender.send((may_be_change(&event), event));
        })
        .unwrap();
        watcher.watch(dir.path(), RecursiveMode::NonRecursive).unwrap();
        fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_, first) = events.iter().find(|(is_change, _)| *is_change).unwrap();
        assert!(matches!(first, Ok(Event { kind: EventKind::Remove(_), .. })), "{first:?}");
    }

    #[tokio::test]
    async fn a_config_map_is_replaced_behind_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, text: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("config.conf"), text).unwrap();
        };
        version("..1", "a");
        symlink("..1", dir.path().join("..data")).unwrap();
        let path = dir.path().join("config.conf");
        symlink("..data/config.conf", &path).unwrap();
        let mut watch = watch(&path);
        version("..2", "b");
        assert!(is_pending(&mut watch));
        symlink("..2", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        watch.changed().await;
    }
}

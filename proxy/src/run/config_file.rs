//! The configuration file, watched: what it says is read at the start only, so a change ends the agent, and whoever
//! started it starts it anew.

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
    /// Something happened in the file's directory, or nobody has looked yet.
    touched: mpsc::Receiver<()>,
    /// The watch ends with it.
    _watcher: RecommendedWatcher,
}

impl ConfigFileWatch {
    pub fn new(file: WatchedFile) -> Result<Self> {
        let (sender, touched) = mpsc::channel(1);
        // It was read before it is watched.
        sender.try_send(())?;
        let mut watcher = notify::recommended_watcher(move |event| {
            if tells_of_a_change(&event) {
                // One that waits is as good as many, and the receiver ends with the agent.
                let _ = sender.try_send(());
            }
        })?;
        // The file may be a link that is put in place anew (a mounted ConfigMap is), or point elsewhere.
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

    /// Returns once the file says something else. While it is gone nothing is decided: it is being replaced.
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

/// A file that is opened is told of, too: whoever looked again because of that would look for ever.
fn tells_of_a_change(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(Event { kind: EventKind::Access(AccessKind::Close(AccessMode::Write)), .. }) => true,
        Ok(Event { kind: EventKind::Access(_), .. }) => false,
        // Of what was lost nobody knows what it was about.
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
    async fn another_text_is_a_change_and_the_same_one_is_none() {
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
    fn whoever_reads_it_does_not_change_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        fs::write(&path, "a").unwrap();
        let (sender, events) = std::sync::mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let _ = sender.send((tells_of_a_change(&event), event));
        })
        .unwrap();
        watcher.watch(dir.path(), RecursiveMode::NonRecursive).unwrap();
        fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_, first) = events.iter().find(|(is_change, _)| *is_change).unwrap();
        assert!(matches!(first, Ok(Event { kind: EventKind::Remove(_), .. })), "{first:?}");
    }

    #[tokio::test]
    async fn a_config_map_is_replaced_behind_a_link() {
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

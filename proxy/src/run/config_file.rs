//! The configuration file, watched: what it says is read at the start only, so a change ends the agent, and whoever
//! started it starts it anew.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::config::WatchedFile;

pub struct ConfigFileWatch {
    file: WatchedFile,
    /// Something happened in the file's directory.
    touched: mpsc::UnboundedReceiver<()>,
    /// The watch ends with it.
    _watcher: RecommendedWatcher,
}

impl ConfigFileWatch {
    pub fn new(file: WatchedFile) -> Result<Self> {
        let (sender, touched) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |_| {
            // The receiver ends with the agent.
            let _ = sender.send(());
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
        while !self.differs() {
            if self.touched.recv().await.is_none() {
                return std::future::pending().await;
            }
        }
    }

    fn differs(&self) -> bool {
        fs::read_to_string(&self.file.path).is_ok_and(|now| now != self.file.text)
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

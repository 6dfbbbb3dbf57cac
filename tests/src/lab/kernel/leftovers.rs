//! Objects with a path outlive a killed process: their name contains the process id, and the next cluster removes
//! them.

use std::{
    fs,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

const PREFIX: &str = "portreeve-test-";
static MADE: AtomicU32 = AtomicU32::new(0);

/// A name that is unique on this machine.
pub fn unique_name(what: &str) -> String {
    format!("{PREFIX}{}-{}-{what}", process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// Calls `remove` for every entry of `root` that was named by a process that has ended.
pub fn sweep(root: &Path, remove: impl Fn(&Path)) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_orphan) {
            remove(&entry.path());
        }
    }
}

pub fn remove_directory(path: &Path) {
    // Another process may remove it at the same time.
    let _ = fs::remove_dir_all(path);
}

fn is_orphan(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, _)| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_orphans() {
        let own = unique_name("mine");
        let cases = [
            (own.as_str(), false),
            // Process ids end at 2^22.
            ("portreeve-test-99999999-0-demo", true),
            ("portreeve-test-99999999-0-demo-x1y2z3", true),
            ("portreeve-test-x-0-demo", false),
            ("portreeve", false),
        ];
        for (name, want) in cases {
            assert_eq!(is_orphan(name), want, "{name}");
        }
    }
}

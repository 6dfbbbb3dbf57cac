//! Which processes are below the cgroup whose sockets are translated.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The part of the processes of this node that a cgroup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupScope {
    /// The root of the hierarchy: all.
    Root,
    /// A group with processes, and with the kubelet's pods if there are any.
    Part,
    /// The kubelet's pods are in another group.
    PodsElsewhere(PathBuf),
    /// The group of this process alone: the root of its cgroup namespace.
    OwnContainer,
    /// No process.
    Empty,
}

/// The kubelet's group of all pods, with its cgroupfs and its systemd driver. kind puts a `kubelet` group above it.
const KUBEPODS: [&str; 3] = ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"];

/// Reads the scope of a cgroup v2 directory. A file that cannot be read says nothing.
pub fn cgroup_scope(group: &Path) -> CgroupScope {
    scope(group, &mount_point(group))
}

fn scope(group: &Path, root: &Path) -> CgroupScope {
    // Only the root lacks this file.
    if !group.join("cgroup.type").exists() {
        return CgroupScope::Root;
    }
    if let Some(pods) = pod_groups(root).into_iter().find(|pods| !pods.starts_with(group)) {
        return CgroupScope::PodsElsewhere(pods);
    }
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    if read("cgroup.events").lines().any(|line| line == "populated 0") {
        return CgroupScope::Empty;
    }
    let own = std::process::id().to_string();
    if read("cgroup.procs").lines().any(|process| process == own) {
        return CgroupScope::OwnContainer;
    }
    CgroupScope::Part
}

/// The topmost directory above the group that is in the same file system.
fn mount_point(group: &Path) -> PathBuf {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let own = device(group).ok();
    let above = group.ancestors().take_while(|path| device(path).ok() == own && own.is_some());
    above.last().unwrap_or(group).to_owned()
}

/// The kubelet's groups at most two levels below the root.
fn pod_groups(root: &Path) -> Vec<PathBuf> {
    let is_of_pods =
        |path: &PathBuf| path.file_name().is_some_and(|name| KUBEPODS.iter().any(|one| name == *one));
    // The only parents of groups of pods: all others may have thousands of children.
    let is_of_kubelet =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name == "kubelet" || name == "kubelet.slice");
    let first = children(root).unwrap_or_default();
    let second: Vec<_> =
        first.iter().filter(is_of_kubelet).flat_map(|path| children(path).unwrap_or_default()).collect();
    first.into_iter().chain(second).filter(is_of_pods).collect()
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directories =
        fs::read_dir(path)?.flatten().filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    Ok(directories.map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups and their files, as the kernel shows them.
    #[test]
    fn the_scope_of_a_group() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let own = std::process::id().to_string();
        let group = |name: &str, populated: &str, processes: &str| {
            let path = root.join(name);
            fs::create_dir_all(&path).unwrap();
            for (file, text) in
                [("cgroup.type", "domain\n"), ("cgroup.events", populated), ("cgroup.procs", processes)]
            {
                fs::write(path.join(file), text).unwrap();
            }
            path
        };
        let (populated, empty) = ("populated 1\nfrozen 0\n", "populated 0\nfrozen 0\n");
        let system = group("system.slice", populated, "");
        let container = group("container", populated, &format!("{own}\n"));
        let unused = group("unused", empty, "");
        assert_eq!(scope(root, root), CgroupScope::Root);
        assert_eq!(scope(&system, root), CgroupScope::Part);
        assert_eq!(scope(&container, root), CgroupScope::OwnContainer);
        assert_eq!(scope(&unused, root), CgroupScope::Empty);

        let pods = group("kubelet.slice/kubelet-kubepods.slice", populated, "");
        let (kubelet, pod) =
            (group("kubelet.slice", populated, ""), group("kubepods.slice/pod1", populated, ""));
        let other = pod.parent().unwrap().to_owned();
        for path in [&system, &pod] {
            let found = scope(path, root);
            assert!(
                matches!(&found, CgroupScope::PodsElsewhere(at) if *at == pods || *at == other),
                "{found:?}"
            );
        }
        fs::remove_dir_all(&other).unwrap();
        assert_eq!(scope(&kubelet, root), CgroupScope::Part);
        assert_eq!(scope(&pods, root), CgroupScope::Part);
        assert_eq!(scope(root, root), CgroupScope::Root);
    }
}

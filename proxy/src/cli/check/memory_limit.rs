//! Checks for a memory limit of the running agent. The kernel charges the maps to the cgroup of the process that created them,
//! also what is added later for Services and for the sockets of pods: at the limit it refuses that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::finding::Finding;
use crate::cli::agents::FindArgs;

const NAME: &str = "memory limit";
/// A limit that leaves room for full tables of the default sizes, and for the objects of a large cluster (docs/sizing.md).
const ENOUGH: u64 = 512 << 20;
/// The limit of a cgroup without one, in cgroups v1: the largest multiple of a page.
const UNLIMITED: u64 = (i64::MAX as u64) & !0xfff;

/// No finding without an agent: nothing tells where one would run.
pub fn check(find: &FindArgs) -> Option<Finding> {
    let process = find.find().ok()?.process()?;
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    Some(finding(lowest(&groups, "/sys/fs/cgroup".as_ref())))
}

fn finding(lowest: Option<(PathBuf, u64)>) -> Finding {
    match lowest {
        None => Finding::ok(NAME, "none"),
        Some((_, limit)) if limit >= ENOUGH => Finding::ok(NAME, format!("{} MiB", limit >> 20)),
        Some((file, limit)) => Finding::warn(
            NAME,
            format!(
                "{} is {} MiB: the tables in the kernel count, too, and at this limit it refuses entries of Services and \
                 of sockets",
                file.display(),
                limit >> 20
            ),
            "set no memory limit for the agent, or one with room for what docs/sizing.md states",
        ),
    }
}

/// The lowest limit of a process and the file that states it. `groups` is its `/proc/PID/cgroup`.
fn lowest(groups: &str, root: &Path) -> Option<(PathBuf, u64)> {
    groups
        .lines()
        .filter_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            let path = path.trim_start_matches('/');
            match controllers {
                "" => Some(limits(root, path, "memory.max").or_else(|| {
                    // Beside cgroups v1.
                    limits(&root.join("unified"), path, "memory.max")
                })),
                _ if controllers.split(',').any(|one| one == "memory") => {
                    Some(limits(&root.join("memory"), path, "memory.limit_in_bytes"))
                }
                _ => None,
            }
        })
        .flatten()
        .min_by_key(|(_, limit)| *limit)
}

/// The lowest limit of a cgroup and of those above it. In a container its own is the root.
fn limits(mount: &Path, path: &str, file: &str) -> Option<(PathBuf, u64)> {
    let group = mount.join(path);
    let above = group.ancestors().take_while(|directory| directory.starts_with(mount));
    let files = above.map(|directory| directory.join(file));
    let stated = files.filter_map(|file| {
        let limit = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        (limit < UNLIMITED).then_some((file, limit))
    });
    stated.min_by_key(|(_, limit)| *limit)
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn the_lowest_limit_above_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, limit: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, limit).unwrap();
        };
        write("kubepods/pod1/memory.max", "134217728\n");
        write("kubepods/pod1/agent/memory.max", "max\n");
        write("kubepods/memory.max", "25165824000\n");
        write("kubepods/other/memory.max", "1\n");
        write("memory/kubepods/memory.limit_in_bytes", "268435456\n");
        write("memory/kubepods/pod1/memory.limit_in_bytes", "9223372036854771712\n");
        for (groups, want) in [
            ("0::/kubepods/pod1/agent\n", Some(("kubepods/pod1/memory.max", 128 << 20))),
            ("0::/kubepods\n", Some(("kubepods/memory.max", 25_165_824_000))),
            ("0::/elsewhere\n", None),
            (
                "5:cpu,cpuacct:/kubepods/other\n4:memory:/kubepods/pod1\n0::/\n",
                Some(("memory/kubepods/memory.limit_in_bytes", 256 << 20)),
            ),
            ("", None),
            ("nonsense\n1\n", None),
        ] {
            let want = want.map(|(file, limit)| (root.path().join(file), limit));
            assert_eq!(lowest(groups, root.path()), want, "{groups}");
        }
        // In a container: its own cgroup is the root.
        write("memory.max", "67108864\n");
        assert_eq!(lowest("0::/\n", root.path()), Some((root.path().join("memory.max"), 64 << 20)));
    }

    #[test]
    fn a_limit_without_room_for_the_tables_is_reported() {
        let of = |limit| finding(Some(("/sys/fs/cgroup/memory.max".into(), limit)));
        assert_eq!(finding(None).verdict, Verdict::Ok);
        assert_eq!(of(1 << 30).verdict, Verdict::Ok);
        let found = of(256 << 20);
        assert_eq!(found.verdict, Verdict::Warn);
        assert!(found.what.contains("memory.max is 256 MiB") && found.what.contains("entries of Services"));
    }
}

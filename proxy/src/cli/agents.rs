//! Agents on this node, for commands without directories, or with directories where no agent is.
//!
//! Found by the arguments of processes, by pin directories and by control sockets. Unreadable sources are left out.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::observe::status::socket_path;

/// The defaults of `--bpffs` and `--run-dir`.
pub const BPFFS: &str = "/sys/fs/bpf/portreeve";
pub const RUN_DIR: &str = "/run/portreeve";

/// The directories of the agent that a command is about.
#[derive(Debug, clap::Args)]
pub struct FindArgs {
    /// Directory on a bpffs where the agent pins its maps [default: the agent's on this node]
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Directory of the agent's control socket [default: the agent's on this node]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// The directories of an agent, or of the data plane that one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub bpffs: PathBuf,
    pub run_dir: PathBuf,
    /// The control socket, which may be in another mount namespace than ours.
    pub socket: PathBuf,
    process: Option<u32>,
}

impl FindArgs {
    /// The agent of this node: that of the flags, of the default directories, or the only one. Errors: there are several.
    pub fn find(&self) -> Result<Place> {
        Roots::NODE.find(self.bpffs.as_deref(), self.run_dir.as_deref())
    }
}

impl Place {
    fn new(bpffs: &Path, run_dir: &Path) -> Self {
        let (bpffs, run_dir) = (bpffs.to_owned(), run_dir.to_owned());
        let socket = socket_path(&run_dir, &bpffs);
        Self { bpffs, run_dir, socket, process: None }
    }

    /// The agent's process; `None` if none runs.
    pub fn process(&self) -> Option<u32> {
        self.process
    }

    fn is_in(&self, bpffs: Option<&Path>, run_dir: Option<&Path>) -> bool {
        bpffs.is_none_or(|wanted| self.bpffs == wanted) && run_dir.is_none_or(|wanted| self.run_dir == wanted)
    }

    fn text(&self) -> String {
        let process = self.process.map_or_else(|| "no process".to_owned(), |id| format!("process {id}"));
        format!("--bpffs={} --run-dir={} ({process})", self.bpffs.display(), self.run_dir.display())
    }
}

/// Directories that are searched.
struct Roots<'a> {
    processes: &'a str,
    bpffs: &'a str,
    run: &'a str,
}

/// A sentence for each agent or data plane with another pin directory, or another control socket if one was used.
pub fn elsewhere(bpffs: &Path, run_dir: Option<&Path>) -> Vec<String> {
    Roots::NODE.elsewhere(bpffs, run_dir)
}

/// The same in brackets after a sentence that says where an agent was looked for.
pub fn hint(bpffs: &Path, run_dir: Option<&Path>) -> String {
    let found = elsewhere(bpffs, run_dir);
    if found.is_empty() { String::new() } else { format!(" ({})", found.join("; ")) }
}

impl Roots<'_> {
    const NODE: Roots<'static> = Roots { processes: "/proc", bpffs: "/sys/fs/bpf", run: "/run" };

    fn find(&self, bpffs: Option<&Path>, run_dir: Option<&Path>) -> Result<Place> {
        let default = Place::new(bpffs.unwrap_or(Path::new(BPFFS)), run_dir.unwrap_or(Path::new(RUN_DIR)));
        let mut places = self.places();
        places.retain(|place| place.is_in(bpffs, run_dir));
        if bpffs.is_some() && run_dir.is_some() {
            // As named, with or without an agent.
            let process = places.iter().find_map(Place::process);
            return Ok(Place { process, ..default });
        }
        if let Some(usual) =
            places.iter().find(|place| place.is_in(Some(&default.bpffs), Some(&default.run_dir)))
        {
            return Ok(usual.clone());
        }
        match places.as_slice() {
            [] => Ok(default),
            [only] => Ok(only.clone()),
            several => {
                let several: Vec<_> = several.iter().map(Place::text).collect();
                bail!("several agents are on this node, name one of them: {}", several.join("; "))
            }
        }
    }

    /// Every agent and data plane that can be seen from here.
    fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for (process, arguments) in self.agents() {
            let value = |flag, default| option(&arguments, flag).unwrap_or(default).to_owned();
            let mut place =
                Place::new(value("--bpffs", BPFFS).as_ref(), value("--run-dir", RUN_DIR).as_ref());
            place.process = Some(process);
            // The agent of a pod: its file system is reached through its process.
            let inside = place.socket.strip_prefix("/").unwrap_or(&place.socket);
            let inside = Path::new(self.processes).join(process.to_string()).join("root").join(inside);
            if !place.socket.exists() && inside.exists() {
                place.socket = inside;
            }
            places.push(place);
        }
        for dir in self.pin_directories() {
            if !places.iter().any(|place| place.bpffs == dir) {
                let name = socket_path(Path::new(""), &dir);
                let socket = self.sockets().into_iter().find(|socket| socket.file_name() == name.file_name());
                let run_dir = socket.as_deref().and_then(Path::parent).unwrap_or(Path::new(RUN_DIR));
                places.push(Place::new(&dir, run_dir));
            }
        }
        places
    }

    fn elsewhere(&self, bpffs: &Path, run_dir: Option<&Path>) -> Vec<String> {
        let mut pins = BTreeSet::from([bpffs.to_owned()]);
        let mut sockets: BTreeSet<PathBuf> = run_dir.map(|dir| socket_path(dir, bpffs)).into_iter().collect();
        let mut found = Vec::new();
        for (process, arguments) in self.agents() {
            let value = |flag, default| option(&arguments, flag).unwrap_or(default).to_owned();
            let (dir, run) = (value("--bpffs", BPFFS), value("--run-dir", RUN_DIR));
            let socket = socket_path(Path::new(&run), Path::new(&dir));
            let is_same = Path::new(&dir) == bpffs && run_dir.is_none_or(|wanted| Path::new(&run) == wanted);
            pins.insert(dir.clone().into());
            sockets.insert(socket);
            if !is_same {
                found.push(format!("process {process} runs with --bpffs={dir} --run-dir={run}"));
            }
        }
        for dir in self.pin_directories().into_iter().filter(|dir| !pins.contains(dir)) {
            sockets.insert(socket_path(Path::new(RUN_DIR), &dir));
            found.push(format!("a data plane is pinned at {}", dir.display()));
        }
        if run_dir.is_some() {
            let others = self.sockets().into_iter().filter(|socket| !sockets.contains(socket));
            found.extend(others.map(|socket| format!("there is a control socket at {}", socket.display())));
        }
        found
    }

    /// Process and arguments of each `portreeve run`.
    fn agents(&self) -> Vec<(u32, Vec<String>)> {
        let processes = entries(Path::new(self.processes)).into_iter().filter_map(|dir| {
            let process = dir.file_name()?.to_str()?.parse().ok()?;
            let line = fs::read(dir.join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut arguments = line.trim_end_matches('\0').split('\0').map(str::to_owned);
            let program = arguments.next()?;
            let arguments: Vec<_> = arguments.collect();
            let is_agent = Path::new(&program).file_name()? == "portreeve"
                && arguments.iter().any(|argument| argument == "run");
            is_agent.then_some((process, arguments))
        });
        let mut processes: Vec<_> = processes.collect();
        processes.sort_unstable();
        processes
    }

    /// Directories with maps of an agent, up to two levels below the mount.
    fn pin_directories(&self) -> Vec<PathBuf> {
        let first = entries(Path::new(self.bpffs));
        let second: Vec<_> = first.iter().flat_map(|dir| entries(dir)).collect();
        let mut dirs: Vec<_> = first.into_iter().chain(second).filter(|dir| has_maps(dir)).collect();
        dirs.sort_unstable();
        dirs
    }

    /// Control sockets in directories named like the default one.
    fn sockets(&self) -> Vec<PathBuf> {
        let is_ours = |dir: &PathBuf| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("portreeve"))
        };
        let files = entries(Path::new(self.run)).into_iter().filter(is_ours).flat_map(|dir| entries(&dir));
        let mut sockets: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|kind| kind == "sock")).collect();
        sockets.sort_unstable();
        sockets
    }
}

fn has_maps(dir: &Path) -> bool {
    entries(dir).iter().any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("abi-").is_some_and(|version| version.parse::<u32>().is_ok())
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The last value of a flag: `--flag=value` or `--flag value`.
fn option<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let mut values = arguments.iter().enumerate().filter_map(|(n, argument)| {
        let rest = argument.strip_prefix(flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => arguments.get(n + 1).map(String::as_str),
            None => None,
        }
    });
    values.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_elsewhere_are_found() {
        let root = tempfile::tempdir().unwrap();
        let dir = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let processes = dir("proc");
        for (process, line) in [
            ("12", "/usr/bin/portreeve\0run\0--bpffs=/sys/fs/bpf/a\0--run-dir\0/run/a\0"),
            ("13", "portreeve\0status\0--bpffs=/sys/fs/bpf/b\0"),
            ("14", "portreeve\0-v\0run\0"),
            ("self", "portreeve\0run\0"),
        ] {
            fs::write(dir(&format!("proc/{process}")).join("cmdline"), line).unwrap();
        }
        let pinned = dir("bpf/tests/c");
        dir("bpf/tests/c/abi-7");
        dir("bpf/tests/other/maps");
        let socket = dir("run/portreeve").join("sys-fs-bpf-d.sock");
        fs::write(&socket, "").unwrap();
        let (bpffs, run) = (dir("bpf"), dir("run"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (processes, bpffs, run) = (text(&processes), text(&bpffs), text(&run));
        let roots = Roots { processes: &processes, bpffs: &bpffs, run: &run };
        let default =
            "process 14 runs with --bpffs=/sys/fs/bpf/portreeve --run-dir=/run/portreeve".to_owned();
        let custom = "process 12 runs with --bpffs=/sys/fs/bpf/a --run-dir=/run/a".to_owned();
        let data_plane = format!("a data plane is pinned at {}", pinned.display());
        let listener = format!("there is a control socket at {}", socket.display());
        let found = roots.elsewhere(Path::new(BPFFS), Some(Path::new(RUN_DIR)));
        assert_eq!(found, [&custom, &data_plane, &listener].map(String::as_str));
        let found = roots.elsewhere(Path::new("/sys/fs/bpf/a"), Some(Path::new(RUN_DIR)));
        assert_eq!(found, [&custom, &default, &data_plane, &listener].map(String::as_str));
        assert_eq!(roots.elsewhere(Path::new("/sys/fs/bpf/a"), None), [default, data_plane]);
    }

    #[test]
    fn the_agent_of_the_node_is_found_whatever_its_directories() {
        let root = tempfile::tempdir().unwrap();
        let dir = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (processes, bpffs, run) = (dir("proc"), dir("bpf"), dir("run"));
        let roots = Roots { processes: &processes, bpffs: &bpffs, run: &run };
        let find = |bpffs: Option<&str>, run_dir: Option<&str>| {
            roots.find(bpffs.map(Path::new), run_dir.map(Path::new)).map_err(|error| error.to_string())
        };
        let default = Place::new(Path::new(BPFFS), Path::new(RUN_DIR));
        assert_eq!(find(None, None), Ok(default.clone()), "there is none");

        let start = |process: &str, line: &str| {
            fs::write(Path::new(&dir(&format!("proc/{process}"))).join("cmdline"), line).unwrap();
        };
        start("12", "portreeve\0run\0--bpffs=/sys/fs/bpf/a\0--run-dir=/no/such/a\0");
        // The control socket of an agent in a pod.
        let inside = format!("{}/sys-fs-bpf-a.sock", dir("proc/12/root/no/such/a"));
        fs::write(&inside, "").unwrap();
        let found = find(None, None).unwrap();
        assert_eq!(
            (found.bpffs.as_path(), found.socket.as_path()),
            (Path::new("/sys/fs/bpf/a"), Path::new(&inside))
        );
        assert_eq!(find(Some("/sys/fs/bpf/a"), None), Ok(found.clone()), "its run directory is found");
        assert_eq!(find(None, Some("/no/such/a")), Ok(found.clone()), "its pins are found");
        assert_eq!(find(Some("/b"), Some("/b")), Ok(Place::new(Path::new("/b"), Path::new("/b"))));

        let pinned = dir("bpf/b");
        dir("bpf/b/abi-5");
        let error = find(None, None).unwrap_err();
        assert!(error.contains("several agents are on this node"), "{error}");
        assert!(error.contains("--bpffs=/sys/fs/bpf/a --run-dir=/no/such/a (process 12)"), "{error}");
        assert!(
            error.contains(&format!("--bpffs={pinned} --run-dir=/run/portreeve (no process)")),
            "{error}"
        );

        start("13", "portreeve\0run\0");
        assert_eq!(find(None, None).unwrap().bpffs, default.bpffs, "the usual one among several");
    }
}

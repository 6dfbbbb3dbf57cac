//! Golden scripts: changes of a cluster in steps, and the content of a node's maps after each step.
//!
//! ```text
//! node: node-1                     the node, and any other flag of the policy that matters
//! cluster-cidr: 10.244.0.0/16
//! == apply: description of the step
//! apiVersion: v1 ..                objects that are added or changed, as YAML documents
//! -- maps
//! FE .. / BE ..                    the content of the maps, see `reconcile::dump`
//! == delete: description           `Kind namespace/name`, one per line
//! == stop: description             the agent dies; the changes that follow reach its successor at its start
//! == start: description            the successor adopts the maps and gets all objects at once
//! ```
//!
//! The same script runs on any maps. It is included by the tests that run it without privileges and as root.

use std::{
    collections::BTreeSet,
    fs, iter,
    path::{Path, PathBuf},
};

use proxy::{
    index::{Change, Index},
    k8s::object::{Kind, ObjectId},
    manifests,
    model::{
        address::{PerFamily, parse_network},
        frontend::FrontendKey,
        policy::Policy,
    },
    reconcile::{LbMaps, Pass, Reconciler, dump},
};

/// The owner of the maps of a script, over all restarts of the agent.
pub trait Host {
    type Maps: LbMaps;

    /// The maps for an agent that starts; `last` are those of its predecessor.
    fn open(&mut self, last: Option<&Self::Maps>) -> Self::Maps;

    /// Waits until retired entries may be reused.
    fn grace_period(&mut self) {}

    /// Called before a step; may inject write failures from here on.
    fn before(&mut self, _step: usize, _maps: &mut Self::Maps) {}

    /// Called after a failed write; writes succeed from here on.
    fn failed(&mut self, _maps: &mut Self::Maps) -> Failed {
        panic!("a write failed without an injected failure")
    }
}

/// The reaction to a failed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The agent tries again.
    Retry,
    /// The agent dies, and another one starts.
    Die,
}

pub struct Script {
    policy: Policy,
    steps: Vec<Step>,
}

struct Step {
    /// The first line.
    title: String,
    action: Action,
    want: String,
}

enum Action {
    Apply(Vec<Change>),
    Delete(Vec<Change>),
    Stop,
    Start,
}

pub fn directory() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    beside.join("proxy/testdata/golden")
}

/// Every script, by name.
pub fn all() -> Vec<(String, Script)> {
    let entries = fs::read_dir(directory()).expect("there are scripts");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "scripts are missing");
    let name = |path: &Path| path.file_stem().expect("a file").to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), Script::parse(&fs::read_to_string(path).expect("text")))).collect()
}

impl Script {
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split("\n== ");
        let mut policy = Policy::default();
        let header = parts.next().unwrap_or_default().lines().filter(|line| !line.starts_with('#'));
        for (flag, value) in header.filter_map(|line| line.split_once(": ")) {
            match flag {
                "node" => policy.node_name = value.to_owned(),
                "cluster-cidr" => {
                    let networks = value.split(',').map(|text| parse_network(text).expect("a network"));
                    policy.cluster_cidrs = PerFamily::first_of(networks);
                }
                other => panic!("no flag `{other}` is known to scripts"),
            }
        }
        let steps = parts.map(|part| Step::parse(part, &policy.node_name)).collect();
        Self { policy, steps }
    }

    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The content of the maps after each step, with the step's first line.
    pub fn play(&self, host: &mut impl Host) -> Vec<(&str, String)> {
        let mut world = World::begin(self, host);
        let mut seen = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            world.step(number, &step.action);
            seen.push((step.title.as_str(), dump(world.reconciler.maps()).expect("the maps can be read")));
        }
        seen
    }

    /// Plays the script, and fails if the maps differ from its expectations.
    pub fn check(&self, name: &str, host: &mut impl Host) {
        for ((title, seen), step) in self.play(host).into_iter().zip(&self.steps) {
            assert!(seen == step.want, "{name}, {title}\n-- is\n{seen}-- should be\n{}", step.want);
        }
    }
}

/// The text of a script with new expectations.
pub fn updated(text: &str, seen: &[(&str, String)]) -> String {
    let mut parts = text.split("\n== ");
    let header = parts.next().unwrap_or_default();
    let steps = parts.zip(seen).map(|(part, (_, maps))| {
        let before = part.split("-- maps\n").next().unwrap_or_default().trim_end();
        format!("\n== {before}\n-- maps\n{}", maps.trim_end())
    });
    iter::once(header.to_owned()).chain(steps).chain(["\n".to_owned()]).collect()
}

impl Step {
    fn parse(text: &str, node: &str) -> Self {
        let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
        let (body, want) = rest.split_once("-- maps").unwrap_or((rest, ""));
        let verb = title.split_once(": ").expect("every step has a description").0;
        let action = match verb {
            "apply" => Action::Apply(read(body, node)),
            "delete" => Action::Delete(body.lines().map(|line| removal(line, node)).collect()),
            "stop" => Action::Stop,
            "start" => Action::Start,
            other => panic!("no step `{other}` is known"),
        };
        let want = want.trim().lines().map(|line| format!("{line}\n")).collect();
        Self { title: title.to_owned(), action, want }
    }
}

fn read(yaml: &str, node: &str) -> Vec<Change> {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("step.yaml"), yaml).expect("a file");
    let read = manifests::load(directory.path()).expect("it is readable");
    assert!(read.skipped.is_empty(), "{:?}", read.skipped);
    let changes = read.objects.iter().filter_map(|found| found.object.change(node).expect("a sound object"));
    changes.map(|read| read.value).collect()
}

fn removal(line: &str, node: &str) -> Change {
    let (kind, id) = line.split_once(' ').expect("`Kind namespace/name`");
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).expect("a kind that is known");
    let (namespace, name) = id.split_once('/').unwrap_or(("", id));
    let id = ObjectId { kind, namespace: namespace.into(), name: name.into() };
    id.removal(node).expect("a kind that matters")
}

/// The state of the cluster in the index, and the agent with its maps.
struct World<'a, H: Host> {
    host: &'a mut H,
    index: Index,
    reconciler: Reconciler<H::Maps>,
    runs: bool,
}

impl<'a, H: Host> World<'a, H> {
    fn begin(script: &Script, host: &'a mut H) -> Self {
        let reconciler = Reconciler::adopt(host.open(None)).expect("nothing to adopt");
        Self { host, index: Index::new(script.policy.clone()), reconciler, runs: true }
    }

    fn step(&mut self, number: usize, action: &Action) {
        self.host.before(number, self.reconciler.maps_mut());
        match action {
            Action::Apply(changes) | Action::Delete(changes) => {
                let mut touched = BTreeSet::new();
                for change in changes {
                    touched.extend(self.index.apply(change.clone()));
                }
                if self.runs {
                    self.write(&touched);
                }
            }
            Action::Stop => self.runs = false,
            Action::Start => {
                self.runs = true;
                self.restart();
            }
        }
    }

    fn write(&mut self, touched: &BTreeSet<FrontendKey>) {
        let changes = touched.iter().map(|key| (*key, self.index.frontend(key)));
        let pass = self.reconciler.apply(changes);
        if !self.finish(pass) {
            match self.host.failed(self.reconciler.maps_mut()) {
                Failed::Retry => self.write(touched),
                Failed::Die => self.restart(),
            }
        }
    }

    fn restart(&mut self) {
        // An injected failure that the predecessor did not reach is left for this one.
        let adopted = Reconciler::adopt(self.host.open(Some(self.reconciler.maps())));
        let is_complete = match adopted {
            Ok(reconciler) => {
                self.reconciler = reconciler;
                let pass = self.reconciler.apply_all(self.index.frontends());
                self.finish(pass)
            }
            Err(_) => false,
        };
        if !is_complete {
            self.host.failed(self.reconciler.maps_mut());
            self.restart();
        }
    }

    /// Ends a pass with its grace period. Returns `false` if a write failed.
    fn finish(&mut self, pass: Pass) -> bool {
        self.host.grace_period();
        if let Some(epoch) = pass.grace {
            self.reconciler.reclaim(epoch);
        }
        pass.failed.is_empty()
    }
}

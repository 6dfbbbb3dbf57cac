//! The time from a change at an API server to its effect in the kernel, and the agent's memory.
//!
//! The API server and the observer are in this process. A change counts from its arrival at the server until the
//! frontend's word in the pinned map differs: the server's own work, TLS and the loopback are included. If the
//! agent serves DNS, the same change is measured until the new endpoint's name resolves.

mod names;
mod report;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use proxy::{
    datapath::{KernelMaps, maps_of},
    reconcile::LbMaps as _,
};
use proxy_ebpf::abi::ABI_VERSION;

use names::Names;
pub use report::{Distribution, Latency, Memory, Report};

use crate::lab::{
    agent::{Agent, AgentSetting, Source},
    api_server::{
        ApiServer,
        objects::{endpoint_address, node, service, slice},
    },
    cluster::Cluster,
    kernel::netns::Netns,
    pinned_maps::PinnedMaps,
};

/// Parameters of the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    pub services: u32,
    pub endpoints: u32,
    /// Changes that are awaited one by one.
    pub changes: u32,
    /// Changes of other Services per second meanwhile.
    pub others_per_second: u32,
    pub streams_lists: bool,
    /// The agent serves DNS, and the names of the changed endpoints are queried.
    pub names: bool,
}

/// A change that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The Service whose changes are measured; the others have higher numbers.
const MEASURED: u32 = 1;
/// A marker that is written after all other changes.
const MARK: u32 = 2;
/// Its name is the last in the order of lists.
const LAST: &str = "zz-last";
const FIRST_OTHER: u32 = 16;

pub async fn run(setting: &Parameters) -> Result<Report> {
    let cluster = Cluster::start("sync").without_agents().build().await?;
    let node = cluster.node(0);
    let server = ApiServer::start_in(node.netns())?;
    server.behave(|behaviour| {
        behaviour.streams_lists = setting.streams_lists;
        behaviour.bookmark_millis = 60_000;
    });
    server.put_all(objects(setting, &node.name));
    let mut agent_setting = AgentSetting {
        source: Source::ApiServer(server.kubeconfig(cluster.directory())?),
        ..node.setting().clone()
    };
    if setting.names {
        agent_setting.more.push(format!("--dns-listen={}", names::LISTEN));
    }
    let started = Instant::now();
    let mut agent = Agent::spawn(&agent_setting, node.netns())?;
    agent.ready().await?;
    let start_to_ready = started.elapsed();
    let mut report = Report {
        start_to_ready,
        synced_to_programmed: programming(&agent_setting)?,
        after_start: Memory::of(agent.id())?,
        ..Report::default()
    };
    let names = setting.names.then(|| Names::open(node.netns())).transpose()?;
    let watched = Watched::open(&cluster, names)?;
    report.alone = watched.changes(&server, setting.changes)?;
    report.among_others = among_others(&watched, &server, setting)?;
    report.after_changes = Memory::of(agent.id())?;
    let relist = Instant::now();
    server.expire_watches();
    watched.mark(&server)?;
    report.relist = relist.elapsed();
    report.after_relist = Memory::of(agent.id())?;
    end(agent).await?;
    report.after_restart = successor(&agent_setting, node.netns()).await?;
    Ok(report)
}

/// The memory of the next agent, which adopts the maps of this one.
async fn successor(setting: &AgentSetting, netns: &Netns) -> Result<Memory> {
    let mut agent = Agent::spawn(setting, netns)?;
    agent.ready().await?;
    let memory = Memory::of(agent.id())?;
    end(agent).await?;
    Ok(memory)
}

async fn end(agent: Agent) -> Result<()> {
    let status = agent.terminate().await?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}

fn objects(setting: &Parameters, node_name: &str) -> impl Iterator<Item = serde_json::Value> {
    let (services, endpoints) = (setting.services, setting.endpoints);
    let others = (FIRST_OTHER..FIRST_OTHER + services).flat_map(move |number| {
        let name = other_name(number);
        let first = number * endpoints;
        [service(&name, number), slice(&name, first..first + endpoints)]
    });
    let few = [(MEASURED, "measured"), (MARK, LAST)];
    let few = few.into_iter().flat_map(|(number, name)| [service(name, number), slice(name, [number])]);
    others.chain(few).chain([node(node_name, "172.18.0.11")])
}

fn other_name(number: u32) -> String {
    format!("service-{number}")
}

fn among_others(watched: &Watched, server: &ApiServer, setting: &Parameters) -> Result<Latency> {
    if setting.others_per_second == 0 {
        return Ok(Latency::default());
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let pause = Duration::from_secs(1) / setting.others_per_second;
            let began = Instant::now();
            for count in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let name = other_name(FIRST_OTHER + count % setting.services);
                let first = 500_000 + count * setting.endpoints % 100_000;
                server.put(&slice(&name, first..first + setting.endpoints));
                thread::sleep((began + pause * (count + 1)).saturating_duration_since(Instant::now()));
            }
        });
        let measured = watched.changes(server, setting.changes);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        measured
    })
}

/// The frontends whose words are observed.
struct Watched {
    maps: KernelMaps,
    measured: u32,
    mark: u32,
    names: Option<Names>,
}

impl Watched {
    fn open(cluster: &Cluster, names: Option<Names>) -> Result<Self> {
        let bpffs = cluster.node(0).bpffs();
        let maps =
            KernelMaps::inspect(&maps_of(bpffs, ABI_VERSION)).context("cannot open the pinned maps")?;
        let named = PinnedMaps::open(bpffs)?;
        let (measured, mark) = (named.frontend(address(MEASURED))?, named.frontend(address(MARK))?);
        Ok(Self { maps, measured, mark, names })
    }

    /// Each change is made after the effect of the one before it, plus an irregular pause.
    fn changes(&self, server: &ApiServer, count: u32) -> Result<Latency> {
        let (mut live, mut answered) = (Vec::with_capacity(count as usize), Vec::new());
        for number in 0..count {
            thread::sleep(Duration::from_micros(500 + u64::from(number * 7919 % 1500)));
            let endpoints = [400_000 + number, 450_000 + number];
            let object = slice("measured", endpoints);
            let began = Instant::now();
            live.push(self.until_flip(self.measured, || server.put(&object))?);
            if let Some(names) = &self.names {
                answered.push(names.until_answered("measured", endpoint_address(endpoints[0]), began)?);
            }
        }
        Ok(Latency { live: Distribution::new(live), answered: Distribution::new(answered) })
    }

    /// A change that takes effect after all earlier ones.
    fn mark(&self, server: &ApiServer) -> Result<()> {
        self.until_flip(self.mark, || server.put(&slice(LAST, [480_000]))).map(drop)
    }

    fn until_flip(&self, frontend: u32, change: impl FnOnce()) -> Result<Duration> {
        let before = self.maps.published(frontend)?;
        let began = Instant::now();
        change();
        while self.maps.published(frontend)? == before {
            ensure!(began.elapsed() < TIMEOUT, "a change had no effect within {TIMEOUT:?}");
            thread::yield_now();
        }
        Ok(began.elapsed())
    }
}

/// The ClusterIP of a Service with this number.
fn address(number: u32) -> SocketAddr {
    let [_, _, b, c] = number.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, b, c)), 80)
}

/// The duration of the first pass, from the agent's log.
fn programming(setting: &AgentSetting) -> Result<Duration> {
    let log = fs::read_to_string(&setting.log).context("cannot read the agent's log")?;
    let field = log.split_whitespace().find_map(|word| word.strip_prefix("programming_ms="));
    let text = field.context("the log has no duration of the first pass")?;
    Ok(Duration::from_secs_f64(text.parse::<f64>().context("the duration is not a number")? / 1e3))
}

impl Memory {
    fn of(process: u32) -> Result<Self> {
        let pid = Pid::from_raw(process.cast_signed());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.with_context(|| format!("no {name} in its status"))?.parse::<u64>()? * 1024)
        };
        Ok(Self {
            peak: field("VmHWM:")?,
            resident: field("VmRSS:")?,
            anonymous: field("RssAnon:")?,
            files: field("RssFile:")?,
            maps: field("RssShmem:")?,
        })
    }
}

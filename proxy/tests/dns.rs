//! Cluster states and the expected answers, queried from the built binary over UDP and TCP: `portreeve dns` with manifests
//! and a Corefile. The cases are those of `dns/testdata/cases/`.

#![expect(clippy::wildcard_enum_match_arm, reason = "types and response codes are open lists")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::json;

#[path = "../../dns/tests/cases/judge.rs"]
mod judge;
#[path = "../../dns/tests/cases/query.rs"]
mod query;
#[path = "../../dns/tests/cases/state.rs"]
mod state;
#[path = "../../dns/tests/cases/upstream.rs"]
mod upstream;

use state::{Group, Settings};
use upstream::Upstream;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_query_is_answered_as_listed() {
    let mut failures = Vec::new();
    for group in state::groups() {
        let (corefile, _upstreams) = corefile(&group).await;
        let server = Server::start(&group, &corefile);
        for query in &group.queries {
            for transport in query.transports() {
                let found = query::send(server.address, query, transport).await;
                if let Err(why) = judge::judge(query, &group, found.as_deref(), server.address).await {
                    failures.push(judge::Failure::new(&group.id, query, transport, why));
                }
            }
        }
        server.end();
    }
    judge::report(failures);
}

/// The binary, with the objects and the Corefile of a group as files.
struct Server {
    process: Child,
    address: SocketAddr,
    _files: tempfile::TempDir,
    /// An API server that never answers, for groups without a synced state.
    _silent: Option<TcpListener>,
}

impl Server {
    fn start(group: &Group, corefile: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name);
        fs::create_dir(path("manifests")).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": group.objects});
        fs::write(path("manifests/all.json"), list.to_string()).unwrap();
        fs::write(path("Corefile"), corefile).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        command.args(["dns", "--dns-listen", "127.0.0.1:0", "--corefile"]).arg(path("Corefile"));
        let silent = (!group.config.synced).then(|| TcpListener::bind("127.0.0.1:0").unwrap());
        match &silent {
            None => command.arg("--manifests").arg(path("manifests")),
            Some(silent) => {
                command.arg("--api-server").arg(format!("http://{}", silent.local_addr().unwrap()))
            }
        };
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let address = follow_log(&mut process, group.config.synced);
        Self { process, address, _files: files, _silent: silent }
    }

    /// Sends SIGTERM, as a service manager does.
    fn end(mut self) {
        let id = i32::try_from(self.process.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::SIGTERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process has ended, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the listening address from the log, and waits until the server is ready, if the group has a synced state.
fn follow_log(process: &mut Child, gets_ready: bool) -> SocketAddr {
    let log = BufReader::new(process.stderr.take().unwrap());
    let (sender, lines) = mpsc::channel();
    // The log is read to the end, so that the server never blocks on a full pipe.
    thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let (mut said, mut address, mut is_ready) = (Vec::new(), None, !gets_ready);
    while address.is_none() || !is_ready {
        let Ok(line) = lines.recv_timeout(PATIENCE) else { panic!("not ready: {said:#?}") };
        let at = line.split_once("address=").map(|(_, at)| at.trim().parse().unwrap());
        address = address.or(at);
        is_ready |= line.trim_end().ends_with("ready");
        said.push(line);
    }
    address.unwrap()
}

async fn corefile(group: &Group) -> (String, Vec<Upstream>) {
    let mut upstreams = Vec::new();
    let mut text = format!(". {{\n{}", kubernetes(&group.config));
    if let Some(zone) = &group.upstream {
        let upstream = Upstream::start(zone).await;
        text += &format!("    forward . {}\n", upstream.address);
        upstreams.push(upstream);
    }
    text += "    loadbalance\n}\n";
    for (domain, zone) in &group.stub_domains {
        let upstream = Upstream::start(zone).await;
        text += &format!("{domain} {{\n    forward . {}\n}}\n", upstream.address);
        upstreams.push(upstream);
    }
    (text, upstreams)
}

fn kubernetes(settings: &Settings) -> String {
    let zones = [settings.zones.as_slice(), &settings.multicluster_zones].concat();
    let mut text = format!("    kubernetes {} {{\n", zones.join(" "));
    let lists = [
        ("fallthrough", &settings.fallthrough),
        ("namespaces", &settings.namespaces),
        ("multicluster", &settings.multicluster_zones),
    ];
    for (name, words) in lists.iter().filter(|(_, words)| !words.is_empty()) {
        text += &format!("        {name} {}\n", words.join(" "));
    }
    let switches = [
        ("ignore empty_service", settings.ignore_empty_service),
        ("endpoint_pod_names", settings.endpoint_pod_names),
        ("zonal", settings.zonal),
    ];
    for (name, _) in switches.iter().filter(|(_, is_on)| *is_on) {
        text += &format!("        {name}\n");
    }
    text + &format!("        pods {}\n        ttl {}\n    }}\n", settings.pods, settings.ttl)
}

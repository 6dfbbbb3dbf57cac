//! Name resolution in a pod: the C library's resolver with the pod's own resolv.conf, and single queries.

use std::{
    collections::BTreeSet,
    env::{self, consts::ARCH},
    fmt,
    io::Read as _,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    str::FromStr as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hickory_server::proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use tokio::time::timeout;

use crate::lab::{dns::resolv_conf::resolv_conf, kernel::process::Process, pod::Pod};

const TIMEOUT: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;
/// The source of a program that looks names up.
const LOOKUP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/lookup.rs");
/// The exit status of getent if the name does not exist.
const NOT_FOUND: i32 = 2;
/// Mounts a file over /etc/resolv.conf, for this process and the program that it executes.
const WITH_RESOLV_CONF: &str = r#"mount --bind "$1" /etc/resolv.conf && shift && exec "$@""#;

/// The implementation of `getaddrinfo`.
#[derive(Debug)]
pub enum Library {
    Gnu,
    /// A program linked to musl.
    Musl(PathBuf),
}

impl Library {
    /// The libraries available on this machine. Programs that must be built for them are written to a directory.
    pub fn all(directory: &Path) -> Result<Vec<Self>> {
        let target = format!("{ARCH}-unknown-linux-musl");
        let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let rustc = |arguments: &[&str]| {
            Command::new(&compiler).args(["--target", &target]).args(arguments).output().context("no rustc")
        };
        let standard_library = rustc(&["--print", "target-libdir"]).map(|output| output.stdout);
        let mut libraries = vec![Self::Gnu];
        if standard_library.is_ok_and(|path| Path::new(String::from_utf8_lossy(&path).trim()).is_dir()) {
            let program = directory.join("lookup");
            let output = program.to_str().context("the path is not UTF-8")?;
            let built = rustc(&["--edition=2024", "-o", output, LOOKUP])?;
            ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            libraries.push(Self::Musl(program));
        }
        Ok(libraries)
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gnu => "glibc",
            Self::Musl(_) => "musl",
        })
    }
}

/// The resolver of a pod, with the kubelet's `dnsPolicy: ClusterFirst`.
#[derive(Debug)]
pub struct Resolver<'a> {
    pod: &'a Pod,
    server: IpAddr,
    resolv_conf: PathBuf,
}

impl<'a> Resolver<'a> {
    /// For a pod in this namespace; writes its resolv.conf to a directory.
    pub fn new(pod: &'a Pod, namespace: &str, server: IpAddr, directory: &Path) -> Result<Self> {
        let resolv_conf = resolv_conf(&pod.name, namespace, server, directory)?;
        Ok(Self { pod, server, resolv_conf })
    }

    /// The addresses that programs in the pod get for a name. Returns an empty set if the name does not exist.
    pub async fn addresses(&self, name: &str) -> Result<BTreeSet<IpAddr>> {
        let mut addresses = BTreeSet::new();
        for database in ["ahostsv4", "ahostsv6"] {
            let printed = self.getent(database, name).await?;
            for line in printed.lines() {
                addresses
                    .insert(first_word(line)?.parse().with_context(|| format!("not an address: {line}"))?);
            }
        }
        Ok(addresses)
    }

    /// The time of one process for this number of successive lookups of a name, each for all its addresses.
    pub async fn time(&self, library: &Library, name: &str, times: usize) -> Result<Duration> {
        let names = vec![name; times];
        let start = Instant::now();
        let found = match library {
            Library::Gnu => self.printed("getent", &[&["ahosts"], &*names].concat()).await?,
            Library::Musl(program) => {
                self.printed(program.to_str().context("the path is not UTF-8")?, &names).await?
            }
        };
        ensure!(!found.is_empty(), "{name} has no address");
        Ok(start.elapsed())
    }

    /// The names of an address, the primary one first. Returns an empty list if it has none.
    pub async fn names(&self, address: IpAddr) -> Result<Vec<String>> {
        let printed = self.getent("hosts", &address.to_string()).await?;
        Ok(printed.split_whitespace().skip(1).map(str::to_owned).collect())
    }

    /// The server's answer to one query.
    pub fn query(&self, name: &str, qtype: RecordType) -> Result<Message> {
        let any: IpAddr = if self.server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        self.query_from(any, name, qtype)
    }

    /// The server's answer to one query from an address of the pod.
    pub fn query_from(&self, source: IpAddr, name: &str, qtype: RecordType) -> Result<Message> {
        let name = Name::from_str(name).with_context(|| format!("{name} is not a name"))?;
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(name, qtype));
        let bind = || UdpSocket::bind(SocketAddr::new(source, 0)).context("cannot bind");
        let socket = self.pod.netns().run(bind)?;
        socket.set_read_timeout(Some(TIMEOUT)).context("cannot set a time limit")?;
        socket.connect((self.server, DNS_PORT)).context("cannot connect")?;
        socket
            .send(&query.to_vec().context("cannot serialize the query")?)
            .context("cannot send the query")?;
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer).with_context(|| format!("{} does not answer", self.server))?;
        Message::from_vec(answer.get(..length).unwrap_or_default()).context("cannot parse the answer")
    }

    /// The output lines of a program that looks names up.
    pub async fn printed(&self, program: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let (status, printed) = self.run(program, arguments).await?;
        ensure!(status.success(), "{program} {arguments:?}: {status}");
        Ok(printed.lines().map(str::to_owned).collect())
    }

    async fn getent(&self, database: &str, key: &str) -> Result<String> {
        let (status, printed) = self.run("getent", &[database, key]).await?;
        ensure!(status.success() || status.code() == Some(NOT_FOUND), "getent {database} {key}: {status}");
        Ok(printed)
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<(ExitStatus, String)> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", WITH_RESOLV_CONF, "sh"]).arg(&self.resolv_conf);
        command.arg(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let what = format!("{program} {} in {}", arguments.join(" "), self.pod.name);
        let mut process = Process::start(&what, command, self.pod.netns(), Some(self.pod.cgroup()))?;
        let status =
            timeout(TIMEOUT, process.ended()).await.with_context(|| format!("{what} does not end"))??;
        let mut printed = String::new();
        let output = process.child().stdout.as_mut().context("the output is missing")?;
        output.read_to_string(&mut printed).with_context(|| format!("cannot read the output of {what}"))?;
        Ok((status, printed))
    }
}

fn first_word(line: &str) -> Result<&str> {
    match line.split_whitespace().next() {
        Some(word) => Ok(word),
        None => bail!("an empty line"),
    }
}

//! A validating resolver behind this server: `delv` (of `bind9-dnsutils`, as `dig`) validates what it gets, from replies
//! of BIND for a signed zone through the cache, and from zones that BIND has signed and this server has as files.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tests::agent;

const REPLIES: &str = include_str!("../testdata/signed-zone");

/// The key-signing key of a zone.
struct Anchor {
    zone: &'static str,
    key: &'static str,
}

const OF_REPLIES: Anchor = Anchor {
    zone: "example.",
    key: "8vuTETu/qtV1ZFq712EHoTkrKwCHbdj367c8Z3CJPH9OTkK43+POokm/gAmPSDqvZ8IBuSCBXGBAP0qH47EAtA==",
};
const OF_FILES: Anchor = Anchor {
    zone: "example.org.",
    key: "h5DEXJHD8VEgcfYT8NLE76eg8Tj28g6cKXQgCsjzsWFBugUGV/h4UkrW/Ur4blap1XV7xYLa1n0szRQQaMDDsQ==",
};
/// Zones that `dnssec-signzone` has signed, with NSEC, with NSEC3 (5 iterations, a salt), and with NSEC3 opting out. The
/// signatures are valid until 2060.
const SIGNED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dns/testdata/signed");
const HEADER: usize = 12;
const PATIENCE: Duration = Duration::from_secs(30);

type Replies = HashMap<Vec<u8>, Vec<u8>>;

/// The question of a message, in lower case.
fn question(message: &[u8]) -> Vec<u8> {
    let name = message[HEADER..].iter().position(|octet| *octet == 0).expect("a name without pointers");
    message[HEADER..HEADER + name + 5].to_ascii_lowercase()
}

fn replies() -> Replies {
    let lines = REPLIES.lines().filter(|line| !line.starts_with('#'));
    let reply = |line: &str| {
        let hex = line.rsplit(' ').next().expect("the last field");
        let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        let octets: Vec<u8> = (0..hex.len()).step_by(2).map(octet).collect();
        (question(&octets), octets)
    };
    lines.map(reply).collect()
}

/// An upstream that has these replies, and REFUSED for all other questions. Ends with the process.
fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address");
    thread::spawn(move || {
        let (replies, mut buffer) = (replies(), [0; 4096]);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let asked = question(query);
            let mut reply = replies.get(&asked).cloned().unwrap_or_else(|| {
                let head = [&query[..2], &[0x81, 5, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
                [head, asked.clone()].concat()
            });
            reply[..2].copy_from_slice(&query[..2]);
            // The case of the query (0x20).
            let end = HEADER + asked.len();
            reply[HEADER..end].copy_from_slice(&query[HEADER..end]);
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

/// `portreeve dns`, which ends with this value.
struct Server {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server with one block, for all names.
fn start(directives: &str) -> Server {
    let directory = tempfile::tempdir().expect("a directory");
    let (corefile, manifests) = (directory.path().join("Corefile"), directory.path().join("manifests"));
    fs::write(&corefile, format!(". {{\n{directives}}}\n")).expect("a file");
    fs::create_dir(&manifests).expect("a directory");
    let mut command = Command::new(agent::portreeve().expect("it is built"));
    command.args(["dns", "--dns-listen", "127.0.0.1:0", "--corefile"]).arg(corefile);
    command.arg("--manifests").arg(manifests).stderr(Stdio::piped());
    let mut process = command.spawn().expect("it starts");
    let log = BufReader::new(process.stderr.take().expect("it is piped"));
    let (found, address) = mpsc::channel();
    // Read to its end, so that the server never waits for a reader.
    thread::spawn(move || {
        for line in log.lines().map_while(Result::ok).filter(|line| line.contains("serving DNS")) {
            let address = line.rsplit("address=").next().and_then(|text| text.trim().parse().ok());
            let _ = address.map(|address: SocketAddr| found.send(address));
        }
    });
    let address = address.recv_timeout(PATIENCE).expect("it serves");
    Server { process, address, directory }
}

/// The first line of `delv`, which says whether the answer is validated.
fn verdict(server: &Server, anchor: &Anchor, name: &str, qtype: &str) -> String {
    let Anchor { zone, key } = anchor;
    let anchors = server.directory.path().join("anchors");
    let text = format!("trust-anchors {{ \"{zone}\" static-key 257 3 13 \"{key}\"; }};");
    fs::write(&anchors, text).expect("a file");
    let (port, root) = (server.address.port().to_string(), format!("+root={zone}"));
    let mut delv = Command::new("delv");
    delv.args(["@127.0.0.1", "-p", &port, &root, "-a"]).arg(anchors).args([name, qtype]);
    let output = delv.output().expect("delv is in bind9-dnsutils");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let is_verdict =
        |line: &&str| line.contains("validated") || line.contains("failed") || line.contains("unsigned");
    text.lines().find(is_verdict).map_or_else(|| text.to_string(), str::to_owned)
}

/// The cache lowers TTLs, of which a signature tells the original, and must change nothing else: the MINIMUM of the
/// SOA record is signed (RFC 4034, section 3.1.8.1).
#[test]
fn answers_and_denials_are_validated_through_the_cache() {
    for directives in ["", " cache 30\n", " cache {\n  success 9984 20 10\n  denial 9984 20 10\n }\n"] {
        let server = start(&format!(" forward . {}\n{directives}", upstream()));
        for (name, qtype, want) in [
            ("www.example.", "A", "; fully validated"),
            ("alias.example.", "A", "; fully validated"),
            ("a.wild.example.", "A", "; fully validated"),
            ("example.", "SOA", "; fully validated"),
            ("www.example.", "AAAA", "; negative response, fully validated"),
            ("nx.example.", "A", "; negative response, fully validated"),
            ("wild.example.", "A", "; negative response, fully validated"),
        ] {
            // Twice, for the answer from the cache.
            for _ in 0..2 {
                let got = verdict(&server, &OF_REPLIES, name, qtype);
                assert_eq!(got, want, "{name} {qtype} with {directives:?}");
            }
        }
    }
}

const YES: &str = "; fully validated";
const NO: &str = "; negative response, fully validated";

/// Names of the signed zones, and the verdict.
const OF_ZONE: &[(&str, &str, &str)] = &[
    ("www.example.org.", "A", YES),
    ("example.org.", "SOA", YES),
    ("example.org.", "DNSKEY", YES),
    ("alias.example.org.", "A", YES),
    ("a.tree.example.org.", "A", YES),
    ("a.b.wild.example.org.", "A", YES),
    ("x.aka.example.org.", "A", YES),
    ("chain.example.org.", "A", YES),
    ("odd.example.org.", "TYPE65400", YES),
    ("nx.example.org.", "A", NO),
    ("x.y.www.example.org.", "A", NO),
    ("x.real.wild.example.org.", "A", NO),
    ("www.example.org.", "AAAA", NO),
    ("below.it.example.org.", "A", NO),
    ("a.wild.example.org.", "AAAA", NO),
    // Delegations: a signed zone, with a name in it, and unsigned ones.
    ("secure.example.org.", "DS", YES),
    ("host.secure.example.org.", "A", YES),
    ("nx.secure.example.org.", "A", NO),
    ("insecure.example.org.", "DS", NO),
    ("lone.ent.example.org.", "DS", NO),
];

/// Answers by a wildcard, whose exact name may be an unsigned delegation that is opted out (RFC 5155, section 7.2.6).
const BY_WILDCARD: [&str; 2] = ["a.b.wild.example.org.", "x.aka.example.org."];

/// As CoreDNS's `file` serves a zone that was signed elsewhere (RFC 4035, section 3.1; RFC 5155, section 7.2), directly,
/// and through the cache of another server.
#[test]
fn zones_of_files_are_validated() {
    for chain in ["nsec", "nsec3", "nsec3-opt-out"] {
        let zones = format!(
            " file {SIGNED}/{chain} example.org\n file {SIGNED}/child secure.example.org\n minimal\n"
        );
        let primary = start(&zones);
        let cached = start(&format!(" forward . {}\n cache 30\n", primary.address));
        for (case, server, times) in [("directly", &primary, 1), ("through the cache", &cached, 2)] {
            for (name, qtype, want) in OF_ZONE {
                let is_opted_out = chain == "nsec3-opt-out" && BY_WILDCARD.contains(name);
                let want = if is_opted_out { "; unsigned answer" } else { want };
                for _ in 0..times {
                    let got = verdict(server, &OF_FILES, name, qtype);
                    assert_eq!(got, want, "{name} {qtype} with {chain} {case}");
                }
            }
        }
    }
}

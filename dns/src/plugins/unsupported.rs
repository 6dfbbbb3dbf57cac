//! Directives of CoreDNS that are refused, each with the remedy.

use crate::corefile::{CorefileError, Statement};

const FORWARD: &str = "forward the zone to a server that has it";
const FILES: &str = "forward the zone to a server that has its files";
const BLOCKED: &str = "write a `template` for the names, or forward to a server that filters them";

/// Directives of CoreDNS (its plugin.cfg) that this server cannot implement, or does not need.
pub(super) const UNSUPPORTED: &[(&str, &str)] = &[
    ("azure", FORWARD),
    ("cancel", "remove it: no query takes longer than 5 s anyway"),
    ("clouddns", FORWARD),
    ("debug", "remove it; `--verbose` logs more"),
    ("dnssec", "forward the zone to a server that signs it"),
    ("erratic", "remove it: it is for tests"),
    ("etcd", FORWARD),
    ("geoip", "remove it: nothing here depends on a client's location"),
    ("grpc", "use `forward`"),
    ("grpc_server", "remove it: DNS is served over UDP, TCP, TLS and HTTPS"),
    ("https3", "serve `https://`"),
    ("metadata", "remove it"),
    ("multisocket", "remove it: there is a socket for each core anyway"),
    ("nomad", FORWARD),
    ("on", "remove it: commands are for the pod's lifecycle hooks"),
    ("pprof", "remove it"),
    ("proxyproto", "remove it: clients are seen with their own addresses"),
    ("quic", "serve `tls://`"),
    ("root", "remove it, and write paths in full"),
    ("route53", FORWARD),
    ("shed", "remove it: queries above the limits are refused anyway"),
    ("sign", "forward the zone to a server that signs it"),
    ("timeouts", "remove it: connections are timed as CoreDNS does without it"),
    ("trace", "remove it"),
    ("tsig", "remove it"),
];

/// Well-known plugins that are compiled into CoreDNS by their users.
pub(super) const EXTERNAL: &[(&str, &str)] = &[
    ("ads", BLOCKED),
    ("alias", "write the address, or forward the zone"),
    ("bigcache", "use `cache`"),
    ("blocklist", BLOCKED),
    ("demo", "remove it: it is an example"),
    ("dump", "use `log`"),
    ("dynamicupdate", FORWARD),
    ("ebpf", "remove it"),
    ("external", FORWARD),
    ("fallback", "use `next` of `forward`"),
    ("fanout", "use `forward`: a slow upstream is joined by another one"),
    ("finalize", "remove it: aliases are resolved by the upstreams"),
    ("git", FILES),
    ("github", FILES),
    ("gslb", FORWARD),
    ("ipin", "use `template`"),
    ("k8s_crd", FORWARD),
    ("k8s_event", "remove it: failures are in the log and in metrics"),
    ("k8s_gateway", FORWARD),
    ("kubenodes", FORWARD),
    ("mdns", FORWARD),
    ("meship", FORWARD),
    ("meshname", FORWARD),
    ("metrics", "use `prometheus`"),
    ("multicluster", FORWARD),
    ("mysql", FORWARD),
    ("netbox", FORWARD),
    ("pdsql", FORWARD),
    ("proxy", "use `forward`"),
    ("records", "use `hosts` or `template`"),
    ("recursor", "use `forward` to a recursive server"),
    ("redis", FORWARD),
    ("redisc", "use `cache`"),
    ("rrl", "remove it: `--dns-rate-limit` limits identical replies to one network"),
    ("split", "use a server block for each view"),
    ("tailscale", FORWARD),
    ("unbound", "use `forward` to a recursive server"),
    ("warnlist", BLOCKED),
    ("wgsd", FORWARD),
];

/// The refusal of a directive that is none of `supported`.
pub(super) fn refuse(statement: &Statement, supported: impl Iterator<Item = &'static str>) -> CorefileError {
    let name = statement.name.text.as_str();
    if let Some((_, remedy)) =
        UNSUPPORTED.iter().chain(EXTERNAL).find(|(unsupported, _)| *unsupported == name)
    {
        return statement.refuse(format!("the directive `{name}` is not supported; {remedy}"));
    }
    let mut similar = supported.filter(|known| is_similar(known, name));
    match similar.next() {
        Some(known) => statement.refuse(format!("there is no directive `{name}`; is `{known}` meant?")),
        None => statement.refuse(format!("there is no directive `{name}`; remove the line or correct it")),
    }
}

/// Whether one letter was added, left out or replaced.
fn is_similar(known: &str, name: &str) -> bool {
    let shared = known.bytes().zip(name.bytes()).take_while(|(one, other)| one == other).count();
    let rest = |text: &str, skip: usize| text.as_bytes().get(shared + skip..).map(<[u8]>::to_vec);
    let same = |skip: usize, other: usize| {
        let (one, other) = (rest(known, skip), rest(name, other));
        one.is_some() && one == other
    };
    same(1, 1) || same(1, 0) || same(0, 1)
}

//! Directives of CoreDNS that are refused, each with the remedy.

use crate::corefile::{CorefileError, Statement};

/// Directives that this server cannot implement, or does not need.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("acl", "use a NetworkPolicy"),
    ("auto", "forward the zone to a server that has its files"),
    ("autopath", "remove it: the search list is answered from memory anyway"),
    ("azure", "forward the zone to a server that has it"),
    ("cancel", "remove it: no query takes longer than 5 s anyway"),
    ("clouddns", "forward the zone to a server that has it"),
    ("dns64", "let a server behind `forward` do it"),
    ("dnssec", "forward the zone to a server that signs it"),
    ("dnstap", "remove it"),
    ("erratic", "remove it"),
    ("etcd", "forward the zone to a server that has it"),
    ("file", "forward the zone to a server that has the file"),
    ("grpc", "use `forward`"),
    ("header", "remove it"),
    ("k8s_external", "forward the zone to a server that has it"),
    ("metadata", "remove it"),
    ("multisocket", "remove it: there is a socket for each core anyway"),
    ("nomad", "forward the zone to a server that has it"),
    ("nsid", "remove it"),
    ("pprof", "remove it"),
    ("proxyproto", "remove it"),
    ("quic", "serve plain DNS"),
    ("route53", "forward the zone to a server that has it"),
    ("secondary", "forward the zone to its primary"),
    ("sign", "forward the zone to a server that signs it"),
    ("timeouts", "remove it: connections are timed as CoreDNS does without it"),
    ("tls", "serve plain DNS"),
    ("trace", "remove it"),
    ("transfer", "remove it"),
    ("tsig", "remove it"),
    ("view", "write a server block without it"),
    ("whoami", "remove it"),
];

/// The refusal of a directive that is none of `supported`.
pub(super) fn refuse(statement: &Statement, supported: impl Iterator<Item = &'static str>) -> CorefileError {
    let name = statement.name.text.as_str();
    if let Some((_, remedy)) = UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == name) {
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

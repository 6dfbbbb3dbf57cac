//! A server block: each directive does its part.

use std::net::{IpAddr, SocketAddr};

use super::{CorefileError, cache, forward, hosts, keys, kubernetes, log, rewrite, template, tree};
use crate::config::{BindAddress, Health, Reload, ServerBlock, Zones, any};

/// What CoreDNS can do and this server cannot, or need not.
const ELSEWHERE: &[(&str, &str)] = &[
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

const KNOWN: &[&str] = &[
    "any",
    "bind",
    "bufsize",
    "cache",
    "errors",
    "forward",
    "health",
    "hosts",
    "kubernetes",
    "local",
    "log",
    "loadbalance",
    "loop",
    "minimal",
    "prometheus",
    "ready",
    "reload",
    "rewrite",
    "template",
];

const HEALTH_PORT: u16 = 8080;
const READY_PORT: u16 = 8181;
const METRICS_PORT: u16 = 9153;

pub(super) fn server(block: &tree::Block) -> Result<ServerBlock, CorefileError> {
    let mut listens = Vec::new();
    for key in &block.keys {
        listens.extend(keys::listens(key)?);
    }
    let zones = Zones(listens.iter().map(|listen| listen.zone.clone()).collect());
    let mut server = ServerBlock::new(listens);
    for (at, directive) in block.directives.iter().enumerate() {
        refuse_twice(directive, &block.directives[..at])?;
        apply(&mut server, directive, &zones)?;
    }
    Ok(server)
}

/// These may stand there more than once, each adding to the others.
const REPEATABLE: &[&str] = &["forward", "rewrite", "template", "bind", "log"];

fn refuse_twice(directive: &tree::Directive, before: &[tree::Directive]) -> Result<(), CorefileError> {
    let name = &directive.name.text;
    let first = before.iter().find(|earlier| earlier.name.text == *name);
    match first.filter(|_| !REPEATABLE.contains(&name.as_str())) {
        None => Ok(()),
        Some(first) => Err(directive
            .refuse(format!("`{name}` stands in line {} already; put both into one", first.name.line))),
    }
}

fn apply(server: &mut ServerBlock, directive: &tree::Directive, zones: &Zones) -> Result<(), CorefileError> {
    match directive.name.text.as_str() {
        "kubernetes" => server.kubernetes = Some(kubernetes::read(directive, zones)?),
        "forward" => server.forwards.push(forward::read(directive)?),
        "cache" => server.cache = Some(cache::read(directive, zones)?),
        "hosts" => server.hosts = Some(hosts::read(directive, zones)?),
        "rewrite" => server.rewrites.push(rewrite::read(directive)?),
        "template" => server.templates.push(template::read(directive, zones)?),
        "bind" => bind(server, directive)?,
        "bufsize" => server.max_udp_payload = bufsize(directive)?,
        "errors" => errors(directive)?,
        "log" => server.logs.push(log::read(directive)?),
        "health" => server.health = Some(health(directive)?),
        "ready" => server.ready = Some(address(directive, any(READY_PORT))?),
        "prometheus" => server.metrics = Some(address(directive, metrics_address())?),
        "reload" => server.reload = reload(directive)?,
        "loadbalance" => server.shuffle = loadbalance(directive)?,
        "loop" => server.detect_loops = flag(directive)?,
        // As without it: such names never leave this machine.
        "local" => server.local = flag(directive)?,
        "any" => server.minimal_any = flag(directive)?,
        "minimal" => server.minimal = flag(directive)?,
        _ => return Err(unknown(directive)),
    }
    Ok(())
}

fn unknown(directive: &tree::Directive) -> CorefileError {
    let name = directive.name.text.as_str();
    if let Some((_, advice)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
        return directive.refuse(format!("the directive `{name}` is not supported; {advice}"));
    }
    match KNOWN.iter().find(|known| is_nearly(known, name)) {
        Some(meant) => directive.refuse(format!("there is no directive `{name}`; is `{meant}` meant?")),
        None => directive.refuse(format!("there is no directive `{name}`; remove the line or correct it")),
    }
}

/// One letter too many, too few or wrong.
fn is_nearly(known: &str, name: &str) -> bool {
    let shared = known.bytes().zip(name.bytes()).take_while(|(mine, theirs)| mine == theirs).count();
    let rest = |text: &str, skip: usize| text.as_bytes().get(shared + skip..).map(<[u8]>::to_vec);
    let same = |skip: usize, other: usize| {
        let (mine, theirs) = (rest(known, skip), rest(name, other));
        mine.is_some() && mine == theirs
    };
    same(1, 1) || same(1, 0) || same(0, 1)
}

fn flag(directive: &tree::Directive) -> Result<bool, CorefileError> {
    directive.no_words()?;
    directive.no_body()?;
    Ok(true)
}

fn bind(server: &mut ServerBlock, directive: &tree::Directive) -> Result<(), CorefileError> {
    directive.no_body()?;
    if directive.words.is_empty() {
        return Err(directive.misused("bind ADDRESS|INTERFACE..."));
    }
    server.bind.extend(directive.words.iter().map(|word| match word.text.parse::<IpAddr>() {
        Ok(address) => BindAddress::Address(address),
        Err(_) => BindAddress::Interface(word.text.clone()),
    }));
    Ok(())
}

fn bufsize(directive: &tree::Directive) -> Result<u16, CorefileError> {
    directive.no_body()?;
    if directive.words.is_empty() {
        return Ok(crate::config::MAX_UDP_PAYLOAD);
    }
    let [size] = directive.exactly("bufsize [SIZE]")?;
    let number: u16 = size.number()?;
    if !(512..=4096).contains(&number) {
        return Err(size.refuse("`bufsize` takes a size from 512 to 4096"));
    }
    Ok(number)
}

/// Failures are logged in any case, when they begin and when they end.
fn errors(directive: &tree::Directive) -> Result<(), CorefileError> {
    directive.no_words()?;
    for option in &directive.body {
        if !["consolidate", "stacktrace"].contains(&option.name.text.as_str()) {
            return Err(directive.unknown_option(option));
        }
    }
    Ok(())
}

fn health(directive: &tree::Directive) -> Result<Health, CorefileError> {
    let mut health =
        Health { address: address_alone(directive, any(HEALTH_PORT))?, lameduck: Default::default() };
    for option in &directive.body {
        match option.name.text.as_str() {
            "lameduck" => health.lameduck = option.exactly::<1>("lameduck DURATION")?[0].duration()?,
            _ => return Err(directive.unknown_option(option)),
        }
    }
    Ok(health)
}

/// Unlike health, metrics are told on loopback unless something else is said.
fn metrics_address() -> SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, METRICS_PORT).into()
}

fn address(directive: &tree::Directive, otherwise: SocketAddr) -> Result<SocketAddr, CorefileError> {
    let monitors = directive.name.text == "ready";
    for option in &directive.body {
        // Readiness never goes back once everything has been listed, which is what `until-ready` says.
        let harmless = monitors
            && option.name.text == "monitor"
            && option.words.iter().all(|word| word.is("until-ready"));
        if !harmless {
            return Err(directive.unknown_option(option));
        }
    }
    address_alone(directive, otherwise)
}

fn address_alone(directive: &tree::Directive, otherwise: SocketAddr) -> Result<SocketAddr, CorefileError> {
    match directive.words.as_slice() {
        [] => Ok(otherwise),
        [word] => listen_address(&word.text).ok_or_else(|| {
            word.refuse(format!(
                "`{}` is no address to listen at; write `:9153` or `127.0.0.1:9153`",
                word.text
            ))
        }),
        [_, more, ..] => Err(more.refuse("one address is enough")),
    }
}

/// `:8080`, `localhost:8080`, `127.0.0.1:8080`, `[::1]:8080`.
fn listen_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host {
        "" => Some(any(port)),
        "localhost" => Some((std::net::Ipv4Addr::LOCALHOST, port).into()),
        _ => text.parse().ok(),
    }
}

fn reload(directive: &tree::Directive) -> Result<Option<Reload>, CorefileError> {
    directive.no_body()?;
    let mut reload = Reload::default();
    match directive.words.as_slice() {
        [] => {}
        [off] if off.is("off") => return Ok(None),
        [interval] => {
            reload.interval = interval.pause()?;
            reload.jitter = reload.jitter.min(reload.interval / 2);
        }
        [interval, jitter] => (reload.interval, reload.jitter) = (interval.pause()?, jitter.duration()?),
        [_, _, ..] => return Err(directive.misused("reload [INTERVAL] [JITTER]")),
    }
    Ok(Some(reload))
}

fn loadbalance(directive: &tree::Directive) -> Result<bool, CorefileError> {
    directive.no_body()?;
    match directive.words.as_slice() {
        [] => Ok(true),
        [policy] if policy.is("round_robin") => Ok(true),
        [policy, ..] => {
            Err(policy.refuse("only the policy `round_robin` is supported; write `loadbalance` alone"))
        }
    }
}

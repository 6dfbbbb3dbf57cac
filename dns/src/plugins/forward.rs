//! `forward FROM TO...`: queries for other zones go to upstreams. The forwarder itself is `resolve::forward`.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use hickory_server::proto::rr::{LowerName, Name};
use rustls::pki_types::ServerName;

use super::directive::Repeated;
use crate::{
    config::{DNS_PORT, DohMethod, Forward, HealthCheck, Policy, Tls, Upstream, UpstreamProtocol, Zones},
    corefile::{CorefileError, Statement, Word, zones},
};

impl Repeated for Forward {
    const NAME: &'static str = "forward";
    const SUMMARY: &'static str =
        "upstreams over UDP, TCP, TLS and HTTPS, by address, by name or from a resolv.conf";
    const OPTIONS: &'static [&'static str] = &[
        "except",
        "force_tcp",
        "expire",
        "max_age",
        "max_idle_conns",
        "read_timeout",
        "max_connect_attempts",
        "doh_method",
        "source_address",
        "resolver",
        "max_fails",
        "max_concurrent",
        "policy",
        "health_check",
        "tls",
        "tls_servername",
        "failover",
        "next",
        "next_on_nodata",
        "failfast_all_unhealthy_upstreams",
    ];
    const INEFFECTIVE: &'static [(&'static str, &'static str)] =
        &[("prefer_udp", "upstreams are asked over UDP first in any case")];

    fn read(statement: &Statement, _zones: &Zones) -> Result<Self, CorefileError> {
        parse(statement)
    }
}

const USAGE: &str = "forward FROM TO...";
const MAX_UPSTREAMS: usize = 15;
const TLS_USAGE: &str = "an upstream over TLS (or `https://`) is `tls://ADDRESS:PORT`, with the name in its certificate \
                         `tls://ADDRESS%NAME:PORT` or `tls://[ADDRESS%NAME]:PORT`";

fn parse(statement: &Statement) -> Result<Forward, CorefileError> {
    let (from, to) = statement.words.split_first().ok_or_else(|| statement.misused(USAGE))?;
    let [from] = <[_; 1]>::try_from(from.zones()?)
        .map_err(|_| from.refuse("this network is several zones; write a `forward` for each of them"))?;
    if to.is_empty() {
        return Err(statement.misused(USAGE));
    }
    let mut forward = Forward { from, ..Forward::to(upstreams(to)?) };
    for option in &statement.body {
        option.no_body()?;
        if !read_switch(&mut forward, option)? && !read_value(&mut forward, option)? {
            return Err(statement.unknown_option(option));
        }
    }
    if forward.max_age.is_some_and(|age| age < forward.expire) {
        return Err(statement.refuse("`max_age` is less than `expire`; raise it, or lower `expire`"));
    }
    Ok(forward)
}

/// Reads the words behind the zone.
pub(super) fn upstreams(words: &[Word]) -> Result<Vec<Upstream>, CorefileError> {
    match words.get(MAX_UPSTREAMS) {
        Some(more) => Err(more.refuse("15 upstreams are the most; remove the others")),
        None => words.iter().map(upstream).collect(),
    }
}

/// Reads an option without words. Returns `false` for another option.
fn read_switch(forward: &mut Forward, option: &Statement) -> Result<bool, CorefileError> {
    match option.name.text.as_str() {
        "force_tcp" => forward.force_tcp = true,
        // UDP comes first anyway.
        "prefer_udp" => {}
        "next_on_nodata" => forward.next_on_nodata = true,
        "failfast_all_unhealthy_upstreams" => forward.fail_fast = true,
        _ => return Ok(false),
    }
    option.no_words()?;
    Ok(true)
}

fn read_value(forward: &mut Forward, option: &Statement) -> Result<bool, CorefileError> {
    match option.name.text.as_str() {
        "except" => forward.except = zones(&option.words)?,
        "expire" => forward.expire = option.exactly::<1>("expire DURATION")?[0].duration()?,
        "max_age" => {
            let [age] = option.exactly("max_age DURATION")?;
            forward.max_age = Some(age.duration()?).filter(|age| !age.is_zero());
        }
        "max_idle_conns" => {
            let number: usize = option.exactly::<1>("max_idle_conns NUMBER")?[0].number()?;
            // As in CoreDNS, 0 is no limit.
            forward.max_idle = if number == 0 { usize::MAX } else { number };
        }
        "read_timeout" => forward.read_timeout = read_timeout(option)?,
        "max_connect_attempts" => {
            forward.max_attempts = Some(option.exactly::<1>("max_connect_attempts NUMBER")?[0].number()?);
        }
        "doh_method" => forward.doh_method = doh_method(option)?,
        "source_address" => forward.source = Some(source(option)?),
        "resolver" => forward.resolvers = resolvers(option)?,
        "max_fails" => forward.max_fails = option.exactly::<1>("max_fails NUMBER")?[0].number()?,
        "max_concurrent" => {
            let number: u32 = option.exactly::<1>("max_concurrent NUMBER")?[0].number()?;
            forward.max_concurrent = (number > 0).then_some(number);
        }
        "policy" => forward.policy = policy(option)?,
        "health_check" => forward.health_check = health_check(option)?,
        "tls" => tls(&mut forward.tls, option)?,
        "tls_servername" => {
            let [name] = option.exactly("tls_servername NAME")?;
            if ServerName::try_from(name.text.as_str()).is_err() {
                return Err(name.refuse(format!("`{}` is no name of a server", name.text)));
            }
            forward.tls.server_name = Some(name.text.clone());
        }
        "failover" => forward.failover = rcodes(option)?,
        "next" => forward.next = rcodes(option)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn rcodes(option: &Statement) -> Result<Vec<hickory_server::proto::op::ResponseCode>, CorefileError> {
    if option.words.is_empty() {
        return Err(option.misused(&format!("{} RCODE...", option.name.text)));
    }
    option.words.iter().map(Word::rcode).collect()
}

fn read_timeout(option: &Statement) -> Result<Duration, CorefileError> {
    let [word] = option.exactly("read_timeout DURATION")?;
    match word.duration()? {
        Duration::ZERO => Err(word.refuse("no upstream answers in no time; write one like `2s`")),
        timeout => Ok(timeout),
    }
}

fn doh_method(option: &Statement) -> Result<DohMethod, CorefileError> {
    let [word] = option.exactly("doh_method GET|POST")?;
    match word.text.as_str() {
        "GET" => Ok(DohMethod::Get),
        "POST" => Ok(DohMethod::Post),
        _ => Err(word.refuse("a method is `GET` or `POST`")),
    }
}

fn source(option: &Statement) -> Result<IpAddr, CorefileError> {
    let [word] = option.exactly("source_address IP")?;
    word.text.parse().map_err(|_| word.refuse(format!("`{}` is no address", word.text)))
}

fn resolvers(option: &Statement) -> Result<Vec<SocketAddr>, CorefileError> {
    if option.words.is_empty() {
        return Err(option.misused("resolver IP[:PORT]..."));
    }
    let resolver = |word: &Word| {
        let refuse =
            || word.refuse(format!("`{}` is no address; a resolver is `IP` or `IP:PORT`", word.text));
        address(&word.text, DNS_PORT).ok_or_else(refuse)
    };
    option.words.iter().map(resolver).collect()
}

fn policy(option: &Statement) -> Result<Policy, CorefileError> {
    let [word] = option.exactly("policy random|round_robin|sequential")?;
    match word.text.as_str() {
        "random" => Ok(Policy::Random),
        "round_robin" => Ok(Policy::RoundRobin),
        "sequential" => Ok(Policy::Sequential),
        _ => Err(word.refuse("a policy is `random`, `round_robin` or `sequential`")),
    }
}

fn health_check(option: &Statement) -> Result<HealthCheck, CorefileError> {
    let usage = "health_check DURATION [no_rec] [domain NAME]";
    let mut words = option.words.iter();
    let interval = words.next().ok_or_else(|| option.misused(usage))?.interval()?;
    let mut check = HealthCheck { interval, ..HealthCheck::default() };
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "no_rec" => check.recursion_desired = false,
            "domain" => check.domain = words.next().ok_or_else(|| option.misused(usage))?.name()?,
            _ => return Err(option.misused(usage)),
        }
    }
    Ok(check)
}

/// Words: none; a CA; certificate and key; or all three.
fn tls(tls: &mut Tls, option: &Statement) -> Result<(), CorefileError> {
    let (client, authority) = match option.words.as_slice() {
        [] => (None, None),
        [authority] => (None, Some(authority)),
        [certificate, key] => (Some((certificate, key)), None),
        [certificate, key, authority] => (Some((certificate, key)), Some(authority)),
        [_, _, _, more, ..] => return Err(more.refuse("`tls` takes a certificate, a key and an authority")),
    };
    tls.authority = authority.map(Word::path);
    tls.client = client.map(|(certificate, key)| (certificate.path(), key.path()));
    Ok(())
}

fn upstream(word: &Word) -> Result<Upstream, CorefileError> {
    let (protocol, rest) = match word.text.split_once("://") {
        None => (UpstreamProtocol::Dns, word.text.as_str()),
        Some(("dns", rest)) => (UpstreamProtocol::Dns, rest),
        Some(("tls", rest)) => (UpstreamProtocol::Tls, rest),
        Some(("https", rest)) => (UpstreamProtocol::Https, rest),
        Some((other, _)) => {
            return Err(word.refuse(format!(
                "upstreams over `{other}://` are not supported; use the same server over `tls://`, `https://` or plain"
            )));
        }
    };
    if protocol == UpstreamProtocol::Https && rest.contains('/') {
        return Err(word.refuse("the path of an upstream over HTTPS is `/dns-query`; remove it here"));
    }
    let (target, name) = match protocol {
        UpstreamProtocol::Tls | UpstreamProtocol::Https => {
            server_name(rest).ok_or_else(|| word.refuse(TLS_USAGE))?
        }
        UpstreamProtocol::Dns => (rest.to_owned(), None),
    };
    if let Some(address) = address(&target, protocol.port()) {
        return Ok(Upstream::Server { address, protocol, server_name: name });
    }
    if protocol == UpstreamProtocol::Dns && target.starts_with('/') {
        return match Path::new(&target).is_file() {
            true => Ok(Upstream::ResolvConf(target.into())),
            false => Err(word.refuse(format!("there is no file `{target}`; correct the name"))),
        };
    }
    let refuse = || word.refuse(format!("`{}` is neither an address, nor a name, nor a file", word.text));
    let (host, port) = host(&target, protocol.port()).ok_or_else(refuse)?;
    Ok(Upstream::Host { name: host, port, protocol, server_name: name })
}

/// A name that can be resolved, and its port. Not what only looks like an address, such as `10.0.0.256`.
fn host(text: &str, default: u16) -> Option<(LowerName, u16)> {
    let (name, port) = match text.rsplit_once(':') {
        None => (text, default),
        Some((name, port)) => (name, port.parse().ok()?),
    };
    let is_name = matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_)));
    let top = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_numeric = top.bytes().all(|octet| octet.is_ascii_digit());
    let mut name = Name::from_ascii(name).ok().filter(|_| is_name && !is_numeric)?;
    name.set_fqdn(true);
    Some((name.into(), port))
}

/// The server name of `ADDRESS%NAME:PORT`, `[ADDRESS%NAME]:PORT` or `ADDRESS:PORT%NAME`, and the text without it.
fn server_name(text: &str) -> Option<(String, Option<String>)> {
    let Some((before, after)) = text.rsplit_once('%') else { return Some((text.to_owned(), None)) };
    // The bracket of an IPv6 address is closed after the name.
    let end = after.find([']', ':']).unwrap_or(after.len());
    let (name, rest) = after.split_at(end);
    let is_valid = ServerName::try_from(name).is_ok();
    is_valid.then(|| (format!("{before}{rest}"), Some(name.to_owned())))
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_default = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
    with_default.or_else(|| text.parse().ok())
}

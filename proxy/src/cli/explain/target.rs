//! Source and destination of a flow as given on the command line: addresses, or names.

use std::net::{IpAddr, SocketAddr};

use crate::model::{
    address::{Protocol, parse_ip},
    service::{ServiceKey, ServicePortKey},
};

/// The namespace of names without one.
const NAMESPACE: &str = "default";

/// The source of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    Address(IpAddr),
    /// `NAMESPACE/NAME` of a pod.
    Pod(String),
}

/// The destination of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    pub address: SocketAddr,
    pub protocol: Protocol,
}

/// A Service, or one of its ports by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    pub service: ServiceKey,
    pub port: Option<String>,
}

impl ServiceName {
    /// Whether a frontend with this port number is asked for.
    pub fn takes(&self, key: &ServicePortKey, port: u16) -> bool {
        let is_named = |wanted: &str| wanted == &*key.port_name || wanted.parse() == Ok(port);
        key.service == self.service && self.port.as_deref().is_none_or(is_named)
    }

    pub fn text(&self) -> String {
        let port = self.port.as_ref().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port}", self.service)
    }
}

pub fn source(text: &str) -> Result<SourceName, String> {
    let invalid = || format!("`{text}` is neither an IP address nor [NAMESPACE/]POD");
    if let Some(address) = parse_ip(text.trim()) {
        return Ok(SourceName::Address(address));
    }
    let (namespace, name) = text.split_once('/').unwrap_or((NAMESPACE, text));
    // The last part of an address is a number, and a name with colons none of a pod.
    let looks_like_an_address = name.rsplit('.').next().is_some_and(|part| part.parse::<u64>().is_ok());
    let is_name = is_name(namespace) && is_name(name) && !(text == name && looks_like_an_address);
    is_name.then(|| SourceName::Pod(format!("{namespace}/{name}"))).ok_or_else(invalid)
}

pub fn service(text: &str) -> Result<ServiceName, String> {
    let invalid = || format!("`{text}` is not [NAMESPACE/]SERVICE[:PORT]; an address goes behind --to");
    let (name, port) = match text.split_once(':') {
        Some((name, port)) if !port.is_empty() => (name, Some(port.to_owned())),
        Some(_) => return Err(invalid()),
        None => (text, None),
    };
    let (namespace, name) = name.split_once('/').unwrap_or((NAMESPACE, name));
    if !is_name(namespace) || !is_name(name) || parse_ip(name).is_some() {
        return Err(invalid());
    }
    Ok(ServiceName { service: ServiceKey::new(namespace, name), port })
}

/// A name of Kubernetes: lower-case letters, digits, dashes and dots.
fn is_name(text: &str) -> bool {
    let is_valid = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-.".contains(&octet);
    !text.is_empty() && text.bytes().all(is_valid)
}

pub fn destination(text: &str) -> Result<Destination, String> {
    let (endpoint, protocol) = match text.split_once('/') {
        Some((endpoint, protocol)) => {
            (endpoint, protocol.to_uppercase().parse().map_err(|e| format!("{e}"))?)
        }
        None => (text, Protocol::Tcp),
    };
    let invalid = || format!("`{endpoint}` is not IP:PORT (an IPv6 address goes in brackets)");
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(invalid)?;
    let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) if inner.contains(':') => parse_ip(inner),
        Some(_) => None,
        None if host.contains(':') => None,
        None => parse_ip(host),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or_else(invalid)?;
    Ok(Destination { address: SocketAddr::new(ip.ok_or_else(invalid)?, port), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_addresses_or_pods() {
        for (text, want) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("web-0", Some("default/web-0")),
            ("shop/web-0", Some("shop/web-0")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("fd00:::1", None),
            ("Web", None),
            ("shop/", None),
            ("a/b/c", None),
            ("", None),
        ] {
            let got = source(text).ok().map(|from| match from {
                SourceName::Address(address) => address.to_string(),
                SourceName::Pod(name) => name,
            });
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn services_have_a_namespace_and_perhaps_a_port() {
        for (text, want) in [
            ("web", Some("default/web")),
            ("shop/web", Some("shop/web")),
            ("shop/web:http", Some("shop/web:http")),
            ("web:80", Some("default/web:80")),
            ("web:", None),
            ("10.0.0.1:80", None),
            ("10.0.0.1", None),
            ("[fd00::1]:80", None),
            ("a/b/c", None),
            ("", None),
        ] {
            assert_eq!(service(text).ok().map(|name| name.text()).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn destinations_are_parsed() {
        for (text, want) in [
            ("10.0.0.1:80", Some("10.0.0.1:80 TCP")),
            ("10.0.0.1:53/udp", Some("10.0.0.1:53 UDP")),
            ("10.0.0.1:53/SCTP", Some("10.0.0.1:53 SCTP")),
            ("010.0.0.01:80", Some("10.0.0.1:80 TCP")),
            ("[fd00::1]:80/udp", Some("[fd00::1]:80 UDP")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80 TCP")),
            ("10.0.0.1:0", Some("10.0.0.1:0 TCP")),
            ("10.0.0.1", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:+80", None),
            ("10.0.0.1:65536", None),
            ("10.0.0.1:80/", None),
            ("10.0.0.1:80/icmp", None),
            ("10.0.0.1:80/tcp/udp", None),
            ("fd00::1:80", None),
            ("[10.0.0.1]:80", None),
            ("[fd00::1:80", None),
            ("web:80", None),
            ("", None),
        ] {
            let got = destination(text).ok().map(|to| format!("{} {}", to.address, to.protocol));
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }
}

//! The ConfigMap of kube-dns as a Corefile: `stubDomains` and `upstreamNameservers`, each a text in JSON.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use super::{CorefileError, keys};
use crate::text_file;

/// The keys of the ConfigMap.
pub const STUB_DOMAINS: &str = "stubDomains";
pub const UPSTREAM_NAMESERVERS: &str = "upstreamNameservers";

/// The file of CoreDNS's ConfigMap.
const COREFILE: &str = "Corefile";
/// Limit of kube-dns.
const MAX_UPSTREAMS: usize = 3;

/// A problem of a key: its line, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{key}, line {line}: {problem}")]
pub struct KubeDnsError {
    key: &'static str,
    line: usize,
    problem: String,
}

/// The Corefile of a directory to which a ConfigMap is mounted: that of CoreDNS, or one from the keys of kube-dns, with
/// its text.
pub(super) fn in_directory(directory: &Path) -> Result<(PathBuf, Option<String>), CorefileError> {
    let path = directory.join(COREFILE);
    if path.exists() {
        return Ok((path, None));
    }
    let read = |key: &str| match text_file::read(&directory.join(key)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CorefileError::Unreadable(directory.join(key), error)),
    };
    let (stub_domains, upstreams) = (read(STUB_DOMAINS)?, read(UPSTREAM_NAMESERVERS)?);
    if stub_domains.is_none() && upstreams.is_none() {
        let missing =
            io::Error::new(io::ErrorKind::NotFound, "it has neither `Corefile` nor the keys of kube-dns");
        return Err(CorefileError::Unreadable(directory.to_owned(), missing));
    }
    let text = from_config_map(stub_domains.as_deref(), upstreams.as_deref());
    let text = text.map_err(|KubeDnsError { key, line, problem }| CorefileError::Refused {
        file: directory.join(key).display().to_string(),
        line,
        problem,
    })?;
    Ok((path, Some(text)))
}

/// The Corefile that serves as kube-dns with these values. The cluster domain is Kubernetes' default.
pub fn from_config_map(stub_domains: Option<&str>, upstreams: Option<&str>) -> Result<String, KubeDnsError> {
    let upstreams: Vec<String> = parse(UPSTREAM_NAMESERVERS, upstreams)?;
    if upstreams.len() > MAX_UPSTREAMS {
        let problem = format!("kube-dns takes {MAX_UPSTREAMS} upstreams at the most; remove the others");
        return Err(KubeDnsError { key: UPSTREAM_NAMESERVERS, line: 1, problem });
    }
    let stub_domains: BTreeMap<String, Vec<String>> = parse(STUB_DOMAINS, stub_domains)?;
    let upstreams = if upstreams.is_empty() {
        "/etc/resolv.conf".to_owned()
    } else {
        servers(UPSTREAM_NAMESERVERS, &upstreams)?
    };
    let mut text = format!(
        ".:53 {{\n    errors\n    health {{\n        lameduck 5s\n    }}\n    ready\n    \
         kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        pods insecure\n        \
         fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }}\n    prometheus :9153\n    forward . {upstreams}\n    \
         cache 30\n    loop\n    reload\n    loadbalance\n}}\n"
    );
    for (domain, addresses) in &stub_domains {
        let is_domain = is_word(domain) && keys::zones(domain).is_some() && !domain.contains([':', '/']);
        if !is_domain {
            return Err(refuse(STUB_DOMAINS, format!("`{domain}` is no domain name")));
        }
        if addresses.is_empty() {
            return Err(refuse(
                STUB_DOMAINS,
                format!("`{domain}` has no name server; add one, or remove it"),
            ));
        }
        let servers = servers(STUB_DOMAINS, addresses)?;
        // Writing to a string does not fail.
        let _ =
            write!(text, "{domain}:53 {{\n    errors\n    cache 30\n    loop\n    forward . {servers}\n}}\n");
    }
    Ok(text)
}

fn parse<T: serde::de::DeserializeOwned + Default>(
    key: &'static str,
    text: Option<&str>,
) -> Result<T, KubeDnsError> {
    match text.filter(|text| !text.trim().is_empty()) {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(text).map_err(|error| KubeDnsError {
            key,
            line: error.line(),
            problem: format!("no valid JSON: {error}"),
        }),
    }
}

fn servers(key: &'static str, addresses: &[String]) -> Result<String, KubeDnsError> {
    match addresses.iter().find(|address| !is_word(address)) {
        Some(address) => Err(refuse(key, format!("`{address}` is no name server"))),
        None => Ok(addresses.join(" ")),
    }
}

fn refuse(key: &'static str, problem: String) -> KubeDnsError {
    KubeDnsError { key, line: 1, problem }
}

/// Whether a text is one word of a Corefile, and no other syntax.
fn is_word(text: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.:[]".contains(&octet);
    !text.is_empty() && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_kube_dns_are_blocks() {
        let text = from_config_map(
            Some(r#"{"acme.local": ["1.2.3.4", "[fd00::1]:54"], "corp.test": ["10.0.0.1:5353"]}"#),
            Some(r#"["8.8.8.8", "8.8.4.4"]"#),
        );
        let text = text.unwrap();
        for line in [
            "    forward . 8.8.8.8 8.8.4.4\n",
            "\nacme.local:53 {\n",
            "    forward . 1.2.3.4 [fd00::1]:54\n",
            "\ncorp.test:53 {\n",
            "    kubernetes cluster.local in-addr.arpa ip6.arpa {\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(from_config_map(None, Some(" ")).unwrap().contains("    forward . /etc/resolv.conf\n"));
        for (stub_domains, upstreams, want) in [
            (Some("{"), None, "stubDomains, line 1: no valid JSON"),
            (Some("{\n\n]"), None, "stubDomains, line 3: no valid JSON"),
            (Some("[]"), None, "stubDomains, line 1: no valid JSON"),
            (Some(r#"{"a b": ["1.2.3.4"]}"#), None, "`a b` is no domain name"),
            (Some(r#"{"a {": ["1.2.3.4"]}"#), None, "`a {` is no domain name"),
            (Some(r#"{"a": []}"#), None, "`a` has no name server"),
            (Some(r#"{"a": ["1.2.3.4\n}"]}"#), None, "is no name server"),
            (
                None,
                Some(r#"["1.2.3.4 5.6.7.8"]"#),
                "upstreamNameservers, line 1: `1.2.3.4 5.6.7.8` is no name server",
            ),
            (None, Some(r#"["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]"#), "3 upstreams at the most"),
        ] {
            let error = from_config_map(stub_domains, upstreams).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}

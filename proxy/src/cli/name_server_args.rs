//! Flags of the node-local DNS redirect: the Service whose traffic goes to this node's DNS server.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use super::policy_args::address;
use crate::model::{name_server::NameServer, service::ServiceKey};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "DNS")]
pub struct NameServerArgs {
    /// The DNS Service whose traffic goes to this node's DNS server while it is alive
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-dns", value_parser = service)]
    dns_service: ServiceKey,
    /// A node-local address of the DNS server, such as 169.254.20.10; repeatable. No interface needs to have it
    #[arg(long = "dns-local-address", value_name = "IP", value_delimiter = ',', value_parser = address)]
    dns_local_addresses: Vec<IpAddr>,
}

impl NameServerArgs {
    /// Whether a flag was given that implies `--dns`.
    pub fn are_given(&self) -> bool {
        !self.dns_local_addresses.is_empty()
    }

    /// The redirect. `listens` are the listen addresses of the server; `None`: the node's own addresses. `allow` are the
    /// networks of additional clients.
    pub fn name_server(self, listens: Option<Vec<SocketAddr>>, allow: Vec<IpNetwork>) -> NameServer {
        let Self { dns_service: service, dns_local_addresses: local_addresses } = self;
        NameServer { service, listens, local_addresses, allow }
    }
}

fn service(text: &str) -> Result<ServiceKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ServiceKey::new(namespace, name))
        }
        Some(_) | None => Err(format!("`{text}` is not NAMESPACE/NAME, such as kube-system/kube-dns")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_namespace_and_a_name() {
        for (text, want) in [
            ("kube-system/kube-dns", Some(("kube-system", "kube-dns"))),
            ("kube-dns", None),
            ("/kube-dns", None),
            ("kube-system/", None),
            ("a/b/c", None),
        ] {
            let want = want.map(|(namespace, name)| ServiceKey::new(namespace, name));
            assert_eq!(service(text).ok(), want, "{text}");
        }
    }
}

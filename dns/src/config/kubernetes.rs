//! The setting of the directive `kubernetes`.

use std::path::PathBuf;

use hickory_server::proto::rr::{LowerName, Name};

use super::{selector::Selector, zones::Zones};

#[derive(Debug, Clone, PartialEq)]
pub struct Kubernetes {
    /// Forward zones and reverse zones, in the order of the Corefile.
    pub zones: Zones,
    pub pods: PodsMode,
    /// Endpoints without a hostname are named after their pod.
    pub endpoint_pod_names: bool,
    /// The TTL of records, in seconds.
    pub ttl: u32,
    /// Zones in which a missing name falls through to the next plugin. Empty: none.
    pub fallthrough: Zones,
    /// The exposed Kubernetes namespaces. Empty: all.
    pub namespaces: Vec<String>,
    /// Selectors for Services and pods, and for Kubernetes namespaces. The same in all blocks, as each object
    /// is read once for all of them.
    pub labels: Option<Selector>,
    pub namespace_labels: Option<Selector>,
    /// Endpoints are ignored: headless Services have no names.
    pub no_endpoints: bool,
    /// A Service with a cluster IP and no ready endpoints is NXDOMAIN. Headless Services and ExternalNames are
    /// not affected.
    pub ignore_empty_service: bool,
    /// The zones of multi-cluster Services, a subset of `zones`.
    pub multicluster: Zones,
    /// Names of endpoints by topology zone: `ZONE.pin._zone.SERVICE` and `ZONE.prefer._zone.SERVICE`.
    pub zonal: bool,
    pub api_server: ApiServer,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodsMode {
    /// Pods have no names.
    #[default]
    Disabled,
    /// The answer is the address in the name.
    Insecure,
    /// As `Insecure`, if a pod of the namespace has the address.
    Verified,
}

/// The API server, as far as the Corefile names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiServer {
    pub endpoint: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, if not the current one.
    pub context: Option<String>,
    pub tls: Option<Certificates>,
}

/// The client certificate, and the CA of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

const IPV4_REVERSE: &[&[u8]] = &[b"in-addr", b"arpa"];
const IPV6_REVERSE: &[&[u8]] = &[b"ip6", b"arpa"];

impl Kubernetes {
    /// The setting of the directive without options.
    pub fn new(zones: Zones) -> Self {
        Self {
            zones,
            pods: PodsMode::Disabled,
            endpoint_pod_names: false,
            ttl: 5,
            fallthrough: Zones::default(),
            namespaces: Vec::new(),
            labels: None,
            namespace_labels: None,
            no_endpoints: false,
            ignore_empty_service: false,
            multicluster: Zones::default(),
            zonal: false,
            api_server: ApiServer::default(),
        }
    }

    /// The setting in the Corefile of a stock cluster.
    pub fn shipped(cluster_domain: &LowerName) -> Self {
        let reverse = reverse_zones();
        let zones = Zones([vec![cluster_domain.clone()], reverse.clone()].concat());
        Self { pods: PodsMode::Insecure, ttl: 30, fallthrough: Zones(reverse), ..Self::new(zones) }
    }
}

fn reverse_zones() -> Vec<LowerName> {
    let zone = |labels: &[&[u8]]| {
        LowerName::from(Name::from_labels(labels.iter().copied()).expect("two short labels"))
    };
    vec![zone(IPV4_REVERSE), zone(IPV6_REVERSE)]
}

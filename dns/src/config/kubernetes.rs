//! What is answered from the objects of the cluster.

use std::path::PathBuf;

use hickory_server::proto::rr::{LowerName, Name};

use super::{selector::Selector, zones::Zones};

#[derive(Debug, Clone, PartialEq)]
pub struct Kubernetes {
    /// Forward zones and reverse zones, as they were written.
    pub zones: Zones,
    pub pods: PodsMode,
    /// Endpoints without a hostname are called after their pod.
    pub endpoint_pod_names: bool,
    /// Seconds that a record may be kept.
    pub ttl: u32,
    /// Names that are not found in these zones are handed on. Empty: every miss is final.
    pub fallthrough: Zones,
    /// Only these Kubernetes namespaces are answered for. Empty: all.
    pub namespaces: Vec<String>,
    /// Only what has these labels: Services and pods; and only Kubernetes namespaces that have those. The same in all
    /// blocks, as each object is read once for all of them.
    pub labels: Option<Selector>,
    pub namespace_labels: Option<Selector>,
    /// Endpoints are not looked at: headless Services have no names.
    pub no_endpoints: bool,
    /// A Service without ready endpoints is NXDOMAIN (headless and ExternalName are as ever).
    pub ignore_empty_service: bool,
    /// Of `zones`, those of multi-cluster Services.
    pub multicluster: Zones,
    /// `ZONE.pin._zone.SERVICE` and `ZONE.prefer._zone.SERVICE`.
    pub zonal: bool,
    pub api_server: ApiServer,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodsMode {
    /// No names of pods.
    #[default]
    Disabled,
    /// The address in the name is the answer.
    Insecure,
    /// The same, when a pod of that Kubernetes namespace has the address.
    Verified,
}

/// How to reach the API server, where a Corefile says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiServer {
    pub endpoint: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    /// Of the kubeconfig, where it is not the current one.
    pub context: Option<String>,
    pub tls: Option<Certificates>,
}

/// What proves each side to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

const IPV4_REVERSE: &[&[u8]] = &[b"in-addr", b"arpa"];
const IPV6_REVERSE: &[&[u8]] = &[b"ip6", b"arpa"];

impl Kubernetes {
    /// What the directive does without options.
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

    /// What the Corefile of a stock cluster says.
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

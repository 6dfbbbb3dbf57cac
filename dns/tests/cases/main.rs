//! Cluster states and the expected answers, checked against a real server over UDP and TCP. `dns.json` is the given
//! set of cases, `more.json` the project's own; `deviations.json` lists each deviation from a recommended answer,
//! with the reason.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "types and response codes are open lists")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use dns::{
    cluster::{
        snapshot::{Index, Published},
        zone::{self, Change, ObjectName, ReadOptions, ServiceKey, StatedPort},
    },
    config::{Forward, Kubernetes, Listen, PodsMode, Upstream, UpstreamProtocol, Zones},
    plugins::{Config, ServerBlock, loadbalance::Loadbalance},
    resolve::forward::ServerContext,
    serve::run,
};
use hickory_server::proto::rr::{LowerName, Name};
use serde_json::Value;

mod judge;
mod query;
mod state;
mod upstream;

use state::{Group, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn every_query_is_answered_as_listed() {
    let mut failures = Vec::new();
    let mut sent = 0;
    for group in state::groups() {
        let server = Started::new(&group).await;
        for query in &group.queries {
            for transport in query.transports() {
                sent += 1;
                let reply = query::send(server.address, query, transport).await;
                if let Err(why) = judge::judge(query, &group, reply.as_deref(), server.address).await {
                    failures.push(judge::Failure::new(&group.id, query, transport, why));
                }
            }
        }
    }
    println!("{sent} queries sent");
    judge::report(failures);
}

/// A server with the objects and settings of a group, and its upstreams.
struct Started {
    address: SocketAddr,
    _server: dns::serve::server::Server,
    _upstreams: Vec<upstream::Upstream>,
}

impl Started {
    async fn new(group: &Group) -> Self {
        let published = Arc::new(Published::default());
        if group.config.synced {
            let mut index = Index::default();
            let options = read_options(&group.config);
            group
                .objects
                .iter()
                .filter_map(|object| change(object, &options))
                .for_each(|change| index.apply(change));
            published.publish(index.snapshot(1));
        }
        let mut upstreams = Vec::new();
        let config = config(group, &mut upstreams).await;
        let context = ServerContext::default();
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let server = run::start(&config, &[address], &published, &context).unwrap();
        Self { address: server.addresses()[0], _server: server, _upstreams: upstreams }
    }
}

async fn config(group: &Group, upstreams: &mut Vec<upstream::Upstream>) -> Config {
    let mut main = ServerBlock::new(vec![Listen::plain(lower("."))]);
    main.kubernetes = Some(kubernetes(&group.config));
    main.loadbalance = Some(Loadbalance::round_robin());
    if let Some(zone) = &group.upstream {
        main.forwards.push(forward(upstream::Upstream::start(zone).await, upstreams));
    }
    let mut servers = vec![main];
    for (domain, zone) in &group.stub_domains {
        let mut block = ServerBlock::new(vec![Listen::plain(lower(domain))]);
        block.forwards.push(forward(upstream::Upstream::start(zone).await, upstreams));
        servers.push(block);
    }
    Config { servers }
}

fn forward(upstream: upstream::Upstream, upstreams: &mut Vec<upstream::Upstream>) -> Forward {
    let address = upstream.address;
    upstreams.push(upstream);
    Forward::to(vec![Upstream::Server { address, protocol: UpstreamProtocol::Dns, server_name: None }])
}

fn kubernetes(settings: &Settings) -> Kubernetes {
    let zones = |names: &[String]| Zones(names.iter().map(|name| lower(name)).collect());
    let mut all = settings.zones.clone();
    all.extend(settings.multicluster_zones.iter().cloned());
    let mut kubernetes = Kubernetes::new(zones(&all));
    kubernetes.pods = match settings.pods.as_str() {
        "insecure" => PodsMode::Insecure,
        "verified" => PodsMode::Verified,
        _ => PodsMode::Disabled,
    };
    kubernetes.ttl = settings.ttl;
    kubernetes.fallthrough = zones(&settings.fallthrough);
    kubernetes.namespaces.clone_from(&settings.namespaces);
    kubernetes.ignore_empty_service = settings.ignore_empty_service;
    kubernetes.endpoint_pod_names = settings.endpoint_pod_names;
    kubernetes.multicluster = zones(&settings.multicluster_zones);
    kubernetes.zonal = settings.zonal;
    kubernetes
}

fn lower(name: &str) -> LowerName {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name.into()
}

fn read_options(settings: &Settings) -> ReadOptions {
    ReadOptions {
        endpoint_pod_names: settings.endpoint_pod_names,
        pods: settings.pods == "verified",
        zones: settings.zonal,
        multicluster: !settings.multicluster_zones.is_empty(),
        ..ReadOptions::default()
    }
}

/// Converts an API object as the agent does.
fn change(object: &Value, options: &ReadOptions) -> Option<Change> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let key = ServiceKey::new(&namespace, &name);
    let id = ObjectName { namespace: namespace.into(), name: name.clone().into() };
    let object = object.clone();
    Some(match object["kind"].as_str()? {
        "Service" => Change::Service(
            key?,
            Some(Arc::new(zone::service(&serde_json::from_value(object).unwrap(), options))),
        ),
        "ServiceImport" => {
            let spec = &object["spec"];
            let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
            let (ips, ports) = (list("ips"), list("ports"));
            let ports = ports.iter().map(|port| StatedPort {
                name: port["name"].as_str(),
                protocol: port["protocol"].as_str(),
                number: port["port"]
                    .as_i64()
                    .and_then(|number| i32::try_from(number).ok())
                    .unwrap_or_default(),
            });
            let is_headless = spec["type"] == "Headless";
            let import = zone::import(is_headless, ips.iter().filter_map(Value::as_str), ports);
            Change::Import(key?, Some(Arc::new(import)))
        }
        "EndpointSlice" => {
            let slice = zone::slice(&id, &serde_json::from_value(object).unwrap(), options);
            Change::Slice(id, slice.map(Arc::new))
        }
        "Namespace" => Change::Namespace(name.into(), true),
        "Pod" => Change::Pod(id, zone::pod(&serde_json::from_value(object).unwrap()).map(Arc::new)),
        _ => return None,
    })
}

/// The addresses in `server_ips`. This test cannot bind them, so the cases that depend on them are tested
/// elsewhere.
#[expect(dead_code, reason = "part of the case format, for tests that can bind these addresses")]
fn server_addresses(settings: &Settings) -> Vec<IpAddr> {
    settings.server_ips.iter().filter_map(|text| text.parse().ok()).collect()
}

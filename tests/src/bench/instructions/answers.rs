//! From a query to its answer, without sockets.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use dns::{
    cluster::{
        name::domain,
        snapshot::{Index, Published},
        zone::{Change, ReadOptions},
    },
    config::{Kubernetes, Listen},
    observe::metrics::Transport,
    plugins::{ServerBlock, loadbalance::Loadbalance},
    resolve::forward::ServerContext,
    serve::handler::{Block, Client, Handled, Handler},
};
use proxy::k8s::{dns::change, object::Object};

use super::counted::counted;
use crate::lab::api_server::objects::{service as service_object, slice};

const SERVICES: u32 = 200;
const ENDPOINTS: u32 = 10;
/// Queries whose sum is counted.
const QUERIES: u32 = 100;
const A: u16 = 1;
const SRV: u16 = 33;
/// The response code in the fourth octet of a message (RFC 1035, 4.1.1).
const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

/// One Service gets another endpoint: the next snapshot.
pub fn publish() -> Result<()> {
    let mut index = filled()?;
    let published = Published::default();
    published.publish(index.snapshot(1));
    let change = slice_of(SERVICES / 2, ENDPOINTS - 1)?;
    counted(|| {
        index.apply(change);
        published.publish(index.snapshot(2));
    });
    Ok(())
}

pub fn address() -> Result<()> {
    answers("", "default", A, NOERROR)
}

pub fn service() -> Result<()> {
    answers("_http._tcp.", "default", SRV, NOERROR)
}

pub fn missing() -> Result<()> {
    answers("", "absent", A, NXDOMAIN)
}

fn answers(prefix: &str, namespace: &str, qtype: u16, code: u8) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let handler = handler(&filled()?)?;
    let requests: Vec<_> = (0..QUERIES)
        .map(|number| request(&format!("{prefix}{}.{namespace}.svc.cluster.local", name(number)), qtype))
        .collect();
    let replies: Vec<_> =
        counted(|| requests.iter().map(|request| handler.handle(black_box(request), client())).collect());
    for reply in replies {
        let Handled::Reply(reply) = reply else { bail!("a query was not answered at once") };
        ensure!(reply.get(3).is_some_and(|octet| octet & 0xf == code), "another answer: {reply:?}");
    }
    Ok(())
}

fn handler(index: &Index) -> Result<Handler> {
    let zone = domain("cluster.local").context("the zone's name")?;
    let block = ServerBlock {
        kubernetes: Some(Kubernetes::shipped(&zone)),
        loadbalance: Some(Loadbalance::round_robin()),
        ..ServerBlock::new(vec![Listen::plain(domain(".").unwrap_or_default())])
    };
    let context = ServerContext::default();
    let block = Block::start(&block, "dns://:53", &[], &context).context("a server block")?;
    let published = Published::default();
    published.publish(index.snapshot(1));
    let dropped = context.metrics.queries("dns://:53", "dropped");
    Ok(Handler::new(vec![Arc::new(block)], Arc::new(published), dropped))
}

fn client() -> Client {
    Client {
        transport: Transport::Udp,
        address: IpAddr::V4(Ipv4Addr::new(10, 244, 1, 9)),
        port: 4242,
        local: Ipv4Addr::LOCALHOST.into(),
        is_encrypted: false,
        is_http: false,
    }
}

fn filled() -> Result<Index> {
    let mut index = Index::default();
    let namespace = serde_json::json!({"metadata": {"name": "default"}});
    index.apply(read(&Object::Namespace(serde_json::from_value(namespace)?))?);
    for number in 0..SERVICES {
        let object = service_object(&name(number), number + 1);
        index.apply(read(&Object::Service(serde_json::from_value(object)?))?);
        index.apply(slice_of(number, ENDPOINTS)?);
    }
    Ok(index)
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn slice_of(number: u32, endpoints: u32) -> Result<Change> {
    let first = number * ENDPOINTS;
    let object = slice(&name(number), first..first + endpoints);
    read(&Object::EndpointSlice(serde_json::from_value(object)?))
}

fn read(object: &Object) -> Result<Change> {
    change(object, &ReadOptions::default()).context("the object has no names")
}

/// A query with EDNS (RFC 6891), as stub resolvers send it.
fn request(name: &str, qtype: u16) -> Vec<u8> {
    let mut request = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        request.push(u8::try_from(label.len()).expect("a label"));
        request.extend(label.bytes());
    }
    request.push(0);
    request.extend(qtype.to_be_bytes());
    request.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    request
}

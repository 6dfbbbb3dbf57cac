//! The cost of an answer, without socket I/O, and of a change, in a cluster of 10,000 Services with 10 endpoints
//! each.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use arcstr::ArcStr;
use criterion::{Criterion, criterion_group, criterion_main};
use dns::{
    cluster::{
        name::domain,
        snapshot::{Index, Published},
        topic::Topic,
        zone::{Change, Endpoints, ObjectName, Port, Service, ServiceKey, ServiceKind, Slice},
    },
    config::{Kubernetes, Listen},
    observe::{clients::Clients, metrics::Transport},
    plugins::{ServerBlock, loadbalance::Loadbalance},
    resolve::forward::ServerContext,
    serve::handler::{Block, Client, Handled, Handler},
};
use hickory_server::proto::op::ResponseCode;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
/// Client addresses, used in turn.
const PODS: usize = 110;

fn port() -> Box<[Port]> {
    [Port { name: "http".into(), protocol: dns::cluster::zone::Protocol::Tcp, number: 80 }].into()
}

fn service(n: u32) -> Change {
    let addresses = [IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + n))].into();
    // One Service in a hundred is headless.
    let kind = match n % 100 {
        0 => ServiceKind::Headless,
        _ => ServiceKind::ClusterIp { addresses, ports: port() },
    };
    Change::Service(key(n), Some(Arc::new(Service { kind, has_selector: true, external: None })))
}

fn key(n: u32) -> ServiceKey {
    ServiceKey::new(&format!("namespace-{}", n % 100), &format!("service-{n}")).unwrap()
}

fn slice(n: u32, endpoints: u32) -> Change {
    let namespace: ArcStr = format!("namespace-{}", n % 100).into();
    let id = ObjectName { namespace, name: format!("service-{n}-abcde").into() };
    let address = |i: u32| Ipv4Addr::from(0x0b00_0000 + n * ENDPOINTS + i);
    let v4 = Endpoints { unnamed: (0..endpoints).map(address).collect(), named: [].into() };
    let v6 = Endpoints { unnamed: [].into(), named: [].into() };
    let slice = Slice {
        id: id.clone(),
        service: key(n),
        ports: port(),
        v4,
        v6,
        cluster: None,
        imported: None,
        zones: [].into(),
        triggered: None,
        local_pods: None,
    };
    Change::Slice(id, Some(Arc::new(slice)))
}

fn filled() -> Index {
    let mut index = Index::default();
    (0..SERVICES).for_each(|n| index.apply(service(n)));
    (0..SERVICES).for_each(|n| index.apply(slice(n, ENDPOINTS)));
    index
}

fn handler(index: &Index) -> Handler {
    let block = ServerBlock {
        kubernetes: Some(Kubernetes::shipped(&domain("cluster.local").unwrap())),
        loadbalance: Some(Loadbalance::round_robin()),
        ..ServerBlock::new(vec![Listen::plain(domain(".").unwrap_or_default())])
    };
    let context = ServerContext::default();
    let block = Block::start(&block, "dns://:53", &[], &context).unwrap();
    let published = Published::default();
    published.publish(index.snapshot(1));
    let dropped = context.metrics.queries("dns://:53", "dropped");
    Handler::new(vec![Arc::new(block)], Arc::new(published), dropped)
}

fn request(name: &str, qtype: u16) -> Vec<u8> {
    let mut request = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        request.push(u8::try_from(label.len()).unwrap());
        request.extend(label.bytes());
    }
    request.push(0);
    request.extend(qtype.to_be_bytes());
    request.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    request
}

fn answers(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let handler = handler(&filled());
    let client = |n: usize| {
        let address = Ipv4Addr::from(0x0af4_0100 + u32::try_from(n % PODS).unwrap()).into();
        Client {
            transport: Transport::Udp,
            address,
            port: 4242,
            local: std::net::Ipv4Addr::LOCALHOST.into(),
            is_encrypted: false,
            is_http: false,
        }
    };
    let every = |prefix: &'static str, step: usize, qtype: u16| -> Vec<Vec<u8>> {
        let numbers = (0..SERVICES).step_by(step).map(|n| (n + u32::from(step == 1), n));
        let name = |n: u32| format!("{prefix}service-{n}.namespace-{}.svc.cluster.local", n % 100);
        // In an order without locality, so that CPU caches do not help.
        let mut requests: Vec<_> = numbers.map(|(n, _)| request(&name(n % SERVICES), qtype)).collect();
        let len = requests.len();
        (0..len).for_each(|at| requests.swap(at, at * 7919 % len));
        requests
    };
    for (name, requests) in [
        ("A of a ClusterIP", every("", 1, 1)),
        ("AAAA, NODATA", every("", 1, 28)),
        ("A of ten endpoints", every("", 100, 1)),
        ("SRV of a ClusterIP", every("_http._tcp.", 1, 33)),
        ("SRV of ten endpoints", every("_http._tcp.", 100, 33)),
        ("NXDOMAIN", every("www.example.com.", 1, 1)),
    ] {
        let mut turn = (0..).map(client).zip(requests.iter().cycle());
        criterion.bench_function(name, |bench| {
            bench.iter(|| {
                let (client, request) = turn.next().unwrap();
                match handler.handle(black_box(request), client) {
                    Handled::Reply(reply) => reply.len(),
                    Handled::Dropped | Handled::Pending(_) | Handled::Transfer(_) => {
                        panic!("{name} was not answered")
                    }
                }
            });
        });
    }
}

/// The share of an answer's cost that the per-client statistics have.
fn statistics(criterion: &mut Criterion) {
    let clients = Clients::default();
    let address = |n: usize| Ipv4Addr::from(0x0af4_0100 + u32::try_from(n % PODS).unwrap()).into();
    let mut turn = (0..).map(address);
    criterion.bench_function("per-client statistics of one query", |bench| {
        bench.iter(|| {
            let client = black_box(turn.next().unwrap());
            clients.record(client, Topic::Service, ResponseCode::NoError, Duration::from_micros(1));
        });
    });
}

fn changes(criterion: &mut Criterion) {
    let mut index = filled();
    let mut turn = 0;
    criterion.bench_function("publishing an added or removed endpoint", |bench| {
        bench.iter(|| {
            turn += 1;
            index.apply(slice(turn * 7919 % SERVICES, ENDPOINTS - turn % 2));
            black_box(index.snapshot(turn))
        });
    });
    criterion.bench_function("100,000 endpoints of 10,000 Services", |bench| bench.iter(filled));
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(20);
    targets = answers, statistics, changes
}
criterion_main!(all);

//! DNS requests: from the octets of a packet to the reply. The first octet chooses the transport.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, LazyLock},
};

use dns::{
    cluster::{
        snapshot::{Index, Published},
        zone::{self, Change, ObjectName, ReadOptions, ServiceKey},
    },
    corefile::Source,
    observe::metrics::Transport,
    plugins,
    resolve::forward::ServerContext,
    serve::handler::{Block, Client, Handled, Handler},
};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

/// The largest message over TCP, and the largest reply over UDP to a client without EDNS.
const LARGEST: usize = 65_535;
const LARGEST_PLAIN: usize = 1232;

static SERVER: LazyLock<(Runtime, Handler)> = LazyLock::new(start);

pub fn run(octets: &[u8]) {
    let Some((first, packet)) = octets.split_first() else { return };
    let (runtime, handler) = &*SERVER;
    let _inside = runtime.enter();
    let (transport, largest) =
        if first & 1 == 0 { (Transport::Udp, LARGEST_PLAIN) } else { (Transport::Tcp, LARGEST) };
    let client = Client {
        transport,
        address: IpAddr::from([10, 244, 1, 7]),
        port: 4242,
        local: IpAddr::from([10, 96, 0, 10]),
        is_encrypted: first & 2 == 2,
        is_http: first & 6 == 6,
    };
    let check = |reply: Vec<u8>| {
        assert!(reply.len() <= largest, "a reply of {} octets", reply.len());
        assert_eq!(reply.get(..2), packet.get(..2), "the reply has the identifier of the request");
    };
    match handler.handle(packet, client) {
        Handled::Dropped => {}
        Handled::Reply(reply) => check(reply),
        Handled::Pending(pending) => check(pending.refuse()),
        Handled::Transfer(transfer) => transfer.messages().for_each(check),
    }
}

/// A server with every kind of record, and an upstream that never answers.
const COREFILE: &str = "\
. {
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    k8s_external ext.example {
        headless
    }
    rewrite continue edns0 local set 0xffee 0x61626364 revert
    rewrite continue edns0 subnet set 24 56
    rewrite name regex (.*)\\.old\\.example {1}.web.shop.svc.cluster.local
    template IN A filled.example {
        match ^(.*)\\.filled\\.example\\.$
        answer \"{{ .Name }} 60 IN A {{ index .Match 1 }}\"
    }
    hosts /nonexistent {
        10.0.0.1 listed.example
        fallthrough
    }
    forward . 127.0.0.1:9
    cache
    loadbalance
    dns64
    nsid node-1
}
acme.local {
    forward . 127.0.0.1:9
}
";

fn start() -> (Runtime, Handler) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let handler = {
        let _inside = runtime.enter();
        let source = Source::text(Path::new("Corefile"), COREFILE);
        let config = plugins::read_source(source, &|_| None).expect("the Corefile is valid");
        let context = ServerContext::default();
        let start = |block| Block::start(block, "dns://:53", &[], &context).map(Arc::new);
        let blocks = config.servers.iter().map(start).collect::<Result<_, _>>().expect("the blocks start");
        let published = Arc::new(Published::default());
        published.publish(cluster().snapshot(1));
        Handler::new(blocks, published, context.metrics.queries("dns://:53", "dropped"))
    };
    (runtime, handler)
}

fn cluster() -> Index {
    let mut index = Index::default();
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    for (name, spec) in [
        (
            "web",
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["192.0.2.1"], "ports": ports}),
        ),
        ("peers", json!({"clusterIP": "None", "ports": ports})),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.shop.svc.cluster.local"})),
        ("away", json!({"type": "ExternalName", "externalName": "www.example.org"})),
    ] {
        let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        let service = serde_json::from_value(object).expect("a Service");
        let service = zone::service(&service, &ReadOptions { external: true, ..ReadOptions::default() });
        let key = ServiceKey::new("shop", name).expect("a valid name");
        index.apply(Change::Service(key, Some(Arc::new(service))));
    }
    let id = ObjectName { namespace: "shop".into(), name: "peers-1".into() };
    let endpoint = |number: u16| {
        let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        json!({"addresses": [address], "hostname": format!("peer-{number}"), "conditions": {"ready": true}})
    };
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "peers-1", "labels": {"kubernetes.io/service-name": "peers"}},
        "addressType": "IPv4", "ports": ports, "endpoints": (0..300).map(endpoint).collect::<Vec<_>>(),
    });
    let slice = serde_json::from_value(slice).expect("a slice");
    let slice = zone::slice(&id, &slice, &ReadOptions::default());
    index.apply(Change::Slice(id, slice.map(Arc::new)));
    index
}

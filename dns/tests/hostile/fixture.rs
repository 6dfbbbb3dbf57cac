//! A server with every kind of record and plugin.

use std::sync::Arc;

use dns::{
    cluster::{
        snapshot::{Index, Published},
        zone::{self, Change, ObjectName, ReadOptions, ServiceKey},
    },
    observe::metrics::Metrics,
    plugins,
    resolve::forward::ServerContext,
    serve::handler::{Block, Handler},
};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

pub struct Ground {
    pub handler: Handler,
    pub metrics: Arc<Metrics>,
    /// The upstream of the `forward` directives; it never answers.
    _upstream: UdpSocket,
}

const COREFILE: &str = "\
. {
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    rewrite name regex (.*)\\.old\\.example {1}.web.shop.svc.cluster.local
    template IN A filled.example {
        match ^(.*)\\.filled\\.example\\.$
        answer \"{{ .Name }} 60 IN A {{ index .Match 1 }}\"
    }
    hosts /nonexistent {
        10.0.0.1 listed.example
        fallthrough
    }
    forward . UPSTREAM
    cache
    loadbalance
}
acme.local {
    forward . UPSTREAM
}
";

/// More endpoints than fit in any UDP reply.
const MANY: u16 = 300;

impl Ground {
    pub async fn start() -> Self {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Corefile");
        let address = upstream.local_addr().unwrap().to_string();
        std::fs::write(&path, COREFILE.replace("UPSTREAM", &address)).unwrap();
        let config = plugins::read(&path, &|_| None).unwrap();
        let context = ServerContext::default();
        let start = |block| Arc::new(Block::start(block, "dns://:53", &[], &context).unwrap());
        let blocks = config.servers.iter().map(start).collect();
        let published = Arc::new(Published::default());
        published.publish(cluster().snapshot(1));
        let dropped = context.metrics.queries("dns://:53", "dropped");
        let handler = Handler::new(blocks, published, dropped);
        Self { handler, metrics: context.metrics, _upstream: upstream }
    }
}

fn cluster() -> Index {
    let mut index = Index::default();
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    for (name, spec) in [
        ("web", json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": ports})),
        ("peers", json!({"clusterIP": "None", "ports": ports})),
        ("loop", json!({"type": "ExternalName", "externalName": "loop.shop.svc.cluster.local"})),
        ("away", json!({"type": "ExternalName", "externalName": "www.example.org"})),
        ("near", json!({"type": "ExternalName", "externalName": "peers.shop.svc.cluster.local"})),
    ] {
        let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        let service = zone::service(&serde_json::from_value(object).unwrap(), &ReadOptions::default());
        index.apply(Change::Service(ServiceKey::new("shop", name).unwrap(), Some(Arc::new(service))));
    }
    let id = ObjectName { namespace: "shop".into(), name: "peers-1".into() };
    let slice = zone::slice(&id, &serde_json::from_value(peers()).unwrap(), &ReadOptions::default());
    index.apply(Change::Slice(id, slice.map(Arc::new)));
    index
}

fn peers() -> Value {
    let endpoint = |number: u16| {
        let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        json!({"addresses": [address], "hostname": format!("peer-{number}"), "conditions": {"ready": true}})
    };
    json!({
        "metadata": {"namespace": "shop", "name": "peers-1", "labels": {"kubernetes.io/service-name": "peers"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..MANY).map(endpoint).collect::<Vec<_>>(),
    })
}

//! The agent with exactly the rights of its DaemonSet: four capabilities, no new privileges, a seccomp filter, a read-only
//! file system. The agents of all stories have no others.

use std::{fs, io::ErrorKind, net::SocketAddr};

use tests::{
    Cluster,
    confine::CAPABILITIES,
    dns::clients::LOOKUPS,
    name_service::{NODE_ANSWER, NameService},
    node::Node,
};

const PORT: u16 = 30080;

/// A field of the agent's `/proc/PID/status`.
async fn state(node: &Node, field: &str) -> String {
    let agent = node.agent_id().await.expect("it runs");
    let text = fs::read_to_string(format!("/proc/{agent}/status")).expect("it can be read");
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.expect("the kernel has the field").trim().to_owned()
}

#[tokio::test]
async fn the_agent_needs_no_more_rights_than_its_daemon_set_has() {
    let names = NameService::new().expect("Corefiles are written");
    let builder = names.configure(Cluster::start("rights").nodes(2));
    let cluster = builder.flag("--cluster-cidr=10.244.0.0/16,fd00:10:244::/48").await;
    let node = cluster.node(0);
    let mask = CAPABILITIES.iter().fold(0_u64, |mask, (_, number)| mask | 1 << number);
    assert_eq!(state(node, "CapEff").await, format!("{mask:016x}"));
    assert_eq!(state(node, "CapBnd").await, format!("{mask:016x}"));
    assert_eq!(state(node, "NoNewPrivs").await, "1");
    assert_eq!(state(node, "Seccomp").await, "2");
    let root = format!("/proc/{}/root", node.agent_id().await.expect("it runs"));
    let visible =
        |directory: &str| fs::read_dir(format!("{root}{directory}")).expect("it is mounted").count();
    assert_eq!(visible("/sys/fs/bpf"), 1, "only its own pins");
    for directory in ["/etc", "/tmp", "/sys/fs/bpf"] {
        let file = fs::File::create(format!("{root}{directory}/written"));
        assert_eq!(file.err().map(|error| error.kind()), Some(ErrorKind::ReadOnlyFilesystem), "{directory}");
    }

    let serving = names.start(&cluster).await.expect("the Service is written");
    let web = cluster.service("web").tcp(80).node_port(PORT).backends(["a"]).await;
    let own = node.addresses.both().map(|ip| SocketAddr::new(ip, PORT));
    let check = async || {
        for client in
            [cluster.pod("pod"), cluster.pod("host").on_host(0), cluster.pod("sandbox").sandboxed_on(0)]
        {
            client.dials(web.vips()).times(4).comes_to_reach_each_of(["a"]).await;
        }
        cluster.client("outside").dials(own).times(4).comes_to_reach_each_of(["a"]).await;
        let lookups = cluster.pod("pod").dials(serving.addresses()).how(LOOKUPS[0]).times(4);
        lookups.comes_to_reach_each_of([NODE_ANSWER]).await;
    };
    check().await;
    node.replace_agent(&[]).await.expect("it takes over");
    check().await;
    node.kill_agent().await.expect("it runs");
    node.start_agent().await.expect("it starts");
    check().await;
}

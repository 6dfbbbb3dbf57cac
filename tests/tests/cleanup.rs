//! `portreeve cleanup` removes the agent's pins and programs.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tests::{Cluster, agent::portreeve, node::Node};

fn cleanup(node: &Node) -> Output {
    let mut command = Command::new(portreeve().expect("portreeve is built"));
    command.arg("cleanup").arg("--bpffs").arg(node.bpffs()).output().expect("it starts")
}

fn pins(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test]
async fn cleanup_removes_every_pin_and_program_but_not_beside_a_live_agent() {
    let cluster = Cluster::start("cleanup").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    let dials = || cluster.pod("client").dials(web.vips()).times(2);

    let refused = cleanup(node);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    dials().always_reaches_one_of(["a"]).await;
    assert!(pins(node.bpffs()) > 0);

    node.terminate_agent().await.expect("it ends");
    let done = cleanup(node);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(pins(node.bpffs()), 0);
    let report = dials().report().await;
    assert!(report.failures.keys().all(|failure| failure.ends_with("UNREACH")), "{report:?}");
    assert_eq!(report.failed(), 2, "{report:?}");

    let again = cleanup(node);
    assert_eq!(again.status.code(), Some(0), "nothing to clean up is no error: {again:?}");
}

/// In a container the pin directory is a mount point, which cannot be removed.
#[tokio::test]
async fn cleanup_leaves_a_mount_point_empty() {
    let cluster = Cluster::start("cleanup-pod").await;
    let node = cluster.node(0);
    node.terminate_agent().await.expect("it ends");
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--",
        "sh",
        "-c",
        "mount --bind \"$1\" \"$1\" && exec \"$0\" cleanup --bpffs \"$1\"",
    ]);
    command.arg(portreeve().expect("portreeve is built")).arg(node.bpffs());
    let done = command.output().expect("it starts");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(pins(node.bpffs()), 0);
}

//! A pod that is its own backend.

use tests::{Cluster, traffic::How};

#[tokio::test]
async fn a_pod_reaches_itself_through_its_own_service() {
    let cluster = Cluster::start("hairpin").nodes(2).await;
    let own = cluster.service("own").tcp(80).udp(80).backends(["a"]).await;
    for how in [How::Tcp, How::MappedTcp, How::Http, How::ConnectedUdp, How::UnconnectedUdp] {
        cluster.pod("a").dials(own.vips()).how(how).times(10).always_reaches_one_of(["a"]).await;
    }
}

#[tokio::test]
async fn a_pod_reaches_itself_and_the_other_backends() {
    let cluster = Cluster::start("hairpin-some").nodes(2).await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    for pod in ["a", "b"] {
        cluster.pod(pod).dials(web.vips()).times(60).reaches_each_of(["a", "b"]).await;
    }
}

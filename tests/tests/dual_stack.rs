//! Single-stack Services, and dual-stack Services with endpoints of one family.

use std::net::IpAddr;

use tests::Cluster;

#[tokio::test]
async fn a_single_stack_service_has_one_address() {
    let cluster = Cluster::start("single").await;
    let v4 = cluster.service("v4").tcp(80).only(IpAddr::is_ipv4).backends(["a"]).await;
    let v6 = cluster.service("v6").tcp(80).only(IpAddr::is_ipv6).backends(["b"]).await;
    let client = cluster.pod("client");
    client.clone().dials(v4.vip()).times(4).always_reaches_one_of(["a"]).await;
    client.clone().dials(v6.vip6()).times(4).always_reaches_one_of(["b"]).await;
    // The other family's address does not exist.
    let report = client.dials([v4.vip6(), v6.vip()]).times(2).report().await;
    assert!(report.failures.keys().all(|failure| failure.ends_with("UNREACH")), "{report:?}");
    assert_eq!(report.failed(), 2, "{report:?}");
}

#[tokio::test]
async fn a_family_without_endpoints_refuses_while_the_other_serves() {
    let cluster = Cluster::start("half").await;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    cluster.manifests().remove("web.slice-ipv6.yaml").expect("it was written");
    let client = cluster.pod("client");
    client.clone().dials(web.vip6()).times(4).comes_to_be_refused().await;
    client.dials(web.vip()).times(4).always_reaches_one_of(["a"]).await;
}

//! XDP: packets to another node are forwarded before the kernel's stack sees them. Only counters show the difference.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use proxy::datapath::inspect;
use proxy_ebpf::abi::XdpOutcome;
use serde_json::Value;
use tests::{
    Cluster,
    agent::{VERIFICATION, portreeve},
    eventually::{eventually, within},
    flows::{self, Flow},
    frontends::Frontends,
    node::Node,
    outside::{ENTRY, FAR, NEAR, OutsideFixture, Policy, ServiceRow, check_all_frontends},
    pod_network::PodNetwork,
    xdp::pass_all,
};

/// The agent probes stale neighbours every ten seconds; then the kernel has to fail one.
const NEIGHBOURS: Duration = Duration::from_secs(45);

/// Packets per outcome.
type Counts = BTreeMap<&'static str, u64>;

fn counts(node: &Node) -> Counts {
    let maps = inspect(node.bpffs()).unwrap_or_else(|error| panic!("{error:?}"));
    let count = |outcome: XdpOutcome| (outcome.name(), maps.xdp_outcomes(outcome).expect("it is readable"));
    XdpOutcome::ALL.into_iter().map(count).collect()
}

/// The increase of the entry node's counters during `work`.
async fn counted(fixture: &OutsideFixture, work: impl Future<Output = ()>) -> Counts {
    let node = fixture.cluster.node(ENTRY);
    let before = counts(node);
    work.await;
    counts(node).into_iter().map(|(name, count)| (name, count - before[name])).collect()
}

fn left(counts: &Counts) -> u64 {
    let left = XdpOutcome::ALL.into_iter().filter(|outcome| outcome.has_left());
    left.map(|outcome| counts[outcome.name()]).sum()
}

async fn fixture(name: &str, mode: &str, network: PodNetwork) -> OutsideFixture {
    let name = format!("xdp-{name}-{mode}-{network:?}").to_lowercase();
    OutsideFixture::on(Cluster::start(&name).nics().flag(&format!("--xdp={mode}")), network).await
}

/// All flows to a Service with these backends.
async fn flows(fixture: &OutsideFixture, number: u8, backends: &'static [&'static str]) -> Vec<Flow> {
    let row = ServiceRow { policy: Policy::Cluster, backends, frontends: Frontends::new(number) };
    // The handle may be dropped: the manifest stays.
    let _service = fixture.service(&format!("web-{number}"), &row).await;
    fixture.flows(&backends.join("-"), &row)
}

/// XDP alone serves backends on other nodes, once the neighbours are known, and never those on this node.
async fn remote_backends_are_served_by_xdp(mode: &str, network: PodNetwork) {
    let fixture = fixture("far", mode, network).await;
    let (far, near) = (flows(&fixture, 0, &[FAR]).await, flows(&fixture, 1, &[NEAR]).await);
    flows::check(&fixture.client, far.clone()).await;
    let count = far.len() as u64;
    let counted_far = counted(&fixture, flows::check(&fixture.client, far)).await;
    for outcome in XdpOutcome::ALL {
        let packets = counted_far[outcome.name()];
        match outcome {
            // Four dials per flow, at least one packet in each direction.
            XdpOutcome::SentToBackend | XdpOutcome::SentToClient => {
                assert!(packets >= 4 * count, "{counted_far:?}");
            }
            // ARP and neighbour discovery.
            XdpOutcome::NotOurs => {}
            XdpOutcome::RedirectedToBackend
            | XdpOutcome::RedirectedToClient
            | XdpOutcome::OnNode
            | XdpOutcome::Refused
            | XdpOutcome::FlowChanging
            | XdpOutcome::NeedsStack
            | XdpOutcome::NotForNode
            | XdpOutcome::NoRoute
            | XdpOutcome::NoNeighbour
            | XdpOutcome::TooLarge
            | XdpOutcome::OtherDevice
            | XdpOutcome::NoMasqueradeSource => assert_eq!(packets, 0, "{}: {counted_far:?}", outcome.name()),
        }
    }
    let counted_near = counted(&fixture, flows::check(&fixture.client, near)).await;
    assert_eq!(left(&counted_near), 0, "{counted_near:?}");
    assert!(counted_near[XdpOutcome::OnNode.name()] >= 4 * count, "{counted_near:?}");
}

#[tokio::test]
async fn remote_backends_are_served_by_xdp_on_a_bridge() {
    remote_backends_are_served_by_xdp("native", PodNetwork::Bridged).await;
}

#[tokio::test]
async fn remote_backends_are_served_by_xdp_over_routes() {
    remote_backends_are_served_by_xdp("native", PodNetwork::Routed).await;
}

#[tokio::test]
async fn remote_backends_are_served_by_generic_xdp() {
    remote_backends_are_served_by_xdp("generic", PodNetwork::Bridged).await;
}

async fn everything_is_reached_with(network: PodNetwork, leaves: bool) {
    let fixture = fixture("all", "native", network).await;
    let counted = counted(&fixture, check_all_frontends(&fixture)).await;
    assert_eq!(left(&counted) > 0, leaves, "{counted:?}");
}

#[tokio::test]
async fn everything_is_reached_where_pods_are_bridged() {
    everything_is_reached_with(PodNetwork::Bridged, true).await;
}

#[tokio::test]
async fn everything_is_reached_where_pods_are_routed() {
    everything_is_reached_with(PodNetwork::Routed, true).await;
}

/// The kernel's stack encapsulates: XDP forwards nothing into a tunnel.
#[tokio::test]
async fn everything_is_reached_where_pods_are_tunnelled() {
    everything_is_reached_with(PodNetwork::Tunnelled, false).await;
}

/// Devices and faults in the output of `status`.
fn status(node: &Node) -> Result<(Vec<Value>, Vec<String>)> {
    let setting = node.setting();
    let mut command = Command::new(portreeve()?);
    command
        .args(["status", "-o", "json", "--bpffs"])
        .arg(&setting.bpffs)
        .arg("--run-dir")
        .arg(setting.run_dir());
    let output = command.output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let faults = serde_json::from_value(report["faults"].clone())?;
    Ok((serde_json::from_value(report["agent"]["xdp"].clone())?, faults))
}

/// Another XDP program stays attached, flows use the tc programs, and `status` reports it. Ours is attached once the other
/// is gone.
#[tokio::test]
async fn another_xdp_program_stays_attached() {
    let fixture = OutsideFixture::on(Cluster::start("xdp-other").nics(), PodNetwork::Bridged).await;
    let node = fixture.cluster.node(ENTRY);
    let other = pass_all(node.netns(), "eth0").unwrap_or_else(|error| panic!("{error:#}"));
    node.replace_agent(&["--xdp=native"]).await.unwrap_or_else(|error| panic!("{error:#}"));
    let far = flows(&fixture, 0, &[FAR]).await;
    let beside = counted(&fixture, flows::check(&fixture.client, far.clone())).await;
    assert_eq!(beside.values().sum::<u64>(), 0, "{beside:?}");
    eventually("the status reports it", async || {
        let (devices, faults) = status(node)?;
        ensure!(devices[0]["place"] == "none" && devices[0]["device"] == "eth0", "{devices:?}");
        ensure!(faults.iter().any(|fault| fault.contains("another XDP program")), "{faults:?}");
        Ok(())
    })
    .await;
    drop(other);
    within(VERIFICATION, "ours is attached", async || {
        let (devices, faults) = status(node)?;
        ensure!(devices[0]["place"] == "native" && faults.is_empty(), "{devices:?} {faults:?}");
        Ok(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}"));
    let alone = counted(&fixture, flows::check(&fixture.client, far)).await;
    assert!(left(&alone) > 0, "{alone:?}");
}

fn links(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.bpffs().join("links")).expect("it is there");
    entries.map(|entry| entry.expect("it is readable").file_name().to_string_lossy().into_owned()).collect()
}

/// Pin names of the XDP links, without the interface index.
fn pins(node: &Node) -> Vec<String> {
    let ours = links(node).into_iter().filter(|name| name.starts_with("xdp_"));
    ours.map(|name| name.trim_end_matches(char::is_numeric).to_owned()).collect()
}

/// Flows continue while agents are replaced and their packets change between XDP and tc.
#[tokio::test]
async fn a_flow_changes_between_xdp_and_tc_without_loss() {
    let fixture = OutsideFixture::on(Cluster::start("xdp-change").nics(), PodNetwork::Bridged).await;
    let node = fixture.cluster.node(ENTRY);
    let far: Vec<_> = flows(&fixture, 0, &[FAR]).await.into_iter().map(|flow| flow.to).collect();
    let (held, report) = fixture.client.hold(far, 24).await.expect("they open");
    assert_eq!(report.answered(), 24, "{report:?}");
    for (mode, want) in
        [("off", &[][..]), ("generic", &["xdp_external_generic-"]), ("native", &[NATIVE_LINK]), ("off", &[])]
    {
        node.replace_agent(&[&format!("--xdp={mode}")]).await.unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(pins(node), want, "{mode}");
        let echoed = fixture.client.echo(held).await.expect("they are open");
        assert_eq!((echoed.answered(), echoed.failed()), (24, 0), "{mode}: {echoed:?}");
    }
}

/// A detached program is attached again; after `cleanup` the device is free for others.
#[tokio::test]
async fn the_program_is_attached_again_until_cleanup() {
    let cluster = Cluster::start("xdp-repair").nics().flag("--xdp=native").await;
    let node = cluster.node(0);
    assert_eq!(pins(node), [NATIVE_LINK]);
    assert!(pass_all(node.netns(), "eth0").is_err(), "the device has one already");
    for name in links(node).iter().filter(|name| name.starts_with(NATIVE_LINK)) {
        fs::remove_file(node.bpffs().join("links").join(name)).expect("it is there");
    }
    within(VERIFICATION, "it is attached again", async || {
        ensure!(pins(node) == [NATIVE_LINK], "{:?}", pins(node));
        Ok(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}"));
    node.terminate_agent().await.expect("it runs");
    assert!(pass_all(node.netns(), "eth0").is_err(), "it stays without an agent");
    let output = node
        .netns()
        .run(|| Ok(Command::new(portreeve()?).args(["cleanup", "--bpffs"]).arg(node.bpffs()).output()?));
    let output = output.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(pass_all(node.netns(), "eth0").unwrap_or_else(|error| panic!("{error:#}")));
}

/// Pin name of the native link, without the interface index.
const NATIVE_LINK: &str = "xdp_external_native-";

/// A frame sent by XDP does not refresh the kernel's neighbour entry: the agent probes it.
#[tokio::test]
async fn a_neighbour_that_has_changed_is_found_again() {
    let fixture = fixture("neighbour", "native", PodNetwork::Bridged).await;
    let entry = fixture.cluster.node(ENTRY);
    for family in ["ipv4", "ipv6"] {
        let at = |name: &str| format!("{family}/neigh/eth0/{name}");
        let (reachable, delay) = (at("base_reachable_time_ms"), at("delay_first_probe_time"));
        entry.netns().set(&[(&reachable, "1000"), (&delay, "1")]).expect("they are there");
    }
    let far = flows(&fixture, 0, &[FAR]).await;
    flows::check(&fixture.client, far.clone()).await;
    let other = fixture.cluster.node(1).netns().netlink().expect("it opens");
    other.mac("eth0", [0x02, 0, 0, 0, 0, 0x77]).await.expect("it is set");
    for flow in far {
        within(NEIGHBOURS, "the backend is reached", async || {
            let report =
                fixture.cluster.client("client").dials(vec![flow.to]).how(flow.how).times(1).report().await;
            ensure!(report.answered() == 1, "{}: {:?}", flow.name, report.first_failures);
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    }
}

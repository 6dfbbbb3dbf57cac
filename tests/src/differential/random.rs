//! Random flows among random objects, and conditions of exhaustion between them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use proxy::model::flow::{Flow, FlowOutcome};

use super::{
    connection::ConnectionNode,
    exhaustion::{self, ExhaustedNodes, PROVOKED},
    fixture::{self, EXTERNAL_INGRESS, LinkLayer, PASS, ProgramFixture, network},
    objects::{self, CASES, FLOWS, RandomObjects, client_port},
    packet::Packet,
    path::{Backend, Client, Expected, FlowPath},
    race,
    verdict_row::VerdictRow,
};
use crate::lab::rng::Rng;

/// Occurrences of rows and reasons.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The rows of kube-proxy's table of verdicts.
    pub rows: BTreeMap<VerdictRow, u64>,
    /// The drop reasons, as counted by the programs.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Packets of the node that were dropped at the loopback device.
    pub at_loopback: u64,
}

impl Tally {
    fn add_reasons(&mut self, counted: BTreeMap<&'static str, u64>) {
        for (reason, count) in counted {
            *self.reasons.entry(reason).or_default() += count;
        }
    }

    /// Each required row and reason, and its number of occurrences.
    pub fn counts(&self) -> impl Iterator<Item = (String, u64)> {
        let rows =
            VerdictRow::ALL.iter().map(|verdict_row| (verdict_row.to_string(), self.rows.get(verdict_row)));
        let reasons = PROVOKED.iter().map(|reason| (reason.name(), self.reasons.get(reason.name())));
        let reasons = reasons.map(|(name, count)| (name.to_owned(), count));
        let at_loopback = ("dropped at the loopback device".to_owned(), Some(&self.at_loopback));
        rows.chain(reasons)
            .chain([at_loopback])
            .map(|(name, count)| (name, count.copied().unwrap_or_default()))
    }
}

/// The checks of exhausted nodes and of connections have fewer random parts than the cases: after so many cases they come less often,
/// every so many.
const OFTEN: u64 = 100_000;
const SELDOM: u64 = 10 * CASES;

/// Runs this number of cases; ends with the first difference. `object`: programs to use instead of the agent's.
pub fn run(
    cases: u64,
    object: Option<&[u8]>,
    rng: &mut Rng,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Tally> {
    network()?.run(|| {
        let mut tally = Tally::default();
        let mut exhausted = ExhaustedNodes::new(object)?;
        let mut connections = ConnectionNode::new(object)?;
        let mut done = 0;
        while done < cases {
            let mut fixture = ProgramFixture::new(object, fixture::CONFIG)?;
            let end = cases.min(done + FLOWS);
            while done < end {
                let objects = RandomObjects::random(rng);
                fixture.load_objects(objects::policy(), objects.changes())?;
                for _ in 0..CASES.min(end - done) {
                    let seed = rng.seed;
                    let checked = check(&mut fixture, &objects, rng, done, &mut tally);
                    checked.with_context(|| format!("case {done}, seed {seed}, {}", counted(&fixture)))?;
                    done += 1;
                }
                if done <= OFTEN || done.is_multiple_of(SELDOM) {
                    exhausted.check_all()?;
                    let seed = rng.seed;
                    connections.check_all(rng).with_context(|| format!("connections, seed {seed}"))?;
                }
                progress(done);
            }
            tally.add_reasons(fixture.refusals()?);
        }
        tally.add_reasons(exhausted.refusals()?);
        // Without cases, programs are only loaded.
        if cases > 0 {
            exhaustion::check_once(object)?;
            connections.affinity_of_an_established_client(rng).context("affinity")?;
            race::slot_given_away(object).context("a slot that is given away")?;
        }
        Ok(tally)
    })
}

/// The drop reasons that occurred, with their numbers.
fn counted(fixture: &ProgramFixture) -> String {
    let refusals = fixture.refusals().unwrap_or_default();
    let occurred = refusals.into_iter().filter(|(_, count)| *count > 0);
    occurred.map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

fn check(
    fixture: &mut ProgramFixture,
    objects: &RandomObjects,
    rng: &mut Rng,
    case: u64,
    tally: &mut Tally,
) -> Result<()> {
    let mut flow = objects.flow(rng);
    let client = client(&flow, rng);
    let link = link(client, rng);
    if link == LinkLayer::None {
        flow.source = objects::without_link_layer(rng, flow.source.is_ipv6());
    }
    let verdict = fixture.index.explain(&flow);
    let packet = Packet::first(&flow, client_port(case));
    if client == Client::Outside {
        is_ignored(fixture, &packet, rng).with_context(|| format!("{flow:?}"))?;
    }
    let backend = if rng.coin() { Backend::Outside } else { Backend::Pod };
    let path = FlowPath { packet, client, backend, link };
    let drops = verdict.outcome == FlowOutcome::Drop && verdict.frontend.is_some();
    let at_loopback = path.check_loopback(fixture, drops);
    let checked = at_loopback
        .and_then(|drops| path.check(fixture, &Expected::of(&verdict, objects::NODE)).map(|_| drops));
    let is_dropped = checked.with_context(|| {
        format!("{flow:?} from {:?} ({link:?}) to {:?}: {}", path.client, path.backend, verdict.reason)
    })?;
    tally.at_loopback += u64::from(is_dropped);
    *tally.rows.entry(VerdictRow::of(&flow, &verdict)).or_default() += 1;
    Ok(())
}

/// Most devices have an Ethernet header and frames without a tag.
fn link(client: Client, rng: &mut Rng) -> LinkLayer {
    match rng.below(8) {
        // A priority, in VLAN 0.
        0 if client != Client::Node => LinkLayer::Tagged((rng.below(8) as u16) << 13),
        1 if client == Client::Outside => LinkLayer::None,
        _ => LinkLayer::Ethernet,
    }
}

/// A frame to another machine, and one of a VLAN, are passed on unchanged.
fn is_ignored(fixture: &mut ProgramFixture, packet: &Packet, rng: &mut Rng) -> Result<()> {
    let (link, frame) = match rng.below(8) {
        0 => (LinkLayer::Ethernet, packet.clone().with_destination_mac([2, 0, 0, 0, 0, 7])),
        1 => (LinkLayer::Tagged(7), packet.clone()),
        _ => return Ok(()),
    };
    let (action, out) = fixture.run_at(link, EXTERNAL_INGRESS, frame.bytes())?;
    ensure!(action == PASS && out == frame.bytes(), "{link:?}: {action}, or changed");
    Ok(())
}

/// Packets of pods and of the node also arrive from outside: without masquerading, and in hairpins of routers.
fn client(flow: &Flow, rng: &mut Rng) -> Client {
    match rng.coin() {
        true if objects::NODE.contains(&flow.source) => Client::Node,
        true if objects::is_here(flow.source) => Client::Pod,
        true | false => Client::Outside,
    }
}

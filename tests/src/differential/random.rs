//! Random flows among random objects, and conditions of exhaustion between them.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use proxy::model::flow::{Flow, FlowOutcome, FlowVerdict};

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
    /// Packets that were dropped as the kernel had no memory at that moment, each followed by a repetition.
    pub out_of_memory: u64,
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
                    check_exhausted(&mut exhausted, object, &mut tally)?;
                    let seed = rng.seed;
                    check_connections(&mut connections, object, rng, &mut tally)
                        .with_context(|| format!("connections, seed {seed}"))?;
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

/// Limit of repetitions for want of memory, and the pause before each. No condition tells that reclaim has made room.
const REPETITIONS: u32 = 50;
const RECLAIM: Duration = Duration::from_millis(20);

/// Runs a check, and again if it fails and packets were dropped meanwhile as the kernel had no memory for a conntrack entry: these
/// are allocated without waiting, so any program that takes memory at that moment can bring it about. A difference of another
/// cause fails the repetition, too. Each such drop is added to the tally. `check` also returns the number of these drops.
fn repeated<T>(tally: &mut Tally, mut check: impl FnMut() -> Result<(Result<T>, u64)>) -> Result<T> {
    for _ in 0..REPETITIONS {
        let (checked, dropped) = check()?;
        tally.out_of_memory += dropped;
        if checked.is_ok() || dropped == 0 {
            return checked;
        }
        sleep(RECLAIM);
    }
    check()?.0.context("the kernel has no memory for conntrack entries")
}

/// Programs and maps need memory, too.
fn made_again<N>(mut make: impl FnMut() -> Result<N>) -> Result<N> {
    for _ in 0..REPETITIONS {
        if let Ok(node) = make() {
            return Ok(node);
        }
        sleep(RECLAIM);
    }
    make()
}

/// The nodes are made again for a repetition: a check that ends early leaves its condition behind.
fn check_exhausted(exhausted: &mut ExhaustedNodes, object: Option<&[u8]>, tally: &mut Tally) -> Result<()> {
    let mut reasons = Vec::new();
    let checked = repeated(tally, || {
        let before = exhausted.out_of_memory()?;
        let checked = exhausted.check_all();
        let dropped = exhausted.out_of_memory()? - before;
        if checked.is_err() && dropped > 0 {
            reasons.push(exhausted.refusals()?);
            *exhausted = made_again(|| ExhaustedNodes::new(object))?;
        }
        Ok((checked, dropped))
    });
    reasons.into_iter().for_each(|counted| tally.add_reasons(counted));
    checked
}

fn check_connections(
    connections: &mut ConnectionNode,
    object: Option<&[u8]>,
    rng: &mut Rng,
    tally: &mut Tally,
) -> Result<()> {
    repeated(tally, || {
        let before = connections.fixture.out_of_memory()?;
        let checked = connections.check_all(rng);
        let dropped = connections.fixture.out_of_memory()? - before;
        if checked.is_err() && dropped > 0 {
            *connections = made_again(|| ConnectionNode::new(object))?;
        }
        Ok((checked, dropped))
    })
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
    let checked = repeated(tally, || {
        let before = fixture.out_of_memory()?;
        let checked = check_path(fixture, &path, &verdict);
        Ok((checked, fixture.out_of_memory()? - before))
    });
    let is_dropped = checked.with_context(|| {
        format!("{flow:?} from {:?} ({link:?}) to {:?}: {}", path.client, path.backend, verdict.reason)
    })?;
    tally.at_loopback += u64::from(is_dropped);
    *tally.rows.entry(VerdictRow::of(&flow, &verdict)).or_default() += 1;
    Ok(())
}

/// Returns whether the packet is dropped at the loopback device. May be repeated until the flow has all its entries.
fn check_path(fixture: &mut ProgramFixture, path: &FlowPath, verdict: &FlowVerdict) -> Result<bool> {
    let drops = verdict.outcome == FlowOutcome::Drop && verdict.frontend.is_some();
    let is_dropped = path.check_loopback(fixture, drops)?;
    path.check(fixture, &Expected::of(verdict, objects::NODE))?;
    Ok(is_dropped)
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn repeat(results: impl IntoIterator<Item = (Result<()>, u64)>) -> (Option<String>, u64) {
        let (mut tally, mut results) = (Tally::default(), results.into_iter());
        let checked = repeated(&mut tally, || results.next().context("no further repetition"));
        assert!(results.next().is_none(), "too few repetitions");
        (checked.err().map(|error| error.to_string()), tally.out_of_memory)
    }

    #[test]
    fn only_a_drop_for_want_of_memory_is_repeated() {
        let difference = || Err(anyhow!("not forwarded: 2"));
        assert_eq!(repeat([(Ok(()), 0)]), (None, 0));
        assert_eq!(repeat([(difference(), 0)]), (Some("not forwarded: 2".to_owned()), 0));
        assert_eq!(repeat([(difference(), 1), (difference(), 2), (Ok(()), 0)]), (None, 3));
        // A difference that a lack of memory accompanied once.
        assert_eq!(repeat([(difference(), 1), (difference(), 0)]), (Some("not forwarded: 2".to_owned()), 1));
        let never = (0..=REPETITIONS).map(|_| (difference(), 1));
        let (error, count) = repeat(never);
        assert_eq!((error.as_deref(), count), (Some("the kernel has no memory for conntrack entries"), 50));
    }
}

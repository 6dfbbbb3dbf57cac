//! Random flows among random objects, and conditions of exhaustion between them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use proxy::model::flow::Flow;

use super::{
    exhaustion::{self, ExhaustedNodes, PROVOKED},
    fixture::{self, ProgramFixture, network},
    objects::{self, CASES, FLOWS, RandomObjects, client_port},
    packet::Packet,
    path::{Backend, Client, Expected, FlowPath},
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
        rows.chain(reasons).map(|(name, count)| (name, count.copied().unwrap_or_default()))
    }
}

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
        let mut done = 0;
        while done < cases {
            let mut fixture = ProgramFixture::new(object, fixture::CONFIG)?;
            let end = cases.min(done + FLOWS);
            while done < end {
                let objects = RandomObjects::random(rng);
                fixture.load_objects(objects::policy(), objects.changes())?;
                for _ in 0..CASES.min(end - done) {
                    let seed = rng.seed;
                    let verdict_row = check(&mut fixture, &objects, rng, done);
                    let verdict_row = verdict_row.with_context(|| format!("case {done}, seed {seed}"))?;
                    *tally.rows.entry(verdict_row).or_default() += 1;
                    done += 1;
                }
                exhausted.check_all()?;
                progress(done);
            }
            tally.add_reasons(fixture.refusals()?);
        }
        tally.add_reasons(exhausted.refusals()?);
        // Without cases, programs are only loaded.
        if cases > 0 {
            exhaustion::check_once(object)?;
        }
        Ok(tally)
    })
}

fn check(
    fixture: &mut ProgramFixture,
    objects: &RandomObjects,
    rng: &mut Rng,
    case: u64,
) -> Result<VerdictRow> {
    let flow = objects.flow(rng);
    let verdict = fixture.index.explain(&flow);
    let path = FlowPath {
        packet: Packet::first(&flow, client_port(case)),
        client: client(&flow, rng),
        backend: if rng.coin() { Backend::Outside } else { Backend::Pod },
    };
    path.check(fixture, &Expected::of(&verdict, objects::NODE)).with_context(|| {
        format!("{flow:?} from {:?} to {:?}: {}", path.client, path.backend, verdict.reason)
    })?;
    Ok(VerdictRow::of(&flow, &verdict))
}

/// Packets of pods and of the node also arrive from outside: without masquerading, and in hairpins of routers.
fn client(flow: &Flow, rng: &mut Rng) -> Client {
    match rng.coin() {
        true if objects::NODE.contains(&flow.source) => Client::Node,
        true if objects::is_here(flow.source) => Client::Pod,
        true | false => Client::Outside,
    }
}

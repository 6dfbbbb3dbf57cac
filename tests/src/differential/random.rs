//! Random flows among random objects, and conditions of exhaustion between them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use proxy::model::flow::Flow;

use super::{
    ground::{self, Ground, network},
    row::Row,
    straits::{self, PROVOKED, Straits},
    way::{Backend, Client, Expected, Way},
    wire::Packet,
    world::{self, CASES, FLOWS, World, client_port},
};
use crate::lab::rng::Chance;

/// How often everything came up that must.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The rows of kube-proxy's table of verdicts.
    pub rows: BTreeMap<Row, u64>,
    /// The reasons of refusal, as the programs counted them.
    pub reasons: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn add_reasons(&mut self, counted: BTreeMap<&'static str, u64>) {
        for (reason, count) in counted {
            *self.reasons.entry(reason).or_default() += count;
        }
    }

    /// Everything that must come up, and how often it did.
    pub fn counts(&self) -> impl Iterator<Item = (String, u64)> {
        let rows = Row::ALL.iter().map(|row| (row.to_string(), self.rows.get(row)));
        let reasons = PROVOKED.iter().map(|reason| (reason.name(), self.reasons.get(reason.name())));
        let reasons = reasons.map(|(name, count)| (name.to_owned(), count));
        rows.chain(reasons).map(|(name, count)| (name, count.copied().unwrap_or_default()))
    }
}

/// Runs cases until there were so many; the first difference ends it. `object`: programs in the place of the agent's.
pub fn run(
    cases: u64,
    object: Option<&[u8]>,
    chance: &mut Chance,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Tally> {
    network()?.run(|| {
        let mut tally = Tally::default();
        let mut straits = Straits::new(object)?;
        let mut done = 0;
        while done < cases {
            let mut ground = Ground::new(object, ground::CONFIG)?;
            let end = cases.min(done + FLOWS);
            while done < end {
                let world = World::random(chance);
                ground.lay(world::policy(), world.changes())?;
                for _ in 0..CASES.min(end - done) {
                    let seed = chance.seed;
                    let row = check(&mut ground, &world, chance, done);
                    let row = row.with_context(|| format!("case {done}, seed {seed}"))?;
                    *tally.rows.entry(row).or_default() += 1;
                    done += 1;
                }
                straits.pass()?;
                progress(done);
            }
            tally.add_reasons(ground.refusals()?);
        }
        tally.add_reasons(straits.refusals()?);
        // Without any case, programs are loaded and no more.
        if cases > 0 {
            straits::once(object)?;
        }
        Ok(tally)
    })
}

fn check(ground: &mut Ground, world: &World, chance: &mut Chance, case: u64) -> Result<Row> {
    let flow = world.flow(chance);
    let verdict = ground.index.explain(&flow);
    let way = Way {
        packet: Packet::first(&flow, client_port(case)),
        client: client(&flow, chance),
        backend: if chance.coin() { Backend::Outside } else { Backend::Pod },
    };
    way.go(ground, &Expected::of(&verdict, world::NODE)).with_context(|| {
        format!("{flow:?} from {:?} to {:?}: {}", way.client, way.backend, verdict.reason)
    })?;
    Ok(Row::of(&flow, &verdict))
}

/// Packets of pods and of the node come in from outside as well: where masquerading is off, and in hairpins of routers.
fn client(flow: &Flow, chance: &mut Chance) -> Client {
    match chance.coin() {
        true if world::NODE.contains(&flow.source) => Client::Node,
        true if world::is_here(flow.source) => Client::Pod,
        true | false => Client::Outside,
    }
}

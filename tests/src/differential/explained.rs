//! The programs that explain flows, compared with the model and with the programs that serve.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail, ensure};
use proxy::{
    datapath::Explainer,
    live::{LiveVerdict, question},
    model::{
        address::IpFamily,
        flow::{Flow, FlowOutcome, FlowVerdict, Plane},
        node::Source,
        service::ServicePortKey,
    },
    reconcile::{LbMaps as _, parse_label},
};
use proxy_ebpf::{
    abi::DropReason,
    explain::{Answer, Masquerading, Verdict},
};

use super::{
    dump::Dump,
    fixture::{self, DROP, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, ProgramFixture, REDIRECT, network},
    objects::{self, CASES, RandomObjects, client_port},
    packet::Packet,
};
use crate::lab::rng::Rng;

/// The netns cookie of a pod. That of the host is 0, in programs without an agent.
const POD: u64 = 5;
/// The device of test runs.
const LOOPBACK: u32 = 1;
/// From linux/bpf.h: `BPF_FIB_LKUP_RET_SUCCESS` and `BPF_FIB_LKUP_RET_NO_NEIGH`.
const ROUTED: [i32; 2] = [0, 7];

/// Occurrences, to see that each kind was there.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// Results of the packet plane: of refusals their reason.
    pub results: BTreeMap<&'static str, u64>,
    /// Results of sockets.
    pub sockets: BTreeMap<String, u64>,
    pub masqueraded: u64,
    pub hairpins: u64,
    /// Questions that were answered by affinity.
    pub remembered: u64,
}

/// Asks about this number of flows, before and after they are served.
pub fn explained(cases: u64, rng: &mut Rng) -> Result<Explained> {
    network()?.run(|| {
        let mut tally = Explained::default();
        let mut fixture = ProgramFixture::new(None, fixture::CONFIG)?;
        let mut explainer = fixture.explainer(fixture::CONFIG)?;
        let mut done = 0;
        while done < cases {
            let objects = RandomObjects::random(rng);
            // Without this a Service that was there before, with the same endpoint, keeps its clients' affinity.
            fixture.load_objects(objects::policy(), [])?;
            fixture.load_objects(objects::policy(), objects.changes())?;
            let flows: Vec<_> = (0..CASES.min(cases - done)).map(|_| objects.flow(rng)).collect();
            let seed = rng.seed;
            let mut chosen = BTreeMap::new();
            asked(&fixture, &mut explainer, &flows, &chosen, &mut tally)
                .with_context(|| format!("before it is served, seed {seed}"))?;
            for (case, flow) in (done..).zip(&flows) {
                serve(&mut fixture, &mut explainer, flow, case, &mut chosen)
                    .with_context(|| format!("{flow:?}, served, seed {seed}"))?;
            }
            asked(&fixture, &mut explainer, &flows, &chosen, &mut tally)
                .with_context(|| format!("after it was served, seed {seed}"))?;
            done += flows.len() as u64;
        }
        Ok(tally)
    })
}

/// The last backend of each client of a service port with affinity.
type Chosen = BTreeMap<(IpAddr, u32), std::net::SocketAddr>;

/// Asks about the flows, compares with the model, and with the maps before.
fn asked(
    fixture: &ProgramFixture,
    explainer: &mut Explainer,
    flows: &[Flow],
    chosen: &Chosen,
    tally: &mut Explained,
) -> Result<()> {
    let before = Dump::of(fixture)?;
    let services = fixture.reconciler.maps().services()?.into_iter();
    let services = services.filter_map(|(id, label)| Some((id, parse_label(&label)?))).collect();
    for flow in flows {
        ask(fixture, explainer, &services, flow, chosen, tally).with_context(|| format!("{flow:?}"))?;
    }
    before.ensure_same(&Dump::of(fixture)?)
}

fn ask(
    fixture: &ProgramFixture,
    explainer: &mut Explainer,
    services: &BTreeMap<u32, ServicePortKey>,
    flow: &Flow,
    chosen: &Chosen,
    tally: &mut Explained,
) -> Result<()> {
    let model = fixture.index.explain(flow);
    let (answer, live) = verdict(fixture, explainer, flow)?;
    let service = live.frontend.and_then(|frontend| services.get(&frontend.service));
    let differences = live.differences(service, &model);
    ensure!(differences.is_empty(), "{differences:?}, {answer:?}");
    *tally.results.entry(live.reason_code(None)).or_default() += 1;
    if live.outcome == FlowOutcome::Dnat && answer.verdict() == Some(Verdict::Backend) {
        check_choice(flow, &answer, &live, chosen, tally)?;
    }
    if model.source != Source::Outside {
        let netns = if model.source == Source::Pod { POD } else { 0 };
        let socket = explainer.socket(&question(flow, netns, LOOPBACK))?;
        check_socket(&socket, &model)?;
        let name = socket.refusal().map_or("", DropReason::name);
        *tally.sockets.entry(format!("{:?} {name}", socket.verdict())).or_default() += 1;
    }
    Ok(())
}

fn verdict(
    fixture: &ProgramFixture,
    explainer: &mut Explainer,
    flow: &Flow,
) -> Result<(Answer, LiveVerdict)> {
    let answer = explainer.packet(&question(flow, 0, LOOPBACK))?;
    Ok((answer, LiveVerdict::of(flow, &answer, fixture.reconciler.maps())?))
}

/// The backend of an answer is one of the set, with its masquerade, route, and the affinity of the client.
fn check_choice(
    flow: &Flow,
    answer: &Answer,
    live: &LiveVerdict,
    chosen: &Chosen,
    tally: &mut Explained,
) -> Result<()> {
    let address = answer.backend_address();
    let backend = live.backends.iter().find(|backend| backend.address == address);
    let backend = backend.with_context(|| format!("{address} is none of {:?}", live.backends))?;
    let is_masqueraded = answer.masquerade() != Masquerading::No;
    ensure!(is_masqueraded == backend.masquerade, "masquerade {:?} of {backend:?}", answer.masquerade());
    tally.masqueraded += u64::from(is_masqueraded);
    tally.hairpins += u64::from(answer.masquerade() == Masquerading::Hairpin);
    ensure!(ROUTED.contains(&answer.route) && answer.device == LOOPBACK, "the route: {answer:?}");
    let source = objects::NODE[usize::from(IpFamily::of(flow.source) == IpFamily::V6)];
    let masqueraded = answer.masquerade_address();
    ensure!(masqueraded == is_masqueraded.then_some(source), "masquerade source {masqueraded:?}");
    let service = live.frontend.context("a frontend")?.service;
    match chosen.get(&(flow.source, service)) {
        Some(last) => {
            ensure!(answer.affinity.generation != 0 && answer.reference == answer.affinity, "{answer:?}");
            ensure!(address == *last, "the client has the backend {last}, not {address}");
            tally.remembered += 1;
        }
        None => ensure!(answer.affinity.generation == 0, "no flow has made {:?}", answer.affinity),
    }
    Ok(())
}

/// The decision of a socket is that of the model, unless the packet has to tell.
fn check_socket(socket: &Answer, model: &FlowVerdict) -> Result<()> {
    let verdict = socket.verdict().context("a verdict")?;
    let is_as_expected = match (model.plane, model.outcome) {
        (Plane::Socket, FlowOutcome::Dnat) => {
            let address = socket.backend_address();
            verdict == Verdict::Backend && model.choices.iter().any(|it| it.backend.address == address)
        }
        (Plane::Socket, FlowOutcome::Reject) => {
            verdict == Verdict::Refused && socket.refusal() == model.reason.drop_reason()
        }
        (Plane::Socket, FlowOutcome::None) => verdict == Verdict::NotOurs,
        (Plane::Socket, FlowOutcome::Drop) => bail!("the model drops at a socket"),
        (Plane::Packet, _) => {
            matches!(verdict, Verdict::LeftToPackets | Verdict::NotOurs | Verdict::NotTranslatedHere)
        }
    };
    ensure!(is_as_expected, "a socket gets {verdict:?} ({:?}), the model: {model:?}", socket.refusal());
    Ok(())
}

/// Sends the first packet of a flow: what the explanation said happens.
fn serve(
    fixture: &mut ProgramFixture,
    explainer: &mut Explainer,
    flow: &Flow,
    case: u64,
    chosen: &mut Chosen,
) -> Result<()> {
    let (_, live) = verdict(fixture, explainer, flow)?;
    let counted = live.refusal.map(|reason| fixture.reconciler.maps().drops(reason as u32)).transpose()?;
    let packet = Packet::first(flow, client_port(case));
    let program = if objects::NODE.contains(&flow.source) { EXTERNAL_EGRESS } else { EXTERNAL_INGRESS };
    let (action, out) = fixture.run(program, &packet)?;
    match live.outcome {
        FlowOutcome::None => ensure!(action == PASS && out == packet.bytes(), "changed: {action}"),
        FlowOutcome::Drop => ensure!(action == DROP, "not dropped: {action}"),
        FlowOutcome::Reject => ensure!(action == REDIRECT, "not rejected: {action}"),
        FlowOutcome::Dnat => {
            let backend = Packet::parse(&out)?.to;
            ensure!(live.backends.iter().any(|it| it.address == backend), "{backend} is another backend");
            let frontend = live.frontend.context("a frontend")?;
            if frontend.affinity.is_some() {
                chosen.insert((flow.source, frontend.service), backend);
            }
        }
    }
    if let (Some(reason), Some(before)) = (live.refusal, counted) {
        let after = fixture.reconciler.maps().drops(reason as u32)?;
        ensure!(after == before + 1, "{} was counted {} times", reason.name(), after - before);
    }
    Ok(())
}

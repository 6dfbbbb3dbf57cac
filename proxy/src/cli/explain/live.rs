//! The verdict of this node: its programs are asked on its maps, then the model on the objects of its agent.
//!
//! Works without an agent, too. Nothing is written: see `datapath::Explainer`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::net::if_::if_indextoname;
use proxy_ebpf::{
    abi::{DescriptorFlags, DropReason, Unclaimed},
    explain::{Answer, Masquerading, Verdict},
};
use serde::Serialize;

use super::{Args, Explanation, chain::table, flows::Known};
use crate::{
    cli::{
        agents::{self, Place},
        frontend_name::FrontendName,
        get::labels::{Labels, ServicePort},
        objects_args::Loaded,
        output::{self, Format},
    },
    datapath::{self, Explainer, InspectError, KernelMaps},
    error::chain,
    index::Index,
    live::{Difference, LiveFrontend, LiveVerdict, backend, question},
    model::{
        address::IpFamily,
        flow::{Flow, FlowOutcome, FlowVerdict, Plane},
        frontend::FrontendAddress,
        reason::Reason,
        service::{ServicePortKey, TrafficPolicy},
    },
    observe::objects::Objects,
    reconcile::LbMaps as _,
};

/// Attempts while programs and model differ: the maps follow the objects within milliseconds.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// Questions until a certain backend of a set is chosen.
const QUESTIONS: u32 = 64;
/// The device of a client without a route to it.
const LOOPBACK: u32 = 1;

/// The steps of the decision.
#[derive(Debug, Serialize)]
pub struct LivePart {
    pub source: &'static str,
    pub scope: Option<&'static str>,
    pub policy: Option<&'static str>,
    pub source_ranges: Option<RangesPart>,
    pub affinity: Option<AffinityPart>,
    /// The slots it chose from.
    pub slots: Option<SlotsPart>,
    pub chosen: Option<SocketAddr>,
    /// Endpoints that are out; empty without an agent.
    pub excluded: Vec<ExcludedPart>,
    pub masqueraded: Option<MasqueradePart>,
    /// After translation.
    pub header: Option<HeaderPart>,
    pub route: Option<RoutePart>,
    /// Flows of this client to this destination that are tracked now.
    pub flows: Vec<FlowPart>,
    pub socket: Option<SocketPart>,
    pub packet: PacketPart,
}

#[derive(Debug, Serialize)]
pub struct RangesPart {
    pub networks: Vec<String>,
    pub is_admitted: bool,
}

#[derive(Debug, Serialize)]
pub struct AffinityPart {
    pub seconds: u32,
    /// The backend that the client had last, if it may have it now.
    pub backend: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
pub struct SlotsPart {
    pub frontend: u32,
    pub first: u32,
    pub count: u32,
    pub local: u32,
    pub attempts: u32,
}

#[derive(Debug, Serialize)]
pub struct ExcludedPart {
    pub endpoint: SocketAddr,
    pub reason: Cow<'static, str>,
}

#[derive(Debug, Serialize)]
pub struct MasqueradePart {
    pub reason: &'static str,
    /// The source address at the device; null: the device has none, and the packet is dropped there.
    pub source: Option<IpAddr>,
}

#[derive(Debug, Serialize)]
pub struct HeaderPart {
    pub source: IpAddr,
    pub destination: SocketAddr,
}

#[derive(Debug, Serialize)]
pub struct RoutePart {
    pub result: &'static str,
    pub device: Option<String>,
    pub next_hop: Option<IpAddr>,
}

#[derive(Debug, Serialize)]
pub struct FlowPart {
    pub client: SocketAddr,
    pub backend: SocketAddr,
    pub masquerade: Option<SocketAddr>,
}

/// The decision at connect.
#[derive(Debug, Serialize)]
pub struct SocketPart {
    pub verdict: &'static str,
    pub backend: Option<SocketAddr>,
    pub affinity: Option<SocketAddr>,
    pub reason_code: Option<&'static str>,
}

/// The decision about a packet, which sockets that are not translated get.
#[derive(Debug, Serialize)]
pub struct PacketPart {
    pub verdict: &'static str,
    pub backend: Option<SocketAddr>,
    pub reason_code: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct Differing {
    pub field: &'static str,
    pub live: String,
    pub model: String,
}

pub fn explain(args: &Args) -> Result<()> {
    let place = args.find.find()?;
    let mut node = LiveNode::open(&place)?;
    let flows = node.known()?.flows(args.service.as_ref(), args.from.as_ref(), args.to)?;
    let explained = flows.iter().map(|flow| node.explain(flow)).collect::<Result<Vec<_>>>()?;
    match (args.output.output, explained.as_slice()) {
        (Format::Json, [only]) if args.to.is_some() => output::print_json(only)?,
        (Format::Json, all) => output::print_json(&all)?,
        (Format::Table, all) => {
            let no_model = node.index.as_ref().err().map(String::as_str);
            let tables: Vec<_> = all.iter().map(|one| table(one, no_model)).collect();
            output::print(&tables.join("\n"))?;
        }
    }
    let differing = explained.iter().flat_map(|one| one.differs.iter().flatten());
    let mut fields: Vec<_> = differing.map(|difference| difference.field).collect();
    fields.sort_unstable();
    fields.dedup();
    if fields.is_empty() {
        return Ok(());
    }
    bail!(
        "the programs of this node and the model differ in {}: a map lags behind the objects, or is damaged",
        fields.join(", ")
    )
}

/// The data plane of this node, and the objects of its agent.
struct LiveNode {
    maps: KernelMaps,
    labels: Labels,
    explainer: Explainer,
    /// `Err`: why the model cannot be asked.
    index: Result<Index, String>,
    /// The addresses of network namespaces by cookie.
    namespaces: HashMap<u64, Vec<IpAddr>>,
    place: Place,
    runtime: tokio::runtime::Runtime,
}

/// The answers to one question.
struct Answers {
    packet: Answer,
    /// `None`: the client is not on this node, or its network namespace is not seen from here.
    socket: Option<Answer>,
}

impl LiveNode {
    fn open(place: &Place) -> Result<Self> {
        let maps = match datapath::inspect(&place.bpffs) {
            Err(error @ InspectError::NoDataPlane(_)) => {
                bail!("{error}{}", agents::hint(&place.bpffs, None))
            }
            opened => opened?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            labels: Labels::read(&maps)?,
            explainer: Explainer::load(&place.bpffs)?,
            index: index(place, &maps),
            namespaces: datapath::netns_addresses(),
            place: place.clone(),
            maps,
            runtime: runtime.context("cannot start a runtime")?,
        })
    }

    fn known(&self) -> Result<Known> {
        let frontends = self.maps.frontends()?.into_iter().map(|(key, index)| {
            let descriptor = self.maps.descriptor(self.maps.published(index)?)?;
            Ok(self.labels.get(descriptor.service).map(|service| (key, service.clone())))
        });
        let frontends = frontends.filter_map(Result::transpose).collect::<Result<_>>()?;
        let mut node_ports = self.maps.node_port_addresses()?;
        node_ports.retain(|address| !address.is_loopback());
        let own =
            self.index.as_ref().ok().map(|index| IpFamily::BOTH.map(|family| index.node().primary(family)));
        let pods = self.index.as_ref().map(|index| Objects::of(index).pods()).map_err(Clone::clone);
        let node = own.map_or_else(|| node_ports.clone(), |own| own.to_vec());
        Ok(Known { pods, frontends, node, node_ports })
    }

    fn explain(&mut self, flow: &Flow) -> Result<Explanation> {
        if IpFamily::of(flow.source) != IpFamily::of(flow.destination.ip()) {
            return Ok(mixed_families());
        }
        let mut explanation = self.explain_once(flow)?;
        for _ in 1..ATTEMPTS {
            if explanation.differs.as_ref().is_none_or(Vec::is_empty) {
                break;
            }
            thread::sleep(PAUSE);
            self.index = index(&self.place, &self.maps);
            self.labels = Labels::read(&self.maps)?;
            explanation = self.explain_once(flow)?;
        }
        Ok(explanation)
    }

    fn explain_once(&mut self, flow: &Flow) -> Result<Explanation> {
        let answers = self.ask(flow)?;
        let verdict = LiveVerdict::of(flow, &answers.packet, &self.maps)?;
        let service = verdict.frontend.and_then(|frontend| self.labels.get(frontend.service)).cloned();
        let model = self.index.as_ref().ok().map(|index| index.explain(flow));
        let differences = model.as_ref().map(|model| {
            let mut found = verdict.differences(service.as_ref(), model);
            found.extend(at_socket(&answers, &verdict));
            found
        });
        let plane = plane(&answers, &verdict);
        let reason = verdict.reason(flow, model.as_ref().map(|model| &model.reason), service.clone());
        let live = self.part(flow, &answers, &verdict, plane, model.as_ref())?;
        let all = !verdict.backends.is_empty() && verdict.backends.iter().all(|backend| backend.masquerade);
        let some = verdict.backends.iter().any(|backend| backend.masquerade);
        let by_backend = || {
            let masquerade =
                |backend: &crate::live::LiveBackend| (backend.address.to_string(), backend.masquerade);
            verdict.backends.iter().map(masquerade).collect::<BTreeMap<_, _>>()
        };
        Ok(Explanation {
            result: verdict.outcome.to_string(),
            frontend: verdict
                .frontend
                .map(|it| self.frontend_name(&it, service.as_ref(), model.as_ref()))
                .transpose()?,
            backends: verdict.backends.iter().map(|backend| backend.address.to_string()).collect(),
            masquerade: all,
            masquerade_by_backend: (some && !all).then(by_backend),
            plane: plane.to_string(),
            reason,
            reason_code: verdict.reason_code(model.as_ref().map(|model| &model.reason)),
            live: Some(live),
            model: Some(model.map(|model| Box::new(Explanation::from(&model)))),
            differs: differences.map(|found| found.into_iter().map(Differing::from).collect()),
        })
    }

    fn ask(&mut self, flow: &Flow) -> Result<Answers> {
        let towards = |address| self.runtime.block_on(datapath::device_towards(address));
        let at = towards(flow.source)?.unwrap_or(LOOPBACK);
        let mut asked = question(flow, 0, at);
        let mut packet = self.explainer.packet(&asked)?;
        let own = datapath::netns_cookie().context("cannot read the cookie of this network namespace")?;
        ensure!(
            own == packet.host_netns,
            "this is another network namespace than the node's, where the routes and devices are: run it there"
        );
        let is_node = packet.origin() == Some(proxy_ebpf::explain::Origin::Node);
        if is_node {
            // Its packets are seen at the device by which they leave.
            asked.device = towards(flow.destination.ip())?.unwrap_or(LOOPBACK);
            packet = self.explainer.packet(&asked)?;
        }
        let has_source = |addresses: &Vec<IpAddr>| addresses.contains(&flow.source);
        let pod = self.namespaces.iter().find(|(cookie, addresses)| **cookie != own && has_source(addresses));
        let netns = if is_node { Some(own) } else { pod.map(|(cookie, _)| *cookie) };
        let socket = netns.map(|netns| self.explainer.socket(&question(flow, netns, at))).transpose()?;
        // The route is the one to the backend of the socket; another endpoint may have the SCTP port.
        let wanted = socket.filter(|socket| socket.verdict() == Some(Verdict::Backend));
        for _ in 0..QUESTIONS {
            let is_other = wanted.is_some_and(|wanted| packet.reference != wanted.reference);
            if !is_other && packet.refusal() != Some(DropReason::SctpPortDiffers) {
                break;
            }
            packet = self.explainer.packet(&asked)?;
        }
        Ok(Answers { packet, socket })
    }

    fn frontend_name(
        &self,
        frontend: &LiveFrontend,
        service: Option<&ServicePortKey>,
        model: Option<&FlowVerdict>,
    ) -> Result<FrontendName> {
        let modelled = model.and_then(|model| model.frontend.as_ref()).filter(|it| it.key == frontend.key);
        let kind = match (modelled, frontend.key.address) {
            (Some(modelled), _) => modelled.kind.name(),
            (None, FrontendAddress::NodePort(_)) => "NodePort",
            (None, FrontendAddress::Ip(address)) if self.is_cluster_ip(address)? => "ClusterIP",
            (None, FrontendAddress::Ip(_)) => "External",
        };
        Ok(FrontendName::of(frontend.key, ServicePort::from(service), kind))
    }

    fn is_cluster_ip(&self, address: IpAddr) -> Result<bool> {
        let networks = self.maps.service_networks()?;
        Ok(networks
            .iter()
            .any(|(network, kind)| *kind == Unclaimed::UndefinedPort && network.ip() == address))
    }

    fn part(
        &self,
        flow: &Flow,
        answers: &Answers,
        verdict: &LiveVerdict,
        plane: Plane,
        model: Option<&FlowVerdict>,
    ) -> Result<LivePart> {
        let Answers { packet, socket } = answers;
        let decided = socket.as_ref().filter(|_| plane == Plane::Socket).unwrap_or(packet);
        let is_translated =
            verdict.outcome == FlowOutcome::Dnat && decided.verdict() == Some(Verdict::Backend);
        let chosen = is_translated.then(|| decided.backend_address());
        let is_routed =
            packet.verdict() == Some(Verdict::Backend) && chosen == Some(packet.backend_address());
        let is_masqueraded = plane == Plane::Packet && packet.masquerade() != Masquerading::No;
        let frontend = verdict.frontend;
        let excluded =
            match (&self.index, model.and_then(|model| Some((model.frontend.as_ref()?, model.source)))) {
                (Ok(index), Some((frontend, source))) => index.excluded(frontend, source),
                (Ok(_) | Err(_), _) => Vec::new(),
            };
        Ok(LivePart {
            source: verdict.source.name(),
            scope: frontend.map(|it| if it.is_internal { "internal" } else { "external" }),
            policy: frontend.map(|it| match it.policy {
                TrafficPolicy::Local => "Local",
                TrafficPolicy::Cluster => "Cluster",
            }),
            source_ranges: self.ranges(verdict)?,
            affinity: self.affinity(decided, frontend.as_ref())?,
            slots: frontend.map(|it| SlotsPart {
                frontend: it.index,
                first: it.block.offset,
                count: it.block.count,
                local: it.block.local,
                attempts: decided.attempts,
            }),
            chosen,
            excluded: excluded
                .into_iter()
                .map(|(endpoint, why)| ExcludedPart { endpoint, reason: why.words().into() })
                .chain(self.suspected(frontend.as_ref())?)
                .collect(),
            masqueraded: (is_routed && is_masqueraded).then(|| MasqueradePart {
                reason: masquerade_reason(packet, frontend.as_ref()),
                source: packet.masquerade_address(),
            }),
            header: chosen.map(|destination| HeaderPart {
                source: packet.masquerade_address().filter(|_| is_masqueraded).unwrap_or(flow.source),
                destination,
            }),
            route: is_routed.then(|| route(packet)),
            flows: self.flows(flow)?,
            socket: socket.as_ref().map(|answer| self.socket_part(answer)).transpose()?,
            packet: PacketPart {
                verdict: verdict_word(packet),
                backend: (packet.verdict() == Some(Verdict::Backend)).then(|| packet.backend_address()),
                reason_code: packet.refusal().map(DropReason::name),
            },
        })
    }

    fn ranges(&self, verdict: &LiveVerdict) -> Result<Option<RangesPart>> {
        let Some(set) = verdict.frontend.and_then(|frontend| frontend.source_ranges) else { return Ok(None) };
        let ranges = self.maps.source_ranges()?.into_iter().filter(|(of, _)| *of == set);
        let networks = ranges.map(|(_, network)| network.to_string()).collect();
        let is_admitted = verdict.refusal != Some(DropReason::SourceNotInRanges);
        Ok(Some(RangesPart { networks, is_admitted }))
    }

    fn affinity(&self, answer: &Answer, frontend: Option<&LiveFrontend>) -> Result<Option<AffinityPart>> {
        let Some(frontend) = frontend else { return Ok(None) };
        let Some(seconds) = frontend.affinity else { return Ok(None) };
        let backend = self.remembered(answer)?;
        Ok(Some(AffinityPart { seconds: seconds.get(), backend }))
    }

    /// The suspected backends of the view: no others are left out of it.
    fn suspected(&self, frontend: Option<&LiveFrontend>) -> Result<Vec<ExcludedPart>> {
        let Some(frontend) = frontend else { return Ok(Vec::new()) };
        let (family, references) = frontend.references(&self.maps)?;
        let mut found = Vec::new();
        for reference in references {
            if let Some(suspicion) = self.maps.backend_health(family, reference)?
                && let Some(backend) = backend(&self.maps, family, reference)?
            {
                let reason = format!("suspected: {}", suspicion.words()).into();
                found.push(ExcludedPart { endpoint: backend.address, reason });
            }
        }
        Ok(found)
    }

    fn remembered(&self, answer: &Answer) -> Result<Option<SocketAddr>> {
        if answer.affinity.generation == 0 {
            return Ok(None);
        }
        let Some(frontend) = LiveFrontend::of(answer) else { return Ok(None) };
        let found = backend(&self.maps, frontend.key.address.family(), answer.affinity)?;
        Ok(found.map(|backend| backend.address))
    }

    fn socket_part(&self, answer: &Answer) -> Result<SocketPart> {
        Ok(SocketPart {
            verdict: verdict_word(answer),
            backend: (answer.verdict() == Some(Verdict::Backend)).then(|| answer.backend_address()),
            affinity: self.remembered(answer)?,
            reason_code: answer.refusal().map(DropReason::name),
        })
    }

    fn flows(&self, flow: &Flow) -> Result<Vec<FlowPart>> {
        let tracked = datapath::inspect_flows(&self.place.bpffs)?;
        let is_same = |found: &datapath::TrackedFlow| {
            found.client.ip() == flow.source
                && found.frontend == flow.destination
                && found.protocol == flow.protocol.number()
        };
        let mut found = Vec::new();
        for tracked in tracked.alive() {
            let tracked = tracked?;
            if is_same(&tracked) {
                let datapath::TrackedFlow { client, backend, masquerade, .. } = tracked;
                found.push(FlowPart { client, backend, masquerade });
            }
        }
        found.sort_by_key(|flow| flow.client);
        Ok(found)
    }
}

/// The objects of the agent, with its policy.
/// The model, with the objects and the policy of the agent, and the addresses of this node's interfaces.
fn index(place: &Place, maps: &KernelMaps) -> Result<Index, String> {
    let loaded = Loaded::of_agent(&place.socket).map_err(|error| chain(error.as_ref()))?;
    let policy = loaded.own_policy().map_err(|error| chain(error.as_ref()))?;
    let mut index = loaded.manifests.to_index(policy).0;
    let addresses = maps.node_addresses().map_err(|error| chain(&error))?;
    index.add_own_addresses(addresses.into_keys());
    Ok(index)
}

fn mixed_families() -> Explanation {
    Explanation {
        result: FlowOutcome::None.to_string(),
        frontend: None,
        backends: [].into(),
        masquerade: false,
        masquerade_by_backend: None,
        plane: Plane::Packet.to_string(),
        reason: Reason::MixedFamilies.to_string(),
        reason_code: Reason::MixedFamilies.code().name(),
        live: None,
        model: None,
        differs: None,
    }
}

/// The plane that decides: the socket, unless it leaves the flow to its packets.
fn plane(answers: &Answers, verdict: &LiveVerdict) -> Plane {
    match answers.socket.as_ref().and_then(Answer::verdict) {
        Some(Verdict::Backend | Verdict::Refused) => Plane::Socket,
        Some(Verdict::NotOurs) if verdict.outcome == FlowOutcome::None => Plane::Socket,
        Some(Verdict::NotOurs | Verdict::LeftToPackets | Verdict::NotTranslatedHere) | None => Plane::Packet,
    }
}

/// The decision of a socket, where it is none of the packet plane.
fn at_socket(answers: &Answers, verdict: &LiveVerdict) -> Option<Difference> {
    let socket = answers.socket.as_ref()?;
    let is_same = match socket.verdict()? {
        Verdict::Backend => {
            let address = socket.backend_address();
            verdict.backends.iter().any(|backend| backend.address == address)
        }
        Verdict::Refused => socket.refusal() == verdict.refusal,
        Verdict::NotOurs => verdict.frontend.is_none(),
        Verdict::LeftToPackets | Verdict::NotTranslatedHere => true,
    };
    let backend = if socket.verdict() == Some(Verdict::Backend) {
        format!(" {}", socket.backend_address())
    } else {
        String::new()
    };
    (!is_same).then(|| Difference {
        field: "socket",
        live: format!("{}{backend}", verdict_word(socket)),
        model: format!("{}, as the packet plane", verdict.outcome),
    })
}

fn verdict_word(answer: &Answer) -> &'static str {
    match answer.verdict() {
        Some(Verdict::Backend) => "translated",
        Some(Verdict::Refused) => "refused",
        Some(Verdict::NotOurs) | None => "not Service traffic",
        Some(Verdict::LeftToPackets) => "left to the packets",
        Some(Verdict::NotTranslatedHere) => "not translated at sockets",
    }
}

fn masquerade_reason(answer: &Answer, frontend: Option<&LiveFrontend>) -> &'static str {
    let flags = answer.descriptor.flags;
    if answer.masquerade() == Masquerading::Hairpin {
        return "the backend is the client itself";
    }
    let is_always = flags.contains(DescriptorFlags::MASQUERADE_ALWAYS);
    match frontend.map(|frontend| frontend.key.address) {
        _ if is_always => "every flow of this frontend, so that the reply returns through this node",
        _ if flags.contains(DescriptorFlags::MASQUERADE_UNLESS_POD) => "the client is not a pod",
        Some(_) | None => "the client is the node",
    }
}

/// The result of the kernel's FIB lookup, from linux/bpf.h.
fn route(answer: &Answer) -> RoutePart {
    let result = match answer.route {
        0 => "forwarded",
        1 => "blackhole",
        2 => "unreachable",
        3 => "prohibited",
        4 => "delivered on the node, or no route",
        5 => "forwarding is off at the device of the client",
        7 => "forwarded, once the neighbour is resolved",
        _ => "the kernel cannot tell",
    };
    let is_found = matches!(answer.route, 0 | 7);
    let name = || if_indextoname(answer.device).ok().map(|name| name.to_string_lossy().into_owned());
    RoutePart {
        result,
        device: is_found.then(name).flatten(),
        next_hop: (answer.route == 0).then(|| answer.next_hop_address()),
    }
}

impl From<Difference> for Differing {
    fn from(Difference { field, live, model }: Difference) -> Self {
        Self { field, live, model }
    }
}

//! The live verdict on a flow, from the answer of the programs and the maps that it names; and its comparison with the model's.
//!
//! Pure: the maps are read through `LbMaps`, and the programs are asked elsewhere.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
};

use proxy_ebpf::{
    abi::{BackendFlags, BackendRef, Block, DescriptorFlags, DropReason, mapped},
    explain::{Answer, Masquerading, Origin, Question, Verdict},
};

use crate::{
    model::{
        address::{IpFamily, Protocol},
        flow::{Flow, FlowOutcome, FlowVerdict},
        frontend::{Frontend, FrontendKey},
        node::Source,
        reason::{Reason, ReasonCode},
        service::{ServicePortKey, TrafficPolicy},
    },
    reconcile::{LbMaps, MapError, frontend_key},
};

/// The verdict of the packet plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveVerdict {
    pub outcome: FlowOutcome,
    pub source: Source,
    pub frontend: Option<LiveFrontend>,
    /// The complete set that the flow could reach; empty unless it is translated.
    pub backends: BTreeSet<LiveBackend>,
    /// The reason if it is refused.
    pub refusal: Option<DropReason>,
}

/// A frontend as its descriptor has it, in the view of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFrontend {
    pub key: FrontendKey,
    /// The number of its entry.
    pub index: u32,
    /// Id of the service port.
    pub service: u32,
    pub is_internal: bool,
    pub policy: TrafficPolicy,
    pub block: Block,
    pub affinity: Option<NonZeroU32>,
    /// The set of source ranges that apply.
    pub source_ranges: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveBackend {
    pub address: SocketAddr,
    pub is_local: bool,
    pub masquerade: bool,
}

/// A field in which the programs and the model differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub field: &'static str,
    pub live: String,
    pub model: String,
}

/// The question about a flow. `netns`: the cookie of the client's network namespace; `device`: where its packets are seen.
pub fn question(flow: &Flow, netns: u64, device: u32) -> Question {
    Question {
        netns,
        source: wire(flow.source),
        destination: wire(flow.destination.ip()),
        device,
        port: flow.destination.port().to_be_bytes(),
        protocol: flow.protocol.number(),
        zero: 0,
    }
}

impl LiveVerdict {
    /// Reads the set that an answer about a packet of a flow names.
    pub fn of(flow: &Flow, answer: &Answer, maps: &impl LbMaps) -> Result<Self, MapError> {
        let frontend = LiveFrontend::of(answer);
        let mut refusal = answer.refusal();
        let mut backends = BTreeSet::new();
        let is_sctp_port = refusal == Some(DropReason::SctpPortDiffers);
        if let Some(frontend) = frontend.filter(|_| refusal.is_none() || is_sctp_port) {
            let by_policy = answer.masquerade() == Masquerading::Policy;
            for (_, backend) in frontend.backends(maps)? {
                let is_hairpin = backend.is_local && backend.address.ip() == flow.source;
                backends.insert(LiveBackend { masquerade: by_policy || is_hairpin, ..backend });
            }
        }
        if flow.protocol == Protocol::Sctp {
            backends.retain(|backend| backend.address.port() == flow.destination.port());
        }
        // A flow that gets another endpoint is translated.
        if is_sctp_port && !backends.is_empty() {
            refusal = None;
        }
        let is_translated = answer.verdict() == Some(Verdict::Backend) || is_sctp_port;
        let outcome = match refusal {
            Some(reason) if reason.sends_reject() => FlowOutcome::Reject,
            Some(_) => FlowOutcome::Drop,
            None if is_translated => FlowOutcome::Dnat,
            None => FlowOutcome::None,
        };
        Ok(Self { outcome, source: source(answer), frontend, backends, refusal })
    }

    /// The code of the reason. Why a flow is not Service traffic, only the model tells.
    pub fn reason_code(&self, modelled: Option<&Reason>) -> &'static str {
        match (self.refusal, self.outcome) {
            (Some(reason), _) => reason.name(),
            (None, FlowOutcome::Dnat) => ReasonCode::Translated.name(),
            (None, FlowOutcome::None | FlowOutcome::Reject | FlowOutcome::Drop) => {
                let of_model = modelled.filter(|reason| is_no_service_traffic(reason));
                of_model.map_or(ReasonCode::NoFrontend, Reason::code).name()
            }
        }
    }

    /// The reason. The model's has more data, and is taken where it agrees.
    pub fn reason(&self, flow: &Flow, modelled: Option<&Reason>, service: Option<ServicePortKey>) -> String {
        let Flow { destination, protocol, .. } = *flow;
        match (self.refusal, self.outcome) {
            (Some(reason), _) => match modelled {
                Some(modelled) => Reason::of_refusal(reason, modelled.clone(), service).to_string(),
                None => Reason::Datapath { reason, service }.to_string(),
            },
            (None, FlowOutcome::Dnat) => match modelled.filter(|it| it.code() == ReasonCode::Translated) {
                Some(modelled) => modelled.to_string(),
                None => {
                    let count = self.backends.len();
                    let plural = if count == 1 { "" } else { "s" };
                    let service = service.map_or_else(|| "?".to_owned(), |service| service.to_string());
                    format!("the client may use {count} endpoint{plural} of {service}")
                }
            },
            (None, FlowOutcome::None | FlowOutcome::Reject | FlowOutcome::Drop) => {
                match modelled.filter(|reason| is_no_service_traffic(reason)) {
                    Some(modelled) => modelled.to_string(),
                    None => Reason::NoFrontend { destination, protocol }.to_string(),
                }
            }
        }
    }

    /// The fields in which the verdict differs from the model's. `service`: the name of the frontend's service port.
    ///
    /// The plane is none: it depends on what is attached, which the objects do not tell.
    pub fn differences(&self, service: Option<&ServicePortKey>, model: &FlowVerdict) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |field, live: String, model: String| {
            if live != model {
                found.push(Difference { field, live, model });
            }
        };
        compare("result", self.outcome.to_string(), model.outcome.to_string());
        if !model.is_source_inferred {
            compare("source", self.source.name().to_owned(), model.source.name().to_owned());
        }
        // A frontend that finds no room in the tables is known to the model alone, with the reason.
        let frontend = model.frontend.as_ref().filter(|_| model.reason.code() != ReasonCode::NotProgrammed);
        let of_model = |read: &dyn Fn(&Frontend) -> String| frontend.map_or_else(none, read);
        let of_live = |read: &dyn Fn(&LiveFrontend) -> String| self.frontend.as_ref().map_or_else(none, read);
        compare("frontend", of_live(&|it| it.key.to_string()), of_model(&|it| it.key.to_string()));
        let named = service.map_or_else(|| "?".to_owned(), ToString::to_string);
        compare("service", of_live(&|_| named.clone()), of_model(&|it| it.service.to_string()));
        if self.frontend.is_some() && frontend.is_some() {
            let seconds =
                |affinity: Option<NonZeroU32>| affinity.map_or_else(none, |seconds| format!("{seconds} s"));
            compare("affinity", of_live(&|it| seconds(it.affinity)), of_model(&|it| seconds(it.affinity)));
        }
        let of_live = self.backends.iter().map(|backend| (backend.address, backend.masquerade));
        let of_model = model.choices.iter().map(|choice| (choice.backend.address, choice.masquerade));
        let (of_live, of_model): (BTreeSet<_>, BTreeSet<_>) = (of_live.collect(), of_model.collect());
        compare("backends", addresses(&of_live, |_| true), addresses(&of_model, |_| true));
        if of_live.iter().map(|(it, _)| it).eq(of_model.iter().map(|(it, _)| it)) {
            compare("masquerade", addresses(&of_live, |it| it), addresses(&of_model, |it| it));
        }
        let is_refused = self.refusal.is_some() || model.reason.drop_reason().is_some();
        if is_refused {
            compare("reason_code", self.reason_code(None).to_owned(), model.reason.code().name().to_owned());
        }
        found
    }
}

impl LiveFrontend {
    /// The frontend of an answer, if one was found.
    pub fn of(answer: &Answer) -> Option<Self> {
        let descriptor = &answer.descriptor;
        let key = frontend_key(descriptor.address, descriptor.port, descriptor.protocol)?;
        let is_internal = answer.scope == 1;
        let (block, is_local) = if is_internal {
            (descriptor.internal, DescriptorFlags::INTERNAL_LOCAL)
        } else {
            (descriptor.external, DescriptorFlags::EXTERNAL_LOCAL)
        };
        let has_ranges = descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES);
        answer.has_frontend().then_some(Self {
            key,
            index: descriptor.frontend,
            service: descriptor.service,
            is_internal,
            policy: if descriptor.flags.contains(is_local) {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            },
            block,
            affinity: NonZeroU32::new(descriptor.affinity_seconds),
            source_ranges: has_ranges.then_some(descriptor.source_ranges),
        })
    }

    /// The references of the view's slots, some of which may be stale, and their family.
    pub fn references(&self, maps: &impl LbMaps) -> Result<(IpFamily, Vec<BackendRef>), MapError> {
        Ok((self.key.address.family(), maps.slots(self.block)?))
    }

    /// The backends of the view, without stale references: each with its slot.
    pub fn backends(&self, maps: &impl LbMaps) -> Result<Vec<(u32, LiveBackend)>, MapError> {
        let family = self.key.address.family();
        let mut found = Vec::new();
        for (slot, reference) in (self.block.offset..).zip(maps.slots(self.block)?) {
            found.extend(backend(maps, family, reference)?.map(|backend| (slot, backend)));
        }
        Ok(found)
    }
}

/// The backend of a reference. Returns `None` if it is stale.
pub fn backend(
    maps: &impl LbMaps,
    family: IpFamily,
    reference: BackendRef,
) -> Result<Option<LiveBackend>, MapError> {
    let entry = maps.backend(family, reference.index)?;
    let is_current = entry.generation == reference.generation && entry.flags.contains(BackendFlags::ALIVE);
    Ok(is_current.then_some(LiveBackend {
        address: entry.address,
        is_local: entry.flags.contains(BackendFlags::LOCAL),
        masquerade: false,
    }))
}

fn is_no_service_traffic(reason: &Reason) -> bool {
    reason.drop_reason().is_none() && reason.code() != ReasonCode::Translated
}

fn source(answer: &Answer) -> Source {
    match answer.origin() {
        Some(Origin::Pod) => Source::Pod,
        Some(Origin::Node) => Source::Node,
        Some(Origin::Outside) | None => Source::Outside,
    }
}

fn wire(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn none() -> String {
    "none".to_owned()
}

/// The addresses of the backends that are selected by whether they are masqueraded.
fn addresses(backends: &BTreeSet<(SocketAddr, bool)>, selected: impl Fn(bool) -> bool) -> String {
    let addresses = backends.iter().filter(|(_, masquerade)| selected(*masquerade));
    let addresses: Vec<_> = addresses.map(|(address, _)| address.to_string()).collect();
    if addresses.is_empty() { none() } else { addresses.join(", ") }
}

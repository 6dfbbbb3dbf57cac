//! A packet that may begin a flow: who sends it, what is decided, and the flow's record.

use aya_ebpf::programs::TcContext;
use proxy_ebpf::abi::{
    AffinityKey, BackendFlags, BackendRef, ConfigFlags, Descriptor, DescriptorFlags, Direction, DropReason,
    Endpoint, FlowFlags, MASQUERADE_NONE, TupleKind, Unclaimed,
};

use crate::{
    clock, config,
    conntrack::{self, Claimed, Found},
    decide::{Choice, Client, Scope, Verdict, decide},
    family::{Backend, Family, bytes},
    frontend, metrics, network,
    packet::{Packet, SCTP, UDP},
    reject::ClientAt,
    sock,
    stage::{Step, Work},
    tc::Place,
};

/// Who sends a packet, and what it really dials.
#[inline(always)]
pub fn ask<F: Family>(ctx: &TcContext, work: &mut Work<F>, place: Place) {
    // SAFETY: the kernel's own context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    work.asker = Asker::new(&work.packet, place.client(), device);
    let socket = socket_of::<F>(ctx, &work.packet, place);
    work.asker.is_from_socket = matches!(socket, Dialling::Backend).into();
    let resteered = if let Dialling::Former(address, port) = socket { Some((address, port)) } else { None };
    work.asker.is_resteered = resteered.is_some().into();
    work.asker.is_in_pod = place.is_pod().into();
    (work.dialled, work.destination_port) =
        resteered.unwrap_or((work.packet.destination, work.packet.destination_port));
}

/// Who sends a packet that the early plane looks at.
#[inline(always)]
pub fn ask_early<F: Family>(work: &mut Work<F>, device: u32) {
    work.asker = Asker::new(&work.packet, ClientAt::BehindDevice, device);
    (work.dialled, work.destination_port) = (work.packet.destination, work.packet.destination_port);
}

/// Decides about a packet.
#[inline(always)]
pub fn choose<F: Family>(work: &mut Work<F>) -> Step {
    match decide::<F>(work.dialled, work.destination_port, work.packet.protocol, &work.asker) {
        Verdict::Backend(choice) => {
            work.choice = choice;
            Step::CHOSEN
        }
        Verdict::Refuse(reason, service) => Step::refuse(reason, service),
        Verdict::NotOurs => match unclaimed(work) {
            Some(reason) => Step::refuse(reason, None),
            None => pass(work),
        },
    }
}

/// Nothing of a Service's. What the node itself sends from a port that is a NodePort is remembered all the same: the answers
/// would look like the NodePort's clients. TCP's do not: they begin with no SYN.
#[inline(always)]
fn pass<F: Family>(work: &mut Work<F>) -> Step {
    if work.asker.is_from_socket != 0 {
        make_way(work);
    }
    let Packet { source, source_port, destination, destination_port, protocol, .. } = work.packet;
    let is_mistakable = work.asker.is_on_node != 0 && protocol == UDP;
    if !is_mistakable || !frontend::is_node_port::<F>(source, source_port, protocol) {
        return Step::PASS;
    }
    let backend =
        Backend { address: destination, port: destination_port, flags: BackendFlags::default(), service: 0 };
    work.choice =
        Choice { backend, reference: BackendRef::default(), frontend: 0, flags: DescriptorFlags::default() };
    work.asker.is_passing = 1;
    Step::CHOSEN
}

/// Ends a flow that led another socket's packets to this one's backend, from the same port: that socket is closed, and its
/// flow would take the answers that are for this one.
#[inline(always)]
fn make_way<F: Family>(work: &Work<F>) {
    let direction = if work.asker.is_on_node != 0 { Direction::Ingress } else { Direction::Egress };
    if let Found::Flow(flow) = conntrack::find::<F>(&work.packet.answer::<F>(direction))
        && flow.kind == TupleKind::ReplyAfterReverseSnat
        && flow.record().flags.contains(FlowFlags::RESTEERED)
    {
        // Should it not end now, somebody else ends it or a packet revived it, and the next try finds it.
        let _ = flow.end();
    }
}

/// Begins the flow that was decided on, in the place of a known one.
#[inline(always)]
pub fn begin<F: Family>(work: &mut Work<F>, known: u32) -> Step {
    let service = work.choice.backend.service;
    if known != Step::NOBODY && !conntrack::at::<F>(known).is_some_and(|flow| flow.end()) {
        return Step::refuse(DropReason::FlowEnding, Some(service));
    }
    match record(work) {
        Ok(slot) => {
            if work.asker.is_passing == 0 {
                metrics::translated(service);
            }
            Step::flow(slot)
        }
        Err(reason) => Step::refuse(reason, Some(service)),
    }
}

#[inline(always)]
fn record<F: Family>(work: &Work<F>) -> Result<u32, DropReason> {
    let Work { packet, choice, asker, .. } = work;
    if packet.protocol == SCTP && choice.backend.port != packet.destination_port {
        return Err(DropReason::SctpPortDiffers);
    }
    let mut claimed = Claimed::<F>::new()?;
    let record = claimed.record();
    record.masquerade_state = MASQUERADE_NONE;
    record.client = F::bytes(packet.source);
    record.destination = F::bytes(packet.destination);
    record.backend = F::bytes(choice.backend.address);
    record.client_port = packet.source_port;
    record.destination_port = packet.destination_port;
    record.backend_port = choice.backend.port;
    record.translated_port = packet.source_port;
    record.protocol = packet.protocol;
    record.flags = flags::<F>(choice, asker);
    record.frontend = choice.frontend;
    record.service = choice.backend.service;
    record.reference = choice.reference;
    record.created = clock::ticks();
    claimed.publish()
}

/// What the packet's own socket tells of it.
enum Dialling<A> {
    /// It is of no connected UDP socket that was given a backend.
    Whatever,
    /// The backend that the socket was given.
    Backend,
    /// That one has gone, and the socket dials it still: the frontend that it dialled in the first place.
    Former(A, [u8; 2]),
}

#[inline(always)]
fn socket_of<F: Family>(ctx: &TcContext, packet: &Packet<F::Address>, place: Place) -> Dialling<F::Address> {
    if packet.protocol != UDP || !(place.is_pod() || place.is_egress()) {
        return Dialling::Whatever;
    }
    // SAFETY: the kernel's own context; a pod's socket is still there at its device.
    let Some(pair) = sock::remembered(unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk }) else {
        return Dialling::Whatever;
    };
    let dialled = Endpoint::new(bytes(F::mapped(packet.destination)), packet.destination_port);
    if pair.backend != dialled {
        Dialling::Whatever
    } else if F::backend(pair.reference).is_some() {
        Dialling::Backend
    } else {
        Dialling::Former(F::of_mapped(pair.frontend.address), pair.frontend.port)
    }
}

#[inline(always)]
fn flags<F: Family>(choice: &Choice<F::Address>, asker: &Asker<F>) -> FlowFlags {
    let is_resteered = asker.is_resteered != 0;
    let by_policy = !is_resteered && asker.is_masqueraded(choice.flags);
    // A backend that dials itself would see its own address come in, and answer itself instead of the frontend.
    let is_local = choice.backend.flags.contains(BackendFlags::LOCAL);
    let is_hairpin = is_local && F::is_same(F::bytes(choice.backend.address), F::bytes(asker.address));
    FlowFlags::default()
        .with(FlowFlags::MASQUERADE, by_policy || is_hairpin)
        .with(FlowFlags::HOST_CLIENT, asker.is_on_node != 0)
        .with(FlowFlags::RESTEERED, is_resteered)
        .with(FlowFlags::UNTRANSLATED, asker.is_passing != 0)
        .with(FlowFlags::ON_NODE, is_local || asker.origin == NODE || asker.is_in_pod != 0)
}

/// No frontend has this address and port. Addresses of Services must not leak out even so; an address of the node is the
/// node's for everybody else.
#[inline(always)]
fn unclaimed<F: Family>(work: &Work<F>) -> Option<DropReason> {
    let unclaimed = F::unclaimed(work.packet.destination)?;
    if work.asker.origin != NODE && F::node_address(work.packet.destination).is_some() {
        return None;
    }
    Some(match unclaimed {
        Unclaimed::UndefinedPort => DropReason::UndefinedPort,
        Unclaimed::Unallocated => DropReason::UnallocatedAddress,
    })
}

/// The sender of a packet. Numbers, not enums: it is kept in a map between the stages.
#[derive(Clone, Copy)]
pub struct Asker<F: Family> {
    address: F::Address,
    /// `POD`, `NODE` or `OUTSIDE`.
    origin: u32,
    is_on_node: u32,
    /// Behind a device of this node that leads to a pod.
    is_in_pod: u32,
    /// The packet is a socket's whose backend has gone.
    is_resteered: u32,
    /// The packet is a socket's that dials the backend it was given.
    is_from_socket: u32,
    /// Nothing is to be translated.
    is_passing: u32,
}

/// A pod's address that is also the node's counts as a pod's.
const POD: u32 = 1;
const NODE: u32 = 2;
const OUTSIDE: u32 = 3;

impl<F: Family> Asker<F> {
    #[inline(always)]
    fn new(packet: &Packet<F::Address>, at: ClientAt, device: u32) -> Self {
        let address = packet.source;
        let is_on_node = at == ClientAt::OnNode;
        let is_pod = if config::flags().contains(ConfigFlags::PODS_BY_DEVICE) {
            // What the node sends enters through no device.
            !is_on_node && network::is_pod_device(device)
        } else {
            network::is_pod(F::POD_RANGE, F::mapped(address))
        };
        let origin = if is_pod {
            POD
        } else if is_on_node || F::node_address(address).is_some() {
            NODE
        } else {
            OUTSIDE
        };
        Self {
            address,
            origin,
            is_on_node: is_on_node.into(),
            is_in_pod: 0,
            is_resteered: 0,
            is_from_socket: 0,
            is_passing: 0,
        }
    }

    /// Whether a flow gets the node's address by the frontend's policy.
    #[inline(always)]
    fn is_masqueraded(&self, flags: DescriptorFlags) -> bool {
        flags.contains(DescriptorFlags::MASQUERADE_ALWAYS)
            || (flags.contains(DescriptorFlags::MASQUERADE_UNLESS_POD) && self.origin != POD)
            || (flags.contains(DescriptorFlags::MASQUERADE_FROM_NODE) && self.origin == NODE)
    }
}

impl<F: Family> Client<F> for Asker<F> {
    #[inline(always)]
    fn is_host(&self) -> bool {
        self.is_on_node != 0
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        if self.origin == OUTSIDE { Scope::External } else { Scope::Internal }
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        AffinityKey::new(bytes(F::mapped(self.address)), service)
    }

    #[inline(always)]
    fn is_kept_out(&self, descriptor: &Descriptor) -> Option<DropReason> {
        (!F::admits(descriptor.source_ranges, self.address)).then_some(DropReason::SourceNotInRanges)
    }

    #[inline(always)]
    fn would_rather_not(&self, _: &Endpoint) -> bool {
        false
    }
}

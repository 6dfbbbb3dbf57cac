//! Questions of `portreeve explain`: the decision about a packet or a socket that does not exist, on the live maps.
//!
//! The programs are attached to nothing. They share the decision with the hooks and write only their own scratch map: the clients of
//! questions are `ReadOnly`, and flows are neither looked up nor created.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes},
    macros::btf_map,
    programs::TcContext,
};
use proxy_ebpf::{
    abi::{AffinityKey, BackendRef, Descriptor, DropReason, Endpoint, FlowFlags},
    explain::{Answer, Masquerading, OFFSET, Question, Verdict},
};

use super::cgroup::{Socket, SocketFamily, decide_connect, is_deferred_to_tc, is_enabled};
use crate::{
    config,
    ct::{Flows, ScratchSpace, create},
    family::{Family, V4, V6, bytes, unmapped, words},
    fib::{self, Routes},
    lb::{Choice, Client, ClientInfo, Decision, ReadOnly, Scope, decide},
    packet::{
        ClientLocation,
        header::{SCTP, TCP, UDP},
    },
};

/// A question and its answer.
struct Exchange {
    question: Question,
    answer: Answer,
}

/// Test runs of a CPU do not interrupt each other, so one per CPU suffices.
#[btf_map]
static EXPLAINED: PerCpuArray<Exchange, 1> = PerCpuArray::new();

/// Answers the question in a packet, as the hooks of devices would for a packet. Returns -1 without one.
#[inline(always)]
pub fn packet(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    answered(ctx, |is_v4| if is_v4 { explain_packet::<V4>(skb) } else { explain_packet::<V6>(skb) })
}

/// As `packet`, for a socket in connect.
#[inline(always)]
pub fn socket(ctx: &TcContext) -> i32 {
    answered(ctx, |is_v4| {
        let _ = if is_v4 { decide_socket::<V4>() } else { decide_socket::<V6>() };
    })
}

#[inline(always)]
fn answered(ctx: &TcContext, explain: impl FnOnce(bool)) -> i32 {
    let Some(is_v4) = read_question(ctx) else { return -1 };
    explain(is_v4);
    let Some(exchange) = exchange() else { return -1 };
    let answer = (&raw const exchange.answer).cast();
    // SAFETY: the kernel's own context, and a record of this length in this CPU's own element.
    unsafe {
        bpf_skb_store_bytes(ctx.skb.skb.cast(), OFFSET as u32, answer, size_of::<Answer>() as u32, 0) as i32
    }
}

/// Reads the question of a packet. Returns whether it is about IPv4, `None` if the packet is too short.
#[inline(always)]
fn read_question(ctx: &TcContext) -> Option<bool> {
    let question = &mut exchange()?.question;
    let (to, length) = ((&raw mut *question).cast(), size_of::<Question>() as u32);
    // SAFETY: as in `answered`.
    let code = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), OFFSET as u32, to, length) };
    (code == 0).then(|| unmapped(words(question.destination)).is_some())
}

#[inline(always)]
fn exchange() -> Option<&'static mut Exchange> {
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    EXPLAINED.get_ptr_mut(0).map(|exchange| unsafe { &mut *exchange })
}

/// Notes of a decision, in the answer.
#[derive(Clone, Copy)]
struct Notes(*mut Answer);

impl Notes {
    #[inline(always)]
    fn considered(self, descriptor: &Descriptor, scope: Scope, first: u32, count: u32) {
        // SAFETY: this CPU's own element of an array map, which lives as long as the program; so below.
        let answer = unsafe { &mut *self.0 };
        answer.descriptor = *descriptor;
        answer.scope = if scope == Scope::Internal { 1 } else { 2 };
        answer.first_slot = first;
        answer.slots = count;
        answer.attempts = answer.attempts.wrapping_add(1);
    }

    #[inline(always)]
    fn remembered(self, backend: BackendRef) {
        // SAFETY: as above.
        unsafe { (*self.0).affinity = backend };
    }
}

/// The client of a packet that does not exist.
struct AskedPacket<'a, F: Family> {
    client: &'a ClientInfo<F>,
    notes: Notes,
}

impl<F: Flows> Client<F> for AskedPacket<'_, F> {
    type Access = ReadOnly;

    const ATTEMPTS: u32 = <ClientInfo<F> as Client<F>>::ATTEMPTS;

    #[inline(always)]
    fn is_host(&self) -> bool {
        self.client.is_host()
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        self.client.scope()
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        self.client.affinity_key(service)
    }

    #[inline(always)]
    fn is_proven(&self) -> bool {
        self.client.is_proven()
    }

    #[inline(always)]
    fn excluded_by_source_ranges(&self, descriptor: &Descriptor) -> Option<DropReason> {
        self.client.excluded_by_source_ranges(descriptor)
    }

    #[inline(always)]
    fn avoids(&self, backend: &Endpoint) -> bool {
        self.client.avoids(backend)
    }

    #[inline(always)]
    fn considers(&self, descriptor: &Descriptor, scope: Scope, first: u32, count: u32) {
        self.notes.considered(descriptor, scope, first, count);
    }

    #[inline(always)]
    fn remembers(&self, backend: BackendRef) {
        self.notes.remembered(backend);
    }
}

/// A socket that does not exist, bound to the source of the question.
struct AskedSocket<'a> {
    question: &'a Question,
    notes: Notes,
}

impl Socket for AskedSocket<'_> {
    type Access = ReadOnly;

    #[inline(always)]
    fn netns(&self) -> u64 {
        self.question.netns
    }

    #[inline(always)]
    fn source<F: SocketFamily>(&self) -> F::Address {
        F::from_mapped(self.question.source)
    }

    #[inline(always)]
    fn considers(&self, descriptor: &Descriptor, scope: Scope, first: u32, count: u32) {
        self.notes.considered(descriptor, scope, first, count);
    }

    #[inline(always)]
    fn remembers(&self, backend: BackendRef) {
        self.notes.remembered(backend);
    }
}

/// Declares the functions of both families with external linkage, each verified once and on a stack frame of its own.
macro_rules! step {
    ($(#[$about:meta])* $name:ident, $v4:ident, $v6:ident, ($($argument:ident: $type:ty),*), $body:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4($($argument: $type),*) -> u32 {
            $body::<V4>($($argument),*).into()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6($($argument: $type),*) -> u32 {
            $body::<V6>($($argument),*).into()
        }

        $(#[$about])*
        #[inline(always)]
        fn $name<F: Family>($($argument: $type),*) -> bool {
            (if F::IS_V6 { $v6($($argument),*) } else { $v4($($argument),*) }) != 0
        }
    };
}

step!(
    /// Identifies the client. False if the question cannot be read.
    identify, explain_client_v4, explain_client_v6, (), identified
);
step!(
    /// Decides about the packet. True if it gets a backend.
    decide_packet, explain_decision_v4, explain_decision_v6, (), packet_decided
);
step!(
    /// Notes what becomes of the packet to its backend. True if it is routed.
    follow, explain_choice_v4, explain_choice_v6, (), followed
);
step!(
    /// Notes the route of the packet after translation.
    look_up_route, explain_route_v4, explain_route_v6, (skb: *mut __sk_buff), routed
);
step!(
    /// Decides about the socket.
    decide_socket, explain_connect_v4, explain_connect_v6, (), socket_decided
);

/// As `ct::create` for the first packet of a flow.
#[inline(always)]
fn explain_packet<F: Family>(skb: *mut __sk_buff) {
    if identify::<F>() && decide_packet::<F>() && follow::<F>() {
        let _ = look_up_route::<F>(skb);
    }
}

#[inline(always)]
fn identified<F: ScratchSpace + 'static>() -> bool {
    let (Some(Exchange { question, answer }), Some(scratch)) = (exchange(), F::scratch()) else {
        return false;
    };
    begin(answer);
    let source = F::from_mapped(question.source);
    let is_on_node = F::node_address(source).is_some();
    let location = if is_on_node { ClientLocation::OnNode } else { ClientLocation::BehindDevice };
    scratch.client = ClientInfo::new(source, location, question.device);
    scratch.destination = F::from_mapped(question.destination);
    answer.origin = scratch.client.origin() as u8;
    true
}

#[inline(always)]
fn packet_decided<F: ScratchSpace + 'static>() -> bool {
    let (Some(Exchange { question, answer }), Some(scratch)) = (exchange(), F::scratch()) else {
        return false;
    };
    let asked = AskedPacket { client: &scratch.client, notes: Notes(&raw mut *answer) };
    match decide::<F, _>(scratch.destination, question.port, question.protocol, &asked) {
        Decision::Backend(choice) => {
            scratch.choice = choice;
            return true;
        }
        Decision::Refuse(reason, _) => note_refusal(answer, reason),
        Decision::NotOurs => match create::unclaimed::<F>(&scratch.client, scratch.destination) {
            Some(reason) => note_refusal(answer, reason),
            None => answer.verdict = Verdict::NotOurs as u8,
        },
    }
    false
}

#[inline(always)]
fn followed<F: ScratchSpace + 'static>() -> bool {
    let (Some(Exchange { question, answer }), Some(scratch)) = (exchange(), F::scratch()) else {
        return false;
    };
    let (choice, client) = (&scratch.choice, &scratch.client);
    note_choice::<F>(answer, choice);
    if question.protocol == SCTP && choice.backend.port != question.port {
        note_refusal(answer, DropReason::SctpPortDiffers);
        return false;
    }
    let is_masqueraded = create::flags::<F>(choice, client).contains(FlowFlags::MASQUERADE);
    answer.masquerade = match (is_masqueraded, client.is_masqueraded(choice.flags)) {
        (true, true) => Masquerading::Policy,
        (true, false) => Masquerading::Hairpin,
        (false, _) => Masquerading::No,
    } as u8;
    true
}

/// As the connect hook.
#[inline(always)]
fn socket_decided<F: Flows + SocketFamily>() -> bool {
    let Some(Exchange { question, answer }) = exchange() else { return false };
    begin(answer);
    let question = &*question;
    let socket = AskedSocket { question, notes: Notes(&raw mut *answer) };
    let destination = F::from_mapped(question.destination);
    let is_udp = question.protocol == UDP;
    if !(is_udp || question.protocol == TCP) || !is_enabled::<F>(&socket, destination) {
        answer.verdict = Verdict::NotTranslatedHere as u8;
        return false;
    }
    match decide_connect::<F>(&socket, destination, question.port, question.protocol) {
        Decision::NotOurs => answer.verdict = Verdict::NotOurs as u8,
        Decision::Backend(choice) => note_choice::<F>(answer, &choice),
        Decision::Refuse(reason, _) => {
            note_refusal(answer, reason);
            if is_deferred_to_tc(reason, || is_udp) {
                answer.verdict = Verdict::LeftToPackets as u8;
            }
        }
    }
    true
}

/// The route of the packet after translation, and its source after masquerade there.
#[inline(always)]
fn routed<F: Flows + Routes>(skb: *mut __sk_buff) -> bool {
    let Some(Exchange { question, answer }) = exchange() else { return false };
    let source = F::from_mapped(question.source);
    let mut params = F::fib_params(source, F::from_mapped(answer.backend.address));
    params.ifindex = question.device;
    answer.route = fib::lookup(skb.cast(), &mut params) as i32;
    answer.device = params.ifindex;
    answer.next_hop = bytes(F::mapped(F::next_hop(&params)));
    if answer.masquerade != Masquerading::No as u8
        && let Some(address) = F::masquerade_address(answer.device)
    {
        answer.masquerade_source = bytes(F::mapped(address));
    }
    true
}

/// Clears the answer to an earlier question.
#[inline(always)]
fn begin(answer: &mut Answer) {
    const NONE: BackendRef = BackendRef { index: 0, generation: 0 };
    answer.host_netns = config::host_netns();
    answer.config = config::flags().0;
    answer.reference = NONE;
    answer.affinity = NONE;
    answer.first_slot = 0;
    answer.slots = 0;
    answer.attempts = 0;
    answer.route = 0;
    answer.device = 0;
    answer.next_hop = [0; 16];
    answer.masquerade_source = [0; 16];
    answer.verdict = 0;
    answer.reason = 0;
    answer.origin = 0;
    answer.scope = 0;
    answer.masquerade = 0;
    answer.backend_flags = 0;
}

#[inline(always)]
fn note_choice<F: Family>(answer: &mut Answer, choice: &Choice<F::Address>) {
    answer.verdict = Verdict::Backend as u8;
    answer.backend = choice.endpoint::<F>();
    answer.reference = choice.reference;
    answer.backend_flags = choice.backend.flags.0;
}

#[inline(always)]
fn note_refusal(answer: &mut Answer, reason: DropReason) {
    answer.verdict = Verdict::Refused as u8;
    answer.reason = reason as u8;
}

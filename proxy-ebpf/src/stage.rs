//! The stages of a packet's way through a program, each a function of its own to the verifier.
//!
//! A function with external linkage is verified once, by itself, however many ways lead to it; and its stack is only its
//! own. What the stages hand on lies in `WORK_*`, and what they say fits in a register.

use aya_ebpf::{bindings::__sk_buff, btf_maps::PerCpuArray, macros::btf_map, programs::TcContext};
use proxy_ebpf::abi::{DropReason, XdpOutcome};

use crate::{
    begin::{self, Asker},
    decide::Choice,
    dissect::{Dissected, dissect},
    family::{Family, V4, V6},
    follow, fragment, masquerade, nat,
    nat::Ends,
    packet::{self, HEADERS, Packet, Window},
    reject::{self, ClientAt},
    route,
    tc::Place,
};

/// One packet at work. Programs at devices run with softirqs off and do not interrupt each other, so one a CPU will do.
pub struct Work<F: Family> {
    pub packet: Packet<F::Address>,
    /// Its ends as they are to be.
    pub ends: Ends<F::Address>,
    /// Who sent it, and the frontend it means, if any.
    pub asker: Asker<F>,
    pub dialled: F::Address,
    pub destination_port: [u8; 2],
    /// What was decided.
    pub choice: Choice<F::Address>,
}

#[btf_map]
static SCRATCH_V4: PerCpuArray<Work<V4>, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH_V6: PerCpuArray<Work<V6>, 1> = PerCpuArray::new();

#[inline(always)]
pub fn work_v4() -> Option<&'static mut Work<V4>> {
    // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
    SCRATCH_V4.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

#[inline(always)]
pub fn work_v6() -> Option<&'static mut Work<V6>> {
    // SAFETY: as in `work_v4`.
    SCRATCH_V6.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// What a packet is to us.
pub enum Parsed {
    V4,
    V6,
    /// Not TCP, UDP or SCTP over IP, or not whole: for others to judge.
    Other,
}

impl Parsed {
    /// Bits of a family's code; what a stage adds stands above them.
    pub const BITS: u32 = 4;

    #[inline(always)]
    pub fn of(code: u32) -> Self {
        match code & ((1 << Self::BITS) - 1) {
            4 => Self::V4,
            6 => Self::V6,
            _ => Self::Other,
        }
    }

    #[inline(always)]
    pub fn code(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
            Self::Other => 0,
        }
    }
}

/// What a stage says: a kind, and a number that belongs to it. Not an enum: the compiler would keep its parts in registers
/// that are not set on every way, which the verifier refuses to see copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step(pub u64);

impl Step {
    pub const PASS: Self = Self::new(0, 0);
    /// The ends are known.
    pub const TRANSLATE: Self = Self::new(1, 0);
    pub const TRANSLATE_AND_ROUTE: Self = Self::new(2, 0);
    /// The choice is made.
    pub const CHOSEN: Self = Self::new(3, 0);
    /// The ends are known, and the frame is for the router.
    pub const TRANSLATE_AND_TURN: Self = Self::new(8, 0);

    /// The ends are known, and the packet may go past the node's stack.
    pub const TRANSLATE_AND_SEND_ON: Self = Self::new(10, 0);

    const DECIDE: u32 = 4;
    const FLOW: u32 = 5;
    const MASQUERADE: u32 = 6;
    const REFUSE: u32 = 7;
    const XDP_OUTCOMES: u32 = 9;
    /// No flow's slot.
    pub const NOBODY: u32 = u32::MAX;

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        Self((kind as u64) << 32 | value as u64)
    }

    /// There is no flow, or one in that slot which may need another backend.
    #[inline(always)]
    pub const fn decide(known: u32) -> Self {
        Self::new(Self::DECIDE, known)
    }

    /// The flow is in that slot.
    #[inline(always)]
    pub const fn flow(slot: u32) -> Self {
        Self::new(Self::FLOW, slot)
    }

    /// The flow in that slot leaves by this device, and its ends there are not known yet.
    #[inline(always)]
    pub const fn masquerade(slot: u32) -> Self {
        Self::new(Self::MASQUERADE, slot)
    }

    /// Not counted yet. The service port whose it is, where it is known, stands above the reason's eight bits.
    #[inline(always)]
    pub const fn refuse(reason: DropReason, service: Option<u32>) -> Self {
        let service = match service {
            Some(service) => service.wrapping_add(1) << 8,
            None => 0,
        };
        Self::new(Self::REFUSE, service | reason as u32)
    }

    /// Why something is refused, and of which service port.
    #[inline(always)]
    pub const fn refusal(self) -> (DropReason, Option<u32>) {
        (DropReason::of(self.value() as u8), (self.value() >> 8).checked_sub(1))
    }

    /// The early plane is done with the packet.
    #[inline(always)]
    pub const fn early(outcome: XdpOutcome) -> Self {
        Self::new(Self::XDP_OUTCOMES, outcome as u32)
    }

    #[inline(always)]
    const fn kind(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The slot, or the number of an outcome.
    #[inline(always)]
    pub const fn value(self) -> u32 {
        self.0 as u32
    }

    /// Whether the ends are known.
    #[inline(always)]
    pub const fn is_translate(self) -> bool {
        matches!(self.kind(), 1 | 2 | 8 | 10)
    }

    #[inline(always)]
    pub const fn is_decide(self) -> bool {
        self.kind() == Self::DECIDE
    }

    #[inline(always)]
    pub const fn is_flow(self) -> bool {
        self.kind() == Self::FLOW
    }

    #[inline(always)]
    pub const fn is_masquerade(self) -> bool {
        self.kind() == Self::MASQUERADE
    }

    #[inline(always)]
    pub const fn is_early(self) -> bool {
        self.kind() == Self::XDP_OUTCOMES
    }

    #[inline(always)]
    pub const fn is_refuse(self) -> bool {
        self.kind() == Self::REFUSE
    }
}

impl Window for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// Reads the packet's ends into `WORK_*`: whose family it is of, and above that what it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn parse_packet(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    // SAFETY: the kernel's own context.
    let (ethertype, is_tagged) = unsafe { (u16::from_be((*skb).protocol as u16), (*skb).vlan_present != 0) };
    if is_tagged {
        // It is met once more at the VLAN's own device.
        return Parsed::Other.code();
    }
    let readable = (ctx.end() - ctx.start()) as u32;
    if readable < HEADERS && readable < ctx.len() {
        // What cannot be had is not parsed.
        let _ = ctx.pull_data(if ctx.len() < HEADERS { ctx.len() } else { HEADERS });
    }
    let (family, dissected) = match ethertype {
        packet::IPV4 => (Parsed::V4, work_v4().map(|work| dissect::<V4>(&ctx, &mut work.packet))),
        packet::IPV6 => (Parsed::V6, work_v6().map(|work| dissect::<V6>(&ctx, &mut work.packet))),
        _ => (Parsed::Other, None),
    };
    match dissected {
        None | Some(Dissected::Other) => Parsed::Other.code(),
        Some(known) => family.code() | (known as u32) << Parsed::BITS,
    }
}

/// Holds a fragment that came too early; 0 if there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hold(skb: *mut __sk_buff) -> u32 {
    fragment::hold(&TcContext::new(skb)).into()
}

/// Lets fragments come in that waited for this one; 0 if this one was lost over it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn release(skb: *mut __sk_buff) -> u32 {
    fragment::release(&TcContext::new(skb)).into()
}

/// Makes the frame one for the router behind the device it came from.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn turn_to_router(skb: *mut __sk_buff) -> u64 {
    route::turn_to_router(&TcContext::new(skb)).0
}

/// The stages of one family.
macro_rules! stages {
    ($family:ident, $work:ident, $look_up:ident, $ask:ident, $choose:ident, $begin:ident, $carry_on:ident, $masquerade:ident,
     $translate:ident, $redirect:ident, $pass_on:ident, $reject:ident) => {
        /// Finds the flow of a packet.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $look_up(skb: *mut __sk_buff, place: u32) -> u64 {
            $work().map_or(Step::PASS, |work| follow::look_up(&TcContext::new(skb), work, Place(place))).0
        }

        /// Finds out who sends a packet.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $ask(skb: *mut __sk_buff, place: u32) -> u64 {
            if let Some(work) = $work() {
                begin::ask(&TcContext::new(skb), work, Place(place));
            }
            0
        }

        /// Decides about a packet whose sender is known.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $choose() -> u64 {
            $work().map_or(Step::PASS, begin::choose).0
        }

        /// Begins the flow that was decided on, in the place of the one in a slot.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $begin(known: u32) -> u64 {
            $work().map_or(Step::PASS, |work| begin::begin(work, known)).0
        }

        /// Lets a client's packet go on in a flow.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $carry_on(slot: u32, place: u32) -> u64 {
            $work().map_or(Step::PASS, |work| follow::carry_on_in(work, slot, Place(place))).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $masquerade(skb: *mut __sk_buff, slot: u32) -> u64 {
            $work().map_or(Step::PASS, |work| masquerade::masquerade(&TcContext::new(skb), work, slot)).0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $translate(skb: *mut __sk_buff) -> u64 {
            $work()
                .map_or(Step::PASS, |work| {
                    nat::translate::<$family>(&TcContext::new(skb), &work.packet, &work.ends)
                })
                .0
        }

        /// The kernel's code, or a negative one where no route leads to the backend.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $redirect(skb: *mut __sk_buff) -> i32 {
            $work()
                .and_then(|work| route::redirect::<$family>(&TcContext::new(skb), &work.ends))
                .unwrap_or(-1)
        }

        /// The kernel's code, or a negative one where only the node's stack can send it on.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $pass_on(skb: *mut __sk_buff) -> i32 {
            $work()
                .and_then(|work| route::send_on::<$family>(&TcContext::new(skb), &work.packet, &work.ends))
                .unwrap_or(-1)
        }

        /// The kernel's code, or a negative one where no answer can be made.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $reject(skb: *mut __sk_buff, on_node: u32) -> i32 {
            let client = if on_node != 0 { ClientAt::OnNode } else { ClientAt::BehindDevice };
            $work()
                .and_then(|work| reject::reject::<$family>(&TcContext::new(skb), &work.packet, client))
                .unwrap_or(-1)
        }
    };
}

stages!(
    V4,
    work_v4,
    look_up_v4,
    ask_v4,
    choose_v4,
    begin_v4,
    carry_on_v4,
    masquerade_v4,
    translate_v4,
    redirect_v4,
    pass_on_v4,
    reject_v4
);
stages!(
    V6,
    work_v6,
    look_up_v6,
    ask_v6,
    choose_v6,
    begin_v6,
    carry_on_v6,
    masquerade_v6,
    translate_v6,
    redirect_v6,
    pass_on_v6,
    reject_v6
);

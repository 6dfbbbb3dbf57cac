//! The stages of a packet's processing at tc and XDP, each a function of its own for the verifier.
//!
//! A function with external linkage (a global function) is verified once, independently of its callers, and has its own stack frame.
//! Stages exchange data through the scratch map, and return what fits in a register. Each is declared here once, for both families.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use proxy_ebpf::abi::XdpOutcome;

use super::{forward, link_layer, report};
use crate::{
    ct::{Next, ScratchSpace, create, established, snat},
    family::{Family, V4, V6},
    fib::redirect,
    packet::{
        self, ClientLocation, Hook,
        dissect::{Dissect, Dissected, PULL_LENGTH, dissect},
        fragment,
        header::{ETHERNET, Headers as _, PacketData as _, read},
        reject,
    },
};

/// The family of a packet, as a code.
pub enum Parsed {
    V4,
    V6,
    /// Not TCP, UDP or SCTP over IP, or truncated.
    Other,
}

impl Parsed {
    /// Bits of the code. The result of a dissection is above them.
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
    fn code(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
            Self::Other => 0,
        }
    }
}

/// Declares a stage: a global function per family, and a generic function that calls the one of `F`.
macro_rules! stage {
    ($(#[$about:meta])* $name:ident, $v4:ident, $v6:ident, ($($argument:ident: $type:ty),*) -> $out:ty, |$scratch:ident, $family:ident| $body:expr, else $otherwise:expr) => {
        stage!(@function $v4, V4, ($($argument: $type),*) -> $out, |$scratch, $family| $body, else $otherwise);
        stage!(@function $v6, V6, ($($argument: $type),*) -> $out, |$scratch, $family| $body, else $otherwise);

        $(#[$about])*
        #[inline(always)]
        pub fn $name<F: Family>($($argument: $type),*) -> $out {
            if F::IS_V6 { $v6($($argument),*) } else { $v4($($argument),*) }
        }
    };
    (@function $name:ident, $f:ident, ($($argument:ident: $type:ty),*) -> $out:ty, |$scratch:ident, $family:ident| $body:expr, else $otherwise:expr) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name($($argument: $type),*) -> $out {
            type $family = $f;
            $f::scratch().map_or($otherwise, |$scratch| $body)
        }
    };
}

/// Dissects a packet at tc into the scratch map. Returns a `Parsed` code, and a `Dissected` above it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn parse_packet(skb: *mut __sk_buff, hook: u32) -> u32 {
    let ctx = TcContext::new(skb);
    if !link_layer::is_processed(&ctx, Hook(hook)) {
        return Parsed::Other.code();
    }
    // SAFETY: the kernel's own context.
    let ethertype = unsafe { u16::from_be((*skb).protocol as u16) };
    let linear = (ctx.end() - ctx.start()) as u32;
    if linear < PULL_LENGTH && linear < ctx.len() {
        // Headers that cannot be pulled are not parsed.
        let _ = ctx.pull_data(if ctx.len() < PULL_LENGTH { ctx.len() } else { PULL_LENGTH });
    }
    let (family, dissected) = match ethertype {
        V4::ETHERTYPE => (Parsed::V4, dissected::<V4>(&ctx)),
        V6::ETHERTYPE => (Parsed::V6, dissected::<V6>(&ctx)),
        _ => (Parsed::Other, None),
    };
    match dissected {
        None | Some(Dissected::Other) => Parsed::Other.code(),
        Some(dissected) => family.code() | (dissected as u32) << Parsed::BITS,
    }
}

#[inline(always)]
fn dissected<F: ScratchSpace + Dissect + 'static>(ctx: &TcContext) -> Option<Dissected> {
    let network = link_layer::network_header::<F>(ctx)?;
    let packet = &mut F::scratch()?.packet;
    packet.length = ctx.len().wrapping_sub(network as u32);
    Some(dissect::<F>(ctx, network, packet))
}

/// Parses a frame at XDP into the scratch map: untagged, with an Ethernet header. Returns a `Parsed` code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn parse_frame(xdp: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(xdp);
    let ethertype = read::<[u8; 2]>(&ctx, ETHERNET - 2).map(u16::from_be_bytes);
    let length = (ctx.end() - ctx.start()).wrapping_sub(ETHERNET) as u32;
    match ethertype {
        Some(V4::ETHERTYPE) => V4::scratch()
            .is_some_and(|scratch| {
                scratch.packet.length = length;
                packet::parse_v4(&ctx, &mut scratch.packet)
            })
            .then_some(Parsed::V4),
        Some(V6::ETHERTYPE) => V6::scratch()
            .is_some_and(|scratch| {
                scratch.packet.length = length;
                packet::parse_v6(&ctx, &mut scratch.packet)
            })
            .then_some(Parsed::V6),
        Some(_) | None => None,
    }
    .unwrap_or(Parsed::Other)
    .code()
}

/// Queues a fragment that arrived before the first. Returns 0 if there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn queue_fragment(skb: *mut __sk_buff) -> u32 {
    fragment::queue(&TcContext::new(skb)).into()
}

/// Re-injects the fragments that waited for this one. Returns 0 if this one was lost in the process.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn release_fragments(skb: *mut __sk_buff) -> u32 {
    fragment::release(&TcContext::new(skb)).into()
}

/// Addresses a frame to the router. Returns a `Next`: pass or refuse.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn set_router_mac(skb: *mut __sk_buff) -> u64 {
    passed(redirect::set_router_mac(&TcContext::new(skb))).0
}

/// Addresses a frame to the router.
#[inline(always)]
pub fn address_to_router(skb: *mut __sk_buff) -> Next {
    Next(set_router_mac(skb))
}

#[inline(always)]
fn passed(result: Result<(), proxy_ebpf::abi::DropReason>) -> Next {
    match result {
        Ok(()) => Next::PASS,
        Err(reason) => Next::refuse(reason, None),
    }
}

stage!(
    /// Looks up the flow of a packet. Returns a `Next`.
    look_up, look_up_v4, look_up_v6, (skb: *mut __sk_buff, hook: u32) -> u64,
    |scratch, F| established::look_up::<F>(&TcContext::new(skb), scratch, Hook(hook)).0, else Next::PASS.0
);

stage!(
    /// Identifies the client of a packet.
    identify_client, identify_client_v4, identify_client_v6, (skb: *mut __sk_buff, hook: u32) -> u64,
    |scratch, F| {
        create::identify_client::<F>(&TcContext::new(skb), scratch, Hook(hook));
        0
    },
    else 0
);

stage!(
    /// Identifies the client of a frame.
    identify_client_at_xdp, identify_client_at_xdp_v4, identify_client_at_xdp_v6, (device: u32) -> u64,
    |scratch, F| {
        create::identify_client_at_xdp::<F>(scratch, device);
        0
    },
    else 0
);

stage!(
    /// Decides about a packet whose client is known. Returns a `Next`.
    choose, choose_v4, choose_v6, () -> u64, |scratch, F| create::choose::<F>(scratch).0, else Next::PASS.0
);

stage!(
    /// Creates the flow that was decided on, in place of one in a slot. Returns a `Next`.
    create, create_v4, create_v6, (replaced: u32) -> u64,
    |scratch, F| create::create::<F>(scratch, replaced).0, else Next::PASS.0
);

stage!(
    /// The translation of a packet of the original direction by the flow in a slot. Returns a `Next`.
    original, original_v4, original_v6, (slot: u32, hook: u32) -> u64,
    |scratch, F| established::original_in::<F>(scratch, slot, Hook(hook)).0, else Next::PASS.0
);

stage!(
    /// Deletes the flow of a packet in a slot. Returns a `Next`: pass or refuse.
    end_flow, end_flow_v4, end_flow_v6, (slot: u32) -> u64,
    |scratch, F| established::end::<F>(scratch, slot).0, else Next::PASS.0
);

stage!(
    /// The masquerade of a packet by the flow in a slot. Returns a `Next`.
    masquerade, masquerade_v4, masquerade_v6, (skb: *mut __sk_buff, slot: u32) -> u64,
    |scratch, F| snat::snat::<F>(&TcContext::new(skb), scratch, slot).0, else Next::PASS.0
);

stage!(
    /// Reports a flow that was just created, in place of the one in a slot.
    report_flow, report_flow_v4, report_flow_v6, (hook: u32, replaced: u32, device: u32) -> u32,
    |scratch, F| {
        report::flow::<F>(scratch, hook, replaced, device);
        0
    },
    else 0
);

stage!(
    /// Reports the refusal of a packet.
    report_refusal, report_refusal_v4, report_refusal_v6, (what: u32, service: u32, device: u32) -> u32,
    |scratch, F| {
        report::refusal::<F>(scratch, what, service, device);
        0
    },
    else 0
);

stage!(
    /// Applies the translation. Returns a `Next`: pass or refuse.
    translate, translate_v4, translate_v6, (skb: *mut __sk_buff) -> u64,
    |scratch, F| passed(packet::translate::<F>(&TcContext::new(skb), &scratch.packet, &scratch.translation)).0,
    else Next::PASS.0
);

stage!(
    /// Redirects to the backend. Returns the kernel's verdict, negative without a route.
    redirect_to_backend, redirect_to_backend_v4, redirect_to_backend_v6, (skb: *mut __sk_buff) -> i32,
    |scratch, F| redirect::to_backend::<F>(&TcContext::new(skb), &scratch.translation).unwrap_or(-1), else -1
);

stage!(
    /// Forwards past the node's stack. Returns the kernel's verdict, negative if only the stack can forward the packet.
    forward, forward_v4, forward_v6, (skb: *mut __sk_buff) -> i32,
    |scratch, F| {
        redirect::forward::<F>(&TcContext::new(skb), &scratch.packet, &scratch.translation).unwrap_or(-1)
    },
    else -1
);

stage!(
    /// Sends the reject of a packet. Returns the kernel's verdict, negative if none can be sent.
    send_reject, send_reject_v4, send_reject_v6, (skb: *mut __sk_buff, on_node: u32) -> i32,
    |scratch, F| {
        let client = if on_node != 0 { ClientLocation::OnNode } else { ClientLocation::BehindDevice };
        reject::reject::<F>(&TcContext::new(skb), &scratch.packet, client).unwrap_or(-1)
    },
    else -1
);

stage!(
    /// Translates and forwards a frame of a known flow. Returns a `Next`: the outcome, or decide.
    forward_frame, forward_frame_v4, forward_frame_v6, (xdp: *mut xdp_md) -> u64,
    |scratch, F| forward::forward::<F>(&XdpContext::new(xdp), scratch).0,
    else Next::xdp(XdpOutcome::FlowChanging).0
);

//! Events of packets, from the scratch map.

use aya_ebpf::bindings::__sk_buff;
use proxy_ebpf::abi::{Event, EventHook, EventKind};

use crate::{
    ct::{Next, Scratch},
    events::{self, Record, What},
    family::Family,
    packet::Hook,
};

/// The hook of a packet at tc.
#[inline(always)]
pub fn at_tc(hook: Hook) -> EventHook {
    if hook.is_egress() { EventHook::TcEgress } else { EventHook::TcIngress }
}

/// Index of the interface at tc.
#[inline(always)]
pub fn device(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the kernel's own context.
    unsafe { (*skb).ifindex }
}

/// A flow that was just created, in place of one in the slot `replaced`, if any.
#[inline(always)]
pub fn flow<F: Family>(scratch: &Scratch<F>, hook: u32, replaced: u32, device: u32) {
    if !events::has_listener() || scratch.client.is_untranslated != 0 {
        return;
    }
    let kind = if scratch.client.is_resteered != 0 {
        EventKind::Resteered as u32
    } else if replaced != Next::NO_FLOW {
        EventKind::Switched as u32
    } else {
        EventKind::NewFlow as u32
    };
    let reason = if scratch.unanswered.generation != 0 { u32::from(Event::UNANSWERED) } else { 0 };
    events::write(What(kind | hook << 8 | reason << 16), |event| {
        tuple(event, scratch, device);
        let choice = &scratch.choice;
        event.set_service(choice.backend.service);
        event.set_backend(F::mapped(choice.backend.address), choice.backend.port);
        event.set_destination(F::mapped(scratch.destination), scratch.destination_port);
    });
}

/// A refusal. `service` is `Event::NO_SERVICE` where none is known.
#[inline(always)]
pub fn refusal<F: Family>(scratch: &Scratch<F>, what: u32, service: u32, device: u32) {
    if !events::has_listener() {
        return;
    }
    events::write(What(what), |event| {
        tuple(event, scratch, device);
        event.set_service(service);
    });
}

/// The tuple of the packet.
#[inline(always)]
fn tuple<F: Family>(event: &mut Record, scratch: &Scratch<F>, device: u32) {
    let packet = &scratch.packet;
    event.set_source(F::mapped(packet.source), packet.source_port);
    event.set_destination(F::mapped(packet.destination), packet.destination_port);
    event.set_protocol(packet.protocol);
    event.set_interface(device);
}

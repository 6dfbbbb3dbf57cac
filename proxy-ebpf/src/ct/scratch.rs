//! The packet being processed, in a per-CPU map, which stages share.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use proxy_ebpf::abi::BackendRef;

use super::Flows;
use crate::{
    family::{Family, V4, V6},
    lb::{Choice, ClientInfo},
    packet::{Packet, Translation},
};

/// Programs at devices run with softirqs disabled and do not interrupt each other, so one per CPU suffices.
pub struct Scratch<F: Family> {
    pub packet: Packet<F::Address>,
    /// Set by the stages that find or create a flow.
    pub translation: Translation<F::Address>,
    pub client: ClientInfo<F>,
    /// The destination to decide about: the packet's, or for a re-steered socket the frontend it connected to.
    pub destination: F::Address,
    pub destination_port: [u8; 2],
    /// Set by the decision.
    pub choice: Choice<F::Address>,
    /// The tag of the flow that a new one replaces, if any.
    pub judged: u32,
    /// The backend that did not answer the packet's SYN, if it is decided anew for that; else generation 0. And the slot of its flow, or
    /// `NO_FLOW` if the socket was translated to it.
    pub unanswered: BackendRef,
    pub unanswered_slot: u32,
    /// Whether the client's own source port is in use at the backend: not 0 if so.
    pub is_port_taken: u32,
}

#[btf_map]
static SCRATCH_V4: PerCpuArray<Scratch<V4>, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH_V6: PerCpuArray<Scratch<V6>, 1> = PerCpuArray::new();

pub trait ScratchSpace: Flows {
    fn scratch() -> Option<&'static mut Scratch<Self>>;
}

impl ScratchSpace for V4 {
    #[inline(always)]
    fn scratch() -> Option<&'static mut Scratch<V4>> {
        // SAFETY: this CPU's own; every pattern of its plain values is valid, and it lives as long as the program.
        SCRATCH_V4.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }
}

impl ScratchSpace for V6 {
    #[inline(always)]
    fn scratch() -> Option<&'static mut Scratch<V6>> {
        // SAFETY: as for `V4`.
        SCRATCH_V6.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }
}

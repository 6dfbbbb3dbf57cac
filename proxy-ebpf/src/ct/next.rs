//! The result of a stage: the next step for the packet, with one number.

use proxy_ebpf::abi::{DropReason, XdpOutcome};

/// A kind, and a number whose meaning depends on it. Not an enum: the compiler would keep its parts in registers that are not
/// initialised on each path, and the verifier refuses to copy those.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Next(pub u64);

impl Next {
    /// Pass the packet on, unchanged.
    pub const PASS: Self = Self::new(0, 0);
    /// Translate; the translation is in the scratch map.
    pub const TRANSLATE: Self = Self::new(1, 0);
    /// Translate, then redirect by the route to the backend.
    pub const TRANSLATE_AND_REDIRECT: Self = Self::new(2, 0);
    /// Create the flow; the choice is in the scratch map.
    pub const CREATE: Self = Self::new(3, 0);
    /// Translate, then address the frame to the router.
    pub const TRANSLATE_TO_ROUTER: Self = Self::new(8, 0);
    /// Translate, then forward past the node's stack.
    pub const TRANSLATE_AND_FORWARD: Self = Self::new(10, 0);

    const DECIDE: u32 = 4;
    const FLOW: u32 = 5;
    const SNAT: u32 = 6;
    const REFUSE: u32 = 7;
    const XDP: u32 = 9;
    /// The value instead of a slot where no flow exists.
    pub const NO_FLOW: u32 = u32::MAX;

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        Self((kind as u64) << 32 | value as u64)
    }

    /// Decide. `slot` is a flow that may need another backend, or `NO_FLOW`.
    #[inline(always)]
    pub const fn decide(slot: u32) -> Self {
        Self::new(Self::DECIDE, slot)
    }

    /// Translate by the flow in a slot.
    #[inline(always)]
    pub const fn flow(slot: u32) -> Self {
        Self::new(Self::FLOW, slot)
    }

    /// Masquerade by the flow in a slot.
    #[inline(always)]
    pub const fn snat(slot: u32) -> Self {
        Self::new(Self::SNAT, slot)
    }

    /// Refuse. Not counted yet. The service port, if known, is above the eight bits of the reason.
    #[inline(always)]
    pub const fn refuse(reason: DropReason, service: Option<u32>) -> Self {
        let service = match service {
            Some(service) => service.wrapping_add(1) << 8,
            None => 0,
        };
        Self::new(Self::REFUSE, service | reason as u32)
    }

    /// The flow was deleted while the packet was being processed.
    #[inline(always)]
    pub const fn flow_ending() -> Self {
        Self::refuse(DropReason::FlowEnding, None)
    }

    /// Reason and service port of a refusal.
    #[inline(always)]
    pub const fn refusal(self) -> (DropReason, Option<u32>) {
        (DropReason::of(self.value() as u8), (self.value() >> 8).checked_sub(1))
    }

    /// XDP is finished with the frame.
    #[inline(always)]
    pub const fn xdp(outcome: XdpOutcome) -> Self {
        Self::new(Self::XDP, outcome as u32)
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
    pub const fn is_snat(self) -> bool {
        self.kind() == Self::SNAT
    }

    #[inline(always)]
    pub const fn is_xdp(self) -> bool {
        self.kind() == Self::XDP
    }

    #[inline(always)]
    pub const fn is_refuse(self) -> bool {
        self.kind() == Self::REFUSE
    }
}

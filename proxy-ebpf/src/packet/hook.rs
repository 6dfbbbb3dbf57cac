//! The tc hook at which a packet is seen, and the location of its sender.

use proxy_ebpf::abi::{DeviceRole, Direction};

/// A tc hook: role of the device, and direction. A number, as it is an argument of stages.
#[derive(Clone, Copy)]
pub struct Hook(pub u32);

/// Where the sender of a packet in the original direction is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ClientLocation {
    /// Behind the ingress device.
    BehindDevice,
    /// In the host netns; the packet is seen at egress.
    OnNode,
}

impl Hook {
    const POD: u32 = 1;
    const EGRESS: u32 = 2;

    #[inline(always)]
    pub const fn new(role: DeviceRole, direction: Direction) -> Self {
        let role = if matches!(role, DeviceRole::Pod) { Self::POD } else { 0 };
        let direction = if matches!(direction, Direction::Egress) { Self::EGRESS } else { 0 };
        Self(role | direction)
    }

    #[inline(always)]
    pub fn is_pod(self) -> bool {
        self.0 & Self::POD != 0
    }

    #[inline(always)]
    pub fn is_egress(self) -> bool {
        self.0 & Self::EGRESS != 0
    }

    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.is_egress() { Direction::Egress } else { Direction::Ingress }
    }

    /// The location of a client whose packets create a flow at this hook.
    #[inline(always)]
    pub fn client(self) -> ClientLocation {
        if self.is_egress() { ClientLocation::OnNode } else { ClientLocation::BehindDevice }
    }
}

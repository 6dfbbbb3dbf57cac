//! Why something was refused. Each reason is a counter in `DROPS`, a metric label and a word people read.

/// The number is the index into `DROPS`, so it never changes its meaning within an ABI version.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No endpoint of the service port can serve anywhere (spec of kube-proxy: REJECT).
    NoEndpoint = 0,
    /// Endpoints exist, but the traffic policy forbids them from here (DROP).
    PolicyHasNoLocalEndpoint = 1,
    /// loadBalancerSourceRanges apply and no source address is known yet.
    NeedsSourceAddress = 2,
    /// The frontend changed hands more often than the bounded number of look-ups.
    FrontendUnsettled = 3,
    /// Every slot that was tried held a backend that had just gone.
    BackendUnsettled = 4,
    /// loadBalancerSourceRanges do not list the client (DROP).
    SourceNotInRanges = 5,
    /// A ClusterIP whose Service has no such port (REJECT).
    UndefinedPort = 6,
    /// In a ServiceCIDR, but no Service's (DROP).
    UnallocatedAddress = 7,
    /// Every record of a flow that was looked at belongs to one that is in use.
    ConntrackFull = 8,
    /// The kernel has no memory for the entries of a flow.
    ConntrackNoMemory = 9,
    /// Every port that was tried is in use between the masquerade address and the backend.
    NoMasqueradePort = 10,
    /// The device a masqueraded flow leaves by has no address to stand for the client.
    NoMasqueradeAddress = 11,
    /// Met in the instant in which the record of its flow was given to another.
    FlowEnding = 12,
    /// The kernel refused to rewrite the packet.
    RewriteFailed = 13,
    /// No route leads a client on the node to its backend by packets.
    NoRouteToBackend = 14,
    /// An SCTP packet would need another port, which its checksum does not allow to change in passing.
    SctpPortDiffers = 15,
    /// A fragment came before the first of its datagram, and there was no room to hold it: passed on as it was. Or it
    /// was held, and the first did not come.
    FragmentNotHeld = 16,
}

impl DropReason {
    pub const ALL: [Self; 17] = [
        Self::NoEndpoint,
        Self::PolicyHasNoLocalEndpoint,
        Self::NeedsSourceAddress,
        Self::FrontendUnsettled,
        Self::BackendUnsettled,
        Self::SourceNotInRanges,
        Self::UndefinedPort,
        Self::UnallocatedAddress,
        Self::ConntrackFull,
        Self::ConntrackNoMemory,
        Self::NoMasqueradePort,
        Self::NoMasqueradeAddress,
        Self::FlowEnding,
        Self::RewriteFailed,
        Self::NoRouteToBackend,
        Self::SctpPortDiffers,
        Self::FragmentNotHeld,
    ];

    /// The reason of a number; any other number is a `FlowEnding`, which says the least.
    pub const fn of(number: u8) -> Self {
        let (mut at, mut found) = (0, Self::FlowEnding);
        while at < Self::ALL.len() {
            if Self::ALL[at] as u8 == number {
                found = Self::ALL[at];
            }
            at += 1;
        }
        found
    }

    /// Whether the client learns of it at once; otherwise it hears nothing.
    pub const fn is_told(self) -> bool {
        matches!(self, Self::NoEndpoint | Self::UndefinedPort | Self::SctpPortDiffers)
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::PolicyHasNoLocalEndpoint => "policy_has_no_local_endpoint",
            Self::NeedsSourceAddress => "needs_source_address",
            Self::FrontendUnsettled => "frontend_unsettled",
            Self::BackendUnsettled => "backend_unsettled",
            Self::SourceNotInRanges => "source_not_in_ranges",
            Self::UndefinedPort => "undefined_port",
            Self::UnallocatedAddress => "unallocated_address",
            Self::ConntrackFull => "conntrack_full",
            Self::ConntrackNoMemory => "conntrack_no_memory",
            Self::NoMasqueradePort => "no_masquerade_port",
            Self::NoMasqueradeAddress => "no_masquerade_address",
            Self::FlowEnding => "flow_ending",
            Self::RewriteFailed => "rewrite_failed",
            Self::NoRouteToBackend => "no_route_to_backend",
            Self::SctpPortDiffers => "sctp_port_differs",
            Self::FragmentNotHeld => "fragment_not_held",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn every_reason_stands_at_its_own_number() {
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{}", reason.name());
        }
    }
}

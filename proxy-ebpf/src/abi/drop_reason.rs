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
}

impl DropReason {
    pub const ALL: [Self; 5] = [
        Self::NoEndpoint,
        Self::PolicyHasNoLocalEndpoint,
        Self::NeedsSourceAddress,
        Self::FrontendUnsettled,
        Self::BackendUnsettled,
    ];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::PolicyHasNoLocalEndpoint => "policy_has_no_local_endpoint",
            Self::NeedsSourceAddress => "needs_source_address",
            Self::FrontendUnsettled => "frontend_unsettled",
            Self::BackendUnsettled => "backend_unsettled",
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

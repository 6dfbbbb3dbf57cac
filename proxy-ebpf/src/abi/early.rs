//! What the early plane made of a packet. Each outcome is a counter in `EARLY`, a metric label and a word people read.

/// The number is the index into `EARLY`, so it never changes its meaning within an ABI version.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyOutcome {
    /// Left for its backend by the device it came in by.
    SentToBackend = 0,
    /// Left for its client by the device it came in by.
    SentToClient = 1,
    /// Left for its backend by another device.
    RedirectedToBackend = 2,
    /// Left for its client by another device.
    RedirectedToClient = 3,
    /// Left to the packet plane, as are all that follow: no Service's, or nothing that could be translated.
    NotOurs = 4,
    /// One of its ends is on this node, or claims to be.
    OnNode = 5,
    /// To be refused, which the packet plane tells and counts.
    Refused = 6,
    /// Met in the instant in which its flow changed.
    Unsettled = 7,
    /// Nothing but the node's stack may forward it: options, its last hop, a wrong checksum, not in one piece.
    Unfit = 8,
    /// Whoever it is for, it is not this node.
    NotForNode = 9,
    /// No route leads to its other end, or one that is no unicast.
    NoRoute = 10,
    /// The neighbour on the way is not known yet.
    NoNeighbour = 11,
    /// Larger than the way allows for.
    TooLarge = 12,
    /// The way leads out by a device that takes no frames from programs.
    OtherDevice = 13,
    /// No address or port was found that could stand for the client.
    NotMasqueraded = 14,
}

impl EarlyOutcome {
    pub const ALL: [Self; 15] = [
        Self::SentToBackend,
        Self::SentToClient,
        Self::RedirectedToBackend,
        Self::RedirectedToClient,
        Self::NotOurs,
        Self::OnNode,
        Self::Refused,
        Self::Unsettled,
        Self::Unfit,
        Self::NotForNode,
        Self::NoRoute,
        Self::NoNeighbour,
        Self::TooLarge,
        Self::OtherDevice,
        Self::NotMasqueraded,
    ];

    /// The outcome of a number; any other number is `NotOurs`.
    pub const fn of(number: u32) -> Self {
        let (mut at, mut found) = (0, Self::NotOurs);
        while at < Self::ALL.len() {
            if Self::ALL[at] as u32 == number {
                found = Self::ALL[at];
            }
            at += 1;
        }
        found
    }

    /// Whether the packet left the node before the packet plane saw it.
    pub const fn has_left(self) -> bool {
        matches!(
            self,
            Self::SentToBackend | Self::SentToClient | Self::RedirectedToBackend | Self::RedirectedToClient
        )
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SentToBackend => "sent_to_backend",
            Self::SentToClient => "sent_to_client",
            Self::RedirectedToBackend => "redirected_to_backend",
            Self::RedirectedToClient => "redirected_to_client",
            Self::NotOurs => "passed_not_ours",
            Self::OnNode => "passed_on_node",
            Self::Refused => "passed_refused",
            Self::Unsettled => "passed_unsettled",
            Self::Unfit => "passed_unfit",
            Self::NotForNode => "passed_not_for_node",
            Self::NoRoute => "passed_no_route",
            Self::NoNeighbour => "passed_no_neighbour",
            Self::TooLarge => "passed_too_large",
            Self::OtherDevice => "passed_other_device",
            Self::NotMasqueraded => "passed_not_masqueraded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EarlyOutcome;

    #[test]
    fn every_outcome_stands_at_its_own_number() {
        for (at, outcome) in EarlyOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at, "{}", outcome.name());
            assert_eq!(EarlyOutcome::of(outcome as u32), outcome);
            assert_eq!(outcome.has_left(), !outcome.name().starts_with("passed_"), "{}", outcome.name());
        }
        assert_eq!(EarlyOutcome::of(1000), EarlyOutcome::NotOurs);
    }
}

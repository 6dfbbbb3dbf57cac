//! State, last use and tag of a flow in one word, so that deletion and refresh contend for one compare-and-swap.
//!
//! ```text
//!        allocate                confirm, packets           delete                entries deleted
//!  free ---------> ALIVE (unconfirmed) ---> ALIVE (in use) ------> ALIVE | DYING ----------------> free, or the next flow
//! ```

use super::map_type;

/// A clock tick is 2^28 nanoseconds, about 0.27 seconds: fine enough for timeouts, coarse enough that an established
/// flow is written at most a few times a second. 32 bits of them last for 36 years of uptime.
pub const TICK_SHIFT: u32 = 28;

/// Ticks of the monotonic clock in this many seconds, rounded up.
pub const fn ticks(seconds: u32) -> u32 {
    let ticks = (seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT);
    // Half of the clock's range: more could not be told from the past.
    if ticks > i32::MAX as u64 { i32::MAX as u32 } else { ticks as u32 }
}

/// Ticks after its last packet during which a flow is never evicted, even from a full table.
pub const SAFE_TICKS: u32 = ticks(10);

/// The same for an assured flow: a flood of flows whose clients do not complete a handshake evicts none of these.
pub const ASSURED_SAFE_TICKS: u32 = ticks(3_600);

/// `last seen (32 bits) | state bits (8) | tag (24)`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowState(pub u64);
map_type!(FlowState, 8);

/// State bits that a packet sets and clears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitChange {
    pub set: u8,
    pub clear: u8,
}

/// The direction of a packet within its flow, as in nf_conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowDirection {
    /// From the client to the backend.
    Original,
    /// From the backend to the client.
    Reply,
}

/// TCP's flags as the header has them (RFC 9293, 3.1).
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
    /// These four: a segment of a known connection has one of them.
    pub const FOLLOWED: u8 = FIN | SYN | RST | ACK;
    /// Instead of flags: the segment's numbers are not the connection's.
    pub const ELSEWHERE: u8 = 0x80;
}

/// Idle timeouts by state, in ticks. The names and, unless configured, the values are those of
/// `nf_conntrack`, but for the two that kube-proxy sets (established and close-wait).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn_sent: u32,
    /// A reply was seen, and nothing of the client after it.
    pub tcp_syn_recv: u32,
    pub tcp_established: u32,
    /// One side has sent FIN.
    pub tcp_close_wait: u32,
    /// Both have sent FIN, or one RST.
    pub tcp_time_wait: u32,
    /// Reset before the connection was established.
    pub tcp_close: u32,
    pub udp: u32,
    /// UDP that is assured.
    pub udp_stream: u32,
    pub sctp: u32,
}
map_type!(Timeouts, 9 * 4);

impl Timeouts {
    pub const DEFAULT: Self = Self {
        tcp_syn_sent: ticks(120),
        tcp_syn_recv: ticks(60),
        tcp_established: ticks(86_400),
        tcp_close_wait: ticks(3_600),
        tcp_time_wait: ticks(120),
        tcp_close: ticks(10),
        udp: ticks(30),
        udp_stream: ticks(120),
        sctp: ticks(210),
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FlowState {
    pub const TAG_MASK: u32 = 0xff_ffff;

    const BITS_SHIFT: u32 = 24;
    const LAST_SEEN_SHIFT: u32 = 32;
    /// The record belongs to a flow.
    pub const ALIVE: u8 = 0x01;
    /// Its conntrack entries are being deleted: the record can be neither used nor allocated.
    pub const DYING: u8 = 0x02;
    /// A reply was seen (IPS_SEEN_REPLY).
    pub const SEEN_REPLY: u8 = 0x04;
    /// FIN in the original direction.
    pub const ORIGINAL_FIN: u8 = 0x08;
    /// FIN in the reply direction.
    pub const REPLY_FIN: u8 = 0x10;
    /// RST in either direction.
    pub const RESET: u8 = 0x20;
    /// No packet of the original direction has followed a reply: the inverse of IPS_ASSURED. A client that forges its source address
    /// never sees the reply, so such flows have short timeouts and are evicted first. Inverse, so that flows of releases without
    /// the bit count as assured.
    pub const UNASSURED: u8 = 0x40;
    /// Nothing contradicts yet that the connection is another's by now. Assured: the client has sent a SYN; the backend's challenge
    /// ACK contradicts (RFC 5961, 4). Not answered: the backend has sent what answers no SYN, so it has a direct connection from the
    /// same client's port.
    pub const IN_DOUBT: u8 = 0x80;

    #[inline(always)]
    pub const fn new(tag: u32, bits: u8, last_seen: u32) -> Self {
        Self(
            (last_seen as u64) << Self::LAST_SEEN_SHIFT
                | (bits as u64) << Self::BITS_SHIFT
                | (tag & Self::TAG_MASK) as u64,
        )
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        self.0 as u32 & Self::TAG_MASK
    }

    #[inline(always)]
    pub const fn bits(self) -> u8 {
        (self.0 >> Self::BITS_SHIFT) as u8
    }

    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        (self.0 >> Self::LAST_SEEN_SHIFT) as u32
    }

    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.bits() & bits != 0
    }

    /// Whether the record belongs to a flow that packets may use.
    #[inline(always)]
    pub const fn is_alive(self) -> bool {
        self.bits() & (Self::ALIVE | Self::DYING) == Self::ALIVE
    }

    /// The state of the record's next flow. The tag differs, so entries of the previous flow do not match it.
    #[inline(always)]
    pub const fn successor(self, now: u32) -> Self {
        Self::new(self.tag().wrapping_add(1), Self::ALIVE | Self::UNASSURED, now)
    }

    /// The state while the entries of the flow are being deleted.
    #[inline(always)]
    pub const fn dying(self) -> Self {
        Self::new(self.tag(), self.bits() | Self::DYING, self.last_seen())
    }

    /// The state of an unused record.
    #[inline(always)]
    pub const fn free(self) -> Self {
        Self::new(self.tag(), 0, 0)
    }

    /// Ticks since the last packet. The clock of another CPU may be a tick ahead.
    #[inline(always)]
    pub const fn idle(self, now: u32) -> u32 {
        let idle = now.wrapping_sub(self.last_seen());
        if idle > i32::MAX as u32 { 0 } else { idle }
    }

    /// The state after a packet. `flags` are TCP's as far as they are believed (`Segment::believed`), 0 for other protocols.
    #[inline(always)]
    pub const fn after(self, direction: FlowDirection, flags: u8, now: u32) -> Self {
        self.with(self.change(direction, flags), now)
    }

    /// The state with some bits changed, and used now.
    #[inline(always)]
    pub const fn with(self, change: BitChange, now: u32) -> Self {
        Self::new(self.tag(), self.bits() & !change.clear | change.set, now)
    }

    /// What a packet changes.
    #[inline(always)]
    pub const fn change(self, direction: FlowDirection, flags: u8) -> BitChange {
        let is_reply = matches!(direction, FlowDirection::Reply);
        let answered = if is_reply { Self::SEEN_REPLY } else { 0 };
        if flags & tcp::ELSEWHERE != 0 {
            BitChange { set: 0, clear: 0 }
        } else if flags & tcp::RST != 0 {
            BitChange { set: answered | Self::RESET, clear: 0 }
        } else if flags & tcp::SYN != 0 {
            // A SYN of an established connection puts it in doubt; a SYN-ACK then says that it is a new one, at the same backend.
            let doubt = if !is_reply && self.is_assured() { Self::IN_DOUBT } else { 0 };
            let over = Self::IN_DOUBT | Self::RESET | Self::ORIGINAL_FIN | Self::REPLY_FIN;
            let clear = if is_reply && self.has(Self::IN_DOUBT) { over } else { 0 };
            BitChange { set: answered | doubt, clear }
        } else {
            // An end that goes on has not reset the connection, nor begun another.
            let fin = if is_reply { Self::REPLY_FIN } else { Self::ORIGINAL_FIN };
            let fin = if flags & tcp::FIN != 0 { fin } else { 0 };
            let assured = if !is_reply && self.has(Self::SEEN_REPLY) { Self::UNASSURED } else { 0 };
            BitChange { set: answered | fin, clear: Self::RESET | Self::IN_DOUBT | assured }
        }
    }

    /// The state of a flow that is in doubt.
    #[inline(always)]
    pub const fn doubted(self) -> Self {
        Self::new(self.tag(), self.bits() | Self::IN_DOUBT, self.last_seen())
    }

    /// Whether both ends have sent FIN.
    #[inline(always)]
    pub const fn is_finished(self) -> bool {
        let both = Self::ORIGINAL_FIN | Self::REPLY_FIN;
        self.bits() & both == both
    }

    /// Whether the TCP connection is over.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.has(Self::RESET) || self.is_finished()
    }

    /// Whether a SYN with the same 5-tuple starts anew: with another flow, and perhaps another backend. A connection that may be
    /// established is spared: someone else's SYN would end it. So the SYN goes to its backend, which accepts it or contradicts; if
    /// that was removed (`is_backend_lost`) and did not contradict, the next SYN starts anew.
    #[inline(always)]
    pub const fn starts_anew(self, is_backend_lost: bool) -> bool {
        let is_in_doubt = self.has(Self::IN_DOUBT);
        if !self.has(Self::SEEN_REPLY) {
            self.is_closed() || is_backend_lost || is_in_doubt
        } else if !self.is_assured() {
            self.is_closed() || is_backend_lost
        } else {
            self.is_finished() || (is_backend_lost && (is_in_doubt || self.has(Self::RESET)))
        }
    }

    /// Whether a packet of the original direction has followed a reply (IPS_ASSURED).
    #[inline(always)]
    pub const fn is_assured(self) -> bool {
        self.has(Self::SEEN_REPLY) && !self.has(Self::UNASSURED)
    }

    /// The idle timeout of this flow, in ticks.
    #[inline(always)]
    pub const fn timeout(self, protocol: u8, timeouts: &Timeouts) -> u32 {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let is_assured = self.is_assured();
        match protocol {
            TCP if self.has(Self::RESET) && !is_assured => timeouts.tcp_close,
            TCP if self.is_closed() => timeouts.tcp_time_wait,
            TCP if self.has(Self::ORIGINAL_FIN | Self::REPLY_FIN) => timeouts.tcp_close_wait,
            TCP if is_assured => timeouts.tcp_established,
            TCP if self.has(Self::SEEN_REPLY) => timeouts.tcp_syn_recv,
            TCP => timeouts.tcp_syn_sent,
            UDP if is_assured => timeouts.udp_stream,
            UDP => timeouts.udp,
            _ => timeouts.sctp,
        }
    }

    #[inline(always)]
    pub const fn is_expired(self, protocol: u8, timeouts: &Timeouts, now: u32) -> bool {
        self.idle(now) > self.timeout(protocol, timeouts)
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowDirection, FlowState, Timeouts, tcp, ticks};

    const NOW: u32 = 1_000_000;

    #[test]
    fn the_parts_of_a_state_are_separate() {
        let state = FlowState::new(0x1ff_ffff, 0xff, u32::MAX);
        assert_eq!((state.tag(), state.bits(), state.last_seen()), (0xff_ffff, 0xff, u32::MAX));
        let state = FlowState::new(0xff_ffff, FlowState::ALIVE, 5).successor(NOW);
        assert_eq!(
            (state.tag(), state.bits(), state.last_seen()),
            (0, FlowState::ALIVE | FlowState::UNASSURED, NOW),
            "tags wrap around"
        );
        assert!(!state.dying().is_alive() && !state.free().is_alive() && state.is_alive());
    }

    #[test]
    fn idle_time_counts_from_the_last_packet_and_is_never_negative() {
        let state = FlowState::new(1, FlowState::ALIVE, NOW);
        assert_eq!(state.idle(NOW + 7), 7);
        assert_eq!(state.idle(NOW - 1), 0, "another CPU's clock");
        assert_eq!(FlowState::new(1, FlowState::ALIVE, u32::MAX).idle(3), 4, "the clock wraps around");
    }

    #[test]
    fn timeouts_follow_the_state() {
        let timeouts = Timeouts::DEFAULT;
        let original = FlowDirection::Original;
        let reply = FlowDirection::Reply;
        const HANDSHAKE: [(FlowDirection, u8); 3] = [
            (FlowDirection::Original, tcp::SYN),
            (FlowDirection::Reply, tcp::SYN | tcp::ACK),
            (FlowDirection::Original, tcp::ACK),
        ];
        for (name, protocol, packets, want) in [
            ("a SYN", 6, &[(original, tcp::SYN)][..], ticks(120)),
            ("a SYN-ACK", 6, &[(original, tcp::SYN), (reply, tcp::SYN | tcp::ACK)], ticks(60)),
            (
                "the SYN again",
                6,
                &[(original, tcp::SYN), (reply, tcp::SYN | tcp::ACK), (original, tcp::SYN)],
                ticks(60),
            ),
            ("a handshake", 6, &HANDSHAKE, ticks(86_400)),
            ("half closed", 6, &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (reply, tcp::FIN)], ticks(3_600)),
            ("closed", 6, &[(original, tcp::SYN), (reply, tcp::FIN), (original, tcp::FIN)], ticks(120)),
            ("refused", 6, &[(original, tcp::SYN), (reply, tcp::RST)], ticks(10)),
            ("reset", 6, &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (reply, tcp::RST)], ticks(120)),
            (
                "reset by nobody",
                6,
                &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (reply, tcp::RST), (reply, tcp::ACK)],
                ticks(86_400),
            ),
            (
                "reset from elsewhere",
                6,
                &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], (reply, tcp::ELSEWHERE)],
                ticks(86_400),
            ),
            ("a client that aborts", 6, &[HANDSHAKE[0], HANDSHAKE[1], (original, tcp::RST)], ticks(10)),
            (
                "a new connection at the same backend",
                6,
                &[
                    HANDSHAKE[0],
                    HANDSHAKE[1],
                    HANDSHAKE[2],
                    (original, tcp::FIN | tcp::ACK),
                    (original, tcp::SYN),
                    (reply, tcp::SYN | tcp::ACK),
                ],
                ticks(86_400),
            ),
            ("a datagram", 17, &[(original, 0)], ticks(30)),
            ("a query and its answer", 17, &[(original, 0), (reply, 0)], ticks(30)),
            ("an exchange", 17, &[(original, 0), (reply, 0), (original, 0)], ticks(120)),
        ] {
            let created = FlowState::default().successor(NOW);
            let state = packets
                .iter()
                .fold(created, |state, (direction, flags)| state.after(*direction, *flags, NOW));
            assert_eq!(state.timeout(protocol, &timeouts), want, "{name}");
            assert!(!state.is_expired(protocol, &timeouts, NOW + want), "{name}");
            assert!(state.is_expired(protocol, &timeouts, NOW + want + 1), "{name}");
        }
    }

    #[test]
    fn a_syn_spares_what_may_be_established() {
        const ALIVE: u8 = FlowState::ALIVE;
        const HALF: u8 = ALIVE | FlowState::SEEN_REPLY | FlowState::UNASSURED;
        const ASSURED: u8 = ALIVE | FlowState::SEEN_REPLY;
        const FINISHED: u8 = FlowState::ORIGINAL_FIN | FlowState::REPLY_FIN;
        for (name, bits, with_backend, without) in [
            ("not answered", ALIVE | FlowState::UNASSURED, false, true),
            ("answered, but not to the SYN", ALIVE | FlowState::UNASSURED | FlowState::IN_DOUBT, true, true),
            ("refused", HALF | FlowState::RESET, true, true),
            ("half open", HALF, false, true),
            ("established", ASSURED, false, false),
            ("half closed", ASSURED | FlowState::REPLY_FIN, false, false),
            ("in doubt", ASSURED | FlowState::IN_DOUBT, false, true),
            ("reset", ASSURED | FlowState::RESET, false, true),
            ("finished", ASSURED | FINISHED, true, true),
        ] {
            let state = FlowState::new(1, bits, NOW);
            assert_eq!(
                (state.starts_anew(false), state.starts_anew(true)),
                (with_backend, without),
                "{name}"
            );
        }
    }

    #[test]
    fn doubt_ends_with_the_next_segment_of_either_end() {
        let assured = FlowState::new(1, FlowState::ALIVE | FlowState::SEEN_REPLY, NOW);
        let doubted = assured.after(FlowDirection::Original, tcp::SYN, NOW);
        assert!(doubted.has(FlowState::IN_DOUBT) && doubted.is_assured());
        for direction in [FlowDirection::Original, FlowDirection::Reply] {
            assert_eq!(doubted.after(direction, tcp::ACK, NOW), assured, "{direction:?}");
            assert_eq!(doubted.after(direction, tcp::ELSEWHERE, NOW), doubted, "{direction:?}");
        }
    }

    #[test]
    fn flows_of_releases_without_the_bit_are_assured() {
        let bits = FlowState::ALIVE | FlowState::SEEN_REPLY;
        assert!(FlowState::new(1, bits, NOW).is_assured());
        assert!(!FlowState::new(1, bits | FlowState::UNASSURED, NOW).is_assured());
    }

    #[test]
    fn seconds_become_ticks_rounded_up() {
        for (seconds, want) in [(0, 0), (1, 4), (10, 38), (u32::MAX, i32::MAX as u32)] {
            assert_eq!(ticks(seconds), want, "{seconds}");
        }
    }
}

//! How far a flow has come and when it was last heard of, in one word, so that whoever ends it and whoever revives it
//! contend for one compare-and-swap.

use super::map_type;

/// A clock tick is 2^28 nanoseconds, about 0.27 seconds: fine enough for timeouts, coarse enough that an established
/// flow is written to a few times a second at most. 32 bits of them last for 36 years of uptime.
pub const TICK_SHIFT: u32 = 28;

/// Ticks of the monotonic clock in this many seconds, rounded up.
pub const fn ticks(seconds: u32) -> u32 {
    let ticks = (seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT);
    // Half of the clock's range: more could not be told from the past.
    if ticks > i32::MAX as u64 { i32::MAX as u32 } else { ticks as u32 }
}

/// Ticks that a flow is safe for after it was last heard of, whatever the table lacks.
pub const SAFE_TICKS: u32 = ticks(10);

/// `last heard of (32 bits) | state (8) | tag (24)`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(pub u64);
map_type!(Life, 8);

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToBackend,
    ToClient,
}

/// TCP's flags as the header has them (RFC 9293, 3.1).
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// For how long a flow in a state may be silent, in ticks. The names and, unless configured, the values are those of
/// `nf_conntrack`, but for the two that kube-proxy sets (established and close-wait).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn_sent: u32,
    pub tcp_established: u32,
    /// One side has finished.
    pub tcp_close_wait: u32,
    /// Both have.
    pub tcp_time_wait: u32,
    /// Reset.
    pub tcp_close: u32,
    pub udp: u32,
    /// UDP that was answered.
    pub udp_stream: u32,
    pub sctp: u32,
}
map_type!(Timeouts, 8 * 4);

impl Timeouts {
    pub const DEFAULT: Self = Self {
        tcp_syn_sent: ticks(120),
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

impl Life {
    pub const TAG_MASK: u32 = 0xff_ffff;

    const STATE_SHIFT: u32 = 24;
    const SEEN_SHIFT: u32 = 32;
    /// Some flow has this record.
    pub const ALIVE: u8 = 0x01;
    /// Its entries are being deleted: nobody may use it or take it.
    pub const DYING: u8 = 0x02;
    /// The backend has answered.
    pub const ANSWERED: u8 = 0x04;
    pub const CLIENT_FINISHED: u8 = 0x08;
    pub const BACKEND_FINISHED: u8 = 0x10;
    pub const RESET: u8 = 0x20;

    #[inline(always)]
    pub const fn new(tag: u32, state: u8, seen: u32) -> Self {
        Self(
            (seen as u64) << Self::SEEN_SHIFT
                | (state as u64) << Self::STATE_SHIFT
                | (tag & Self::TAG_MASK) as u64,
        )
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        self.0 as u32 & Self::TAG_MASK
    }

    #[inline(always)]
    pub const fn state(self) -> u8 {
        (self.0 >> Self::STATE_SHIFT) as u8
    }

    #[inline(always)]
    pub const fn seen(self) -> u32 {
        (self.0 >> Self::SEEN_SHIFT) as u32
    }

    #[inline(always)]
    pub const fn has(self, state: u8) -> bool {
        self.state() & state != 0
    }

    /// Whether a flow has this record and packets may use it.
    #[inline(always)]
    pub const fn is_alive(self) -> bool {
        self.state() & (Self::ALIVE | Self::DYING) == Self::ALIVE
    }

    /// The next flow's life in the same record: no reference to an earlier one leads to it.
    #[inline(always)]
    pub const fn successor(self, now: u32) -> Self {
        Self::new(self.tag().wrapping_add(1), Self::ALIVE, now)
    }

    /// The same flow while its entries are deleted.
    #[inline(always)]
    pub const fn dying(self) -> Self {
        Self::new(self.tag(), self.state() | Self::DYING, self.seen())
    }

    /// Nobody's record.
    #[inline(always)]
    pub const fn free(self) -> Self {
        Self::new(self.tag(), 0, 0)
    }

    /// Ticks since it was last heard of. The clock of another CPU may be a tick ahead.
    #[inline(always)]
    pub const fn idle(self, now: u32) -> u32 {
        let idle = now.wrapping_sub(self.seen());
        if idle > i32::MAX as u32 { 0 } else { idle }
    }

    /// The life after a packet. The flags are TCP's; other protocols have none.
    #[inline(always)]
    pub const fn after(self, way: Way, flags: u8, now: u32) -> Self {
        let mut state = self.state();
        if flags & tcp::RST != 0 {
            state |= Self::RESET;
        }
        match way {
            Way::ToBackend => {
                if flags & tcp::FIN != 0 {
                    state |= Self::CLIENT_FINISHED;
                }
            }
            Way::ToClient => {
                state |= Self::ANSWERED;
                if flags & tcp::FIN != 0 {
                    state |= Self::BACKEND_FINISHED;
                }
            }
        }
        Self::new(self.tag(), state, now)
    }

    /// Whether the TCP connection is over, so that a SYN between the same ends begins another one.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        let both = Self::CLIENT_FINISHED | Self::BACKEND_FINISHED;
        self.has(Self::RESET) || self.state() & both == both
    }

    /// For how long this flow may be silent.
    #[inline(always)]
    pub const fn timeout(self, protocol: u8, timeouts: &Timeouts) -> u32 {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let is_answered = self.has(Self::ANSWERED);
        match protocol {
            TCP if self.has(Self::RESET) => timeouts.tcp_close,
            TCP if self.is_over() => timeouts.tcp_time_wait,
            TCP if self.has(Self::CLIENT_FINISHED | Self::BACKEND_FINISHED) => timeouts.tcp_close_wait,
            TCP if is_answered => timeouts.tcp_established,
            TCP => timeouts.tcp_syn_sent,
            UDP if is_answered => timeouts.udp_stream,
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
    use super::{Life, Timeouts, Way, tcp, ticks};

    const NOW: u32 = 1_000_000;

    #[test]
    fn a_life_keeps_its_parts_apart() {
        let life = Life::new(0x1ff_ffff, 0xff, u32::MAX);
        assert_eq!((life.tag(), life.state(), life.seen()), (0xff_ffff, 0xff, u32::MAX));
        let life = Life::new(0xff_ffff, Life::ALIVE, 5).successor(NOW);
        assert_eq!((life.tag(), life.state(), life.seen()), (0, Life::ALIVE, NOW), "tags begin again");
        assert!(!life.dying().is_alive() && !life.free().is_alive() && life.is_alive());
    }

    #[test]
    fn a_flow_is_as_old_as_its_last_packet_and_never_from_the_future() {
        let life = Life::new(1, Life::ALIVE, NOW);
        assert_eq!(life.idle(NOW + 7), 7);
        assert_eq!(life.idle(NOW - 1), 0, "another CPU's clock");
        assert_eq!(Life::new(1, Life::ALIVE, u32::MAX).idle(3), 4, "the clock begins again");
    }

    #[test]
    fn timeouts_follow_the_state() {
        let timeouts = Timeouts::DEFAULT;
        let to = Way::ToBackend;
        let from = Way::ToClient;
        for (name, protocol, packets, want) in [
            ("a SYN", 6, &[(to, tcp::SYN)][..], ticks(120)),
            ("an answer", 6, &[(to, tcp::SYN), (from, tcp::SYN | tcp::ACK)], ticks(86_400)),
            ("half closed", 6, &[(to, tcp::SYN), (from, tcp::ACK), (from, tcp::FIN)], ticks(3_600)),
            ("closed", 6, &[(to, tcp::SYN), (from, tcp::FIN), (to, tcp::FIN)], ticks(120)),
            ("reset", 6, &[(to, tcp::SYN), (from, tcp::RST)], ticks(10)),
            ("a datagram", 17, &[(to, 0)], ticks(30)),
            ("an exchange", 17, &[(to, 0), (from, 0)], ticks(120)),
        ] {
            let begun = Life::new(1, Life::ALIVE, NOW);
            let life = packets.iter().fold(begun, |life, (way, flags)| life.after(*way, *flags, NOW));
            assert_eq!(life.timeout(protocol, &timeouts), want, "{name}");
            assert!(!life.is_expired(protocol, &timeouts, NOW + want), "{name}");
            assert!(life.is_expired(protocol, &timeouts, NOW + want + 1), "{name}");
        }
    }

    #[test]
    fn seconds_become_ticks_rounded_up() {
        for (seconds, want) in [(0, 0), (1, 4), (10, 38), (u32::MAX, i32::MAX as u32)] {
            assert_eq!(ticks(seconds), want, "{seconds}");
        }
    }
}

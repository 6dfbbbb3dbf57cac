//! TCP segments against the streams of their connection: a segment that lies elsewhere ends nothing.
//!
//! nf_conntrack follows both windows exactly. Here each stream's position is the upper half of its last sequence number, so that
//! both fit in the flow's cache line and are written once per 64 KiB. Someone who knows only the 5-tuple guesses a RST that counts
//! once in 16,000 packets, or moves a position towards a RST with some 2,000, and what the end that "reset" sends next undoes it.

use super::{FlowDirection, flow_state::tcp, map_type};

/// Where the two streams of a connection are, in units of 64 KiB. 0 is not known: a number in the first unit counts as in the second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    pub client: u16,
    pub backend: u16,
}
map_type!(Positions, 2 + 2);

/// The largest distance of a segment of the connection: 256 MiB. Windows may be larger (1 GiB, RFC 7323), but Linux's are 6 MiB by
/// default.
const NEAR: u16 = 4096;
/// The largest distance between successive segments of one end without loss: 16 MiB.
const STEP: u16 = 256;
/// By how much a segment that is farther moves the position: the connection's own segments arrive at theirs, a guess does not.
const PULL: u16 = 128;
/// The distance of a number that must be the next one: of a RST, and of the acknowledgement in a handshake.
const BEHIND: u16 = 1;
const AHEAD: u16 = 2;

/// The fields of a TCP header that a flow follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// TCP's flags; 0 for packets without a TCP header.
    pub flags: u8,
    pub sequence: u32,
    /// Valid with the flag ACK.
    pub acknowledged: u32,
}

impl Positions {
    /// The position of a sequence number.
    #[inline(always)]
    pub const fn of(number: u32) -> u16 {
        let unit = (number >> 16) as u16;
        if unit == 0 { 1 } else { unit }
    }

    /// The position of the sender of a direction, and of the other end.
    #[inline(always)]
    pub const fn seen_by(self, direction: FlowDirection) -> (u16, u16) {
        match direction {
            FlowDirection::Original => (self.client, self.backend),
            FlowDirection::Reply => (self.backend, self.client),
        }
    }
}

#[inline(always)]
const fn is_within(position: u16, number: u32, behind: u16, ahead: u16) -> bool {
    let distance = Positions::of(number).wrapping_sub(position).wrapping_add(behind);
    position == 0 || distance <= behind + ahead
}

impl Segment {
    /// Whether the segment is of the connection whose streams are at these positions. `own` is its sender's.
    #[inline(always)]
    pub const fn is_near(&self, own: u16, peer: u16) -> bool {
        is_within(own, self.sequence, NEAR, NEAR)
            && (self.flags & tcp::ACK == 0 || is_within(peer, self.acknowledged, NEAR, NEAR))
    }

    /// The flags, or `tcp::ELSEWHERE` if the segment's numbers say that it is not of this connection, or may not open or end it.
    #[inline(always)]
    pub const fn believed(&self, own: u16, peer: u16, is_assured: bool) -> u8 {
        let is_reset = self.flags & tcp::RST != 0;
        let is_fin = self.flags & tcp::FIN != 0;
        let is_ack = self.flags & tcp::ACK != 0;
        if !self.is_near(own, peer)
            || (is_reset && !is_within(own, self.sequence, BEHIND, AHEAD))
            || (is_fin && !is_within(own, self.sequence, STEP, STEP))
            || (is_ack && !is_assured && !is_within(peer, self.acknowledged, BEHIND, AHEAD))
        {
            return tcp::ELSEWHERE;
        }
        self.flags
    }

    /// Whether the segment is the next one of a stream.
    #[inline(always)]
    pub const fn begins_at(&self, own: u16) -> bool {
        is_within(own, self.sequence, BEHIND, AHEAD)
    }

    /// The position of the sender's stream after the segment.
    #[inline(always)]
    pub const fn moved(&self, own: u16) -> u16 {
        let to = if is_within(own, self.sequence, STEP, STEP) {
            Positions::of(self.sequence)
        } else if is_within(own, self.sequence, 0, NEAR) {
            own.wrapping_add(PULL)
        } else {
            own.wrapping_sub(PULL)
        };
        if to == 0 { 1 } else { to }
    }
}

#[cfg(test)]
mod tests {
    use super::{Positions, Segment};
    use crate::abi::flow_state::tcp::{ACK, ELSEWHERE, FIN, RST};

    const OWN: u32 = 0xffff_8000;
    const PEER: u32 = 0x0000_0010;

    fn segment(flags: u8, own: i64, peer: i64) -> Segment {
        let at = |start: u32, by: i64| start.wrapping_add(by as u32);
        Segment { flags, sequence: at(OWN, own), acknowledged: at(PEER, peer) }
    }

    fn is_believed(segment: Segment, is_assured: bool) -> bool {
        segment.believed(Positions::of(OWN), Positions::of(PEER), is_assured) != ELSEWHERE
    }

    #[test]
    fn segments_count_near_the_streams_of_their_connection() {
        const KIB: i64 = 1 << 10;
        const MIB: i64 = 1 << 20;
        for (name, flags, own, peer, want) in [
            ("the next data", ACK, 0, 0, true),
            ("a keepalive probe", ACK, -1, 0, true),
            ("a retransmission", ACK, -4 * MIB, 0, true),
            ("data after a loss", ACK, 100 * MIB, 0, true),
            ("the other stream is ahead", ACK, 0, 100 * MIB, true),
            ("a FIN", FIN | ACK, 100 * KIB, 0, true),
            ("a guess", ACK, 1 << 30, 0, false),
            ("a guess at the acknowledgement", ACK, 0, 1 << 30, false),
            ("a guessed FIN", FIN | ACK, 100 * MIB, 0, false),
            ("a RST", RST, 0, 1 << 30, true),
            ("a RST after data in flight", RST, 100 * KIB, 0, true),
            ("a RST by a late acknowledgement", RST, -60 * KIB, 0, true),
            ("a guessed RST", RST, MIB, 0, false),
            ("a guessed RST behind", RST, -MIB, 0, false),
            ("a RST with a guessed acknowledgement", RST | ACK, 0, 1 << 30, false),
        ] {
            assert_eq!(is_believed(segment(flags, own, peer), true), want, "{name}");
        }
        // Who forges the client's address has not seen the SYN-ACK.
        assert!(is_believed(segment(ACK, 0, 1), false) && !is_believed(segment(ACK, 0, MIB), false));
    }

    #[test]
    fn positions_follow_the_connection_and_not_a_guess() {
        let own = Positions::of(OWN);
        assert_eq!(segment(ACK, 3 << 20, 0).moved(own), Positions::of(OWN.wrapping_add(3 << 20)));
        for (far, ahead) in [(100 << 20, true), (-(100 << 20), false)] {
            let segment = segment(ACK, far, 0);
            let once = segment.moved(own);
            assert_eq!(once.wrapping_sub(own) < 1 << 15, ahead, "{far}");
            assert_ne!(once, Positions::of(segment.sequence), "{far}: a single guess is followed");
            let position = (0..20).fold(own, |position, _| segment.moved(position));
            assert_eq!(position, Positions::of(segment.sequence), "{far}");
        }
    }

    #[test]
    fn a_stream_that_is_not_known_excludes_nothing() {
        let segment = Segment { flags: RST | ACK, sequence: 0, acknowledged: PEER };
        assert_eq!(segment.believed(0, Positions::of(PEER), false), RST | ACK);
        assert_eq!((Positions::of(0), Positions::of(0x1_0000), Positions::of(u32::MAX)), (1, 1, 0xffff));
    }
}

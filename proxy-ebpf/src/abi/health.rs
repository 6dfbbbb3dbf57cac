//! Passive health of backends: what connections through this node have found out about them.
//!
//! ```text
//!          fault                     time is up, one decision
//!  sound ─────────> left out ────────────────────────────────> on trial ─ fault ─> left out, for twice as long
//!    ^                                                             │
//!    └──────────────────────── an answer, at any time ─────────────┘
//! ```
//!
//! A word has all of it, so that each change is one compare-and-swap. Nothing changes with time alone: a word that nobody has changed
//! for long says nothing any more.

use super::{flow_state::ticks, map_type};

/// What a connection has found wrong with a backend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthFault {
    /// No answer to a SYN until it was sent again.
    Silent = 1,
    /// An RST, or an ICMP port unreachable, in answer to the SYN.
    Refused = 2,
    /// An ICMP error or the route: no way to the backend.
    Unreachable = 3,
    /// Opened, then reset before the first byte.
    Reset = 4,
}

impl HealthFault {
    pub const ALL: [Self; 4] = [Self::Silent, Self::Refused, Self::Unreachable, Self::Reset];

    /// The fault of a number; `None` for a number of no fault.
    #[inline(always)]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Silent),
            2 => Some(Self::Refused),
            3 => Some(Self::Unreachable),
            4 => Some(Self::Reset),
            _ => None,
        }
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
        }
    }

    /// The longest time for which a backend is left out, as a number of doublings. The trial of a silent backend costs its client a
    /// second, as the connection goes on elsewhere, so a node that returns is found within 8 s. Each other trial costs a connection.
    #[inline(always)]
    const fn max_level(self) -> u32 {
        match self {
            Self::Silent => 2,
            Self::Refused | Self::Unreachable | Self::Reset => 5,
        }
    }
}

/// Index of a counter in `HEALTH_CHANGES`. The first are those of `HealthFault::ALL`: backends suspected.
pub struct HealthChange;

impl HealthChange {
    /// A suspected backend has answered.
    pub const RESTORED: u32 = HealthFault::ALL.len() as u32;
    /// A connection whose SYN was not answered got another backend.
    pub const RESTEERED: u32 = Self::RESTORED + 1;
    pub const COUNT: u32 = Self::RESTEERED + 1;

    /// The counter of suspicions for a fault.
    #[inline(always)]
    pub const fn suspected(fault: HealthFault) -> u32 {
        fault as u32 - 1
    }
}

/// What a decision does with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Chosen like any other.
    Sound,
    /// Not chosen while another one is sound.
    LeftOut,
    /// The next decision for it makes it the trial.
    HalfOpen,
}

/// `until, a tick (32 bits) | zero (8) | on trial (1) | doublings (3) | fault (4) | lower half of the generation (16)`. Zero is sound.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthWord(pub u64);
map_type!(HealthWord, 8);

/// Value of `BACKEND_HEALTH`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendHealth {
    pub word: HealthWord,
    /// The tick at which the suspicion began.
    pub since: u32,
    pub zero: u32,
}
map_type!(BackendHealth, 8 + 4 + 4);

impl BackendHealth {
    /// The entry of a backend. One array has both families, so that programs need no branch; `is_v6` is 0 or 1.
    #[inline(always)]
    pub const fn index(is_v6: u32, backend: u32) -> u32 {
        backend << 1 | is_v6
    }
}

impl HealthWord {
    /// Ticks for which a backend is left out at first.
    pub const FIRST: u32 = ticks(2);
    /// Ticks within which the connection on trial must be answered.
    pub const TRIAL: u32 = ticks(2);
    /// Ticks after the end of a suspicion for which it is remembered.
    pub const MEMORY: u32 = ticks(60);

    const ON_TRIAL: u64 = 1 << 23;

    #[inline(always)]
    const fn new(until: u32, is_on_trial: bool, level: u32, fault: u32, generation: u32) -> Self {
        let trial = if is_on_trial { Self::ON_TRIAL } else { 0 };
        Self(
            (until as u64) << 32
                | trial
                | (level as u64 & 7) << 20
                | (fault as u64 & 0xf) << 16
                | generation as u64 & 0xffff,
        )
    }

    /// The tick until which the backend is left out.
    #[inline(always)]
    pub const fn until(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    pub const fn is_on_trial(self) -> bool {
        self.0 & Self::ON_TRIAL != 0
    }

    /// How often the time was doubled.
    #[inline(always)]
    pub const fn level(self) -> u32 {
        (self.0 >> 20) as u32 & 7
    }

    /// The fault of a backend with this generation, if it is suspected.
    #[inline(always)]
    pub const fn fault(self, generation: u32, now: u32) -> Option<HealthFault> {
        if self.is_suspected(generation, now) { HealthFault::of((self.0 >> 16) as u8 & 0xf) } else { None }
    }

    /// Whether a backend with this generation is suspected. Without branches, as the verifier follows each of them.
    #[inline(always)]
    pub const fn is_suspected(self, generation: u32, now: u32) -> bool {
        let differs = (self.0 as u32 ^ generation) & 0xffff;
        let is_forgotten = self.remaining(now).wrapping_add(Self::MEMORY as i32) as u32 >> 31;
        let is_sound = (self.0 as u32 & 0xf_0000).wrapping_sub(1) >> 31;
        differs | is_forgotten | is_sound == 0
    }

    /// Whether the fault, if there is one, is silence.
    #[inline(always)]
    pub const fn is_silent(self) -> bool {
        (self.0 >> 16) as u8 & 0xf == HealthFault::Silent as u8
    }

    /// Ticks until the backend may be tried.
    #[inline(always)]
    pub const fn remaining(self, now: u32) -> i32 {
        self.until().wrapping_sub(now) as i32
    }

    #[inline(always)]
    pub const fn standing(self, generation: u32, now: u32) -> Standing {
        if !self.is_suspected(generation, now) {
            Standing::Sound
        } else if self.remaining(now) > 0 {
            Standing::LeftOut
        } else {
            Standing::HalfOpen
        }
    }

    /// The word while a connection tries the backend.
    #[inline(always)]
    pub const fn tried(self, now: u32) -> Self {
        Self(
            (now.wrapping_add(Self::TRIAL) as u64) << 32
                | Self::ON_TRIAL
                | self.0 & 0xffff_ffff & !Self::ON_TRIAL,
        )
    }

    /// The word after a connection has found a fault. While the backend is left out, others that were on their way say nothing new.
    #[inline(always)]
    pub const fn failed(self, generation: u32, fault: HealthFault, now: u32) -> Self {
        let first = Self::new(now.wrapping_add(Self::FIRST), false, 0, fault as u32, generation);
        if !self.is_suspected(generation, now) {
            return first;
        }
        if self.remaining(now) > 0 && !self.is_on_trial() {
            // Silence leaves out without limit, so it counts for more.
            let worse = matches!(fault, HealthFault::Silent) && !self.is_silent();
            return if worse { first } else { self };
        }
        let (doubled, most) = (self.level() + 1, fault.max_level());
        let level = if doubled > most { most } else { doubled };
        Self::new(now.wrapping_add(Self::FIRST << level), false, level, fault as u32, generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_000_000;
    const GENERATION: u32 = 0x7_0003;

    fn after(word: HealthWord, now: u32) -> Standing {
        word.standing(GENERATION, now)
    }

    #[test]
    fn a_fault_leaves_a_backend_out_until_one_connection_tries_it() {
        let word = HealthWord::default().failed(GENERATION, HealthFault::Silent, NOW);
        assert_eq!(word.fault(GENERATION, NOW), Some(HealthFault::Silent));
        assert_eq!(after(word, NOW + HealthWord::FIRST - 1), Standing::LeftOut);
        let end = NOW + HealthWord::FIRST;
        assert_eq!(after(word, end), Standing::HalfOpen);
        let tried = word.tried(end);
        assert_eq!((after(tried, end), tried.is_on_trial()), (Standing::LeftOut, true));
        assert_eq!(after(tried, end + HealthWord::TRIAL), Standing::HalfOpen, "the trial was given up");
        assert_eq!(after(word, end + HealthWord::MEMORY + 1), Standing::Sound, "nobody connected for long");
        assert_eq!(word.standing(GENERATION + 1, NOW), Standing::Sound, "another backend with the index");
    }

    #[test]
    fn the_time_doubles_with_each_failed_trial() {
        for (fault, want) in
            [(HealthFault::Silent, [2, 4, 8, 8, 8, 8, 8]), (HealthFault::Refused, [2, 4, 8, 16, 32, 64, 64])]
        {
            let (mut word, mut now) = (HealthWord::default(), NOW);
            for seconds in want {
                word = word.failed(GENERATION, fault, now);
                assert_eq!(word.remaining(now), (HealthWord::FIRST * seconds / 2).cast_signed(), "{fault:?}");
                assert_eq!(word.failed(GENERATION, fault, now + 1), word, "one that was on its way");
                now = word.until();
                word = word.tried(now);
                now += 1;
            }
        }
    }

    #[test]
    fn silence_counts_for_more_than_other_faults() {
        let refused = HealthWord::default().failed(GENERATION, HealthFault::Refused, NOW);
        let silent = refused.failed(GENERATION, HealthFault::Silent, NOW + 1);
        assert_eq!(silent.fault(GENERATION, NOW), Some(HealthFault::Silent));
        assert_eq!(silent.failed(GENERATION, HealthFault::Refused, NOW + 2), silent);
    }

    #[test]
    fn numbers_lead_to_their_faults() {
        for fault in HealthFault::ALL {
            assert_eq!(HealthFault::of(fault as u8), Some(fault));
        }
        assert_eq!((HealthFault::of(0), HealthFault::of(5)), (None, None));
    }
}

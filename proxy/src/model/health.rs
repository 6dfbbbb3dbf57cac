//! Passive health (rules X): what connections have found out about a backend, and its share of the new ones.
//!
//! The changes of a backend's word are in `proxy_ebpf::abi::HealthWord`, which the programs apply.

use std::time::Duration;

use proxy_ebpf::abi::{BackendHealth, HealthFault, flow_state::TICK_SHIFT};

/// A backend that is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    pub fault: HealthFault,
    /// Time since the first fault.
    pub age: Duration,
    /// Time for which it is left out yet. Zero: the next connection tries it.
    pub left_out: Duration,
}

impl Suspicion {
    /// The suspicion of a backend with this generation, if there is one. `now`: the monotonic clock.
    pub fn of(health: &BackendHealth, generation: u32, now: Duration) -> Option<Self> {
        let tick = (now.as_nanos() >> TICK_SHIFT) as u32;
        let fault = health.word.fault(generation, tick)?;
        let left = u32::try_from(health.word.remaining(tick)).unwrap_or(0);
        // The clock of another CPU may be a tick ahead.
        let age = tick.wrapping_sub(health.since).cast_signed().max(0).cast_unsigned();
        Some(Self { fault, age: time(age), left_out: time(left) })
    }

    /// As `explain` and `get` say it.
    pub fn words(&self) -> String {
        let (fault, age) = (self.fault.name(), self.age.as_secs());
        if self.left_out.is_zero() {
            format!("{fault} {age}s, on trial")
        } else {
            format!("{fault} {age}s, out {:.1}s", self.left_out.as_secs_f64())
        }
    }
}

fn time(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << TICK_SHIFT)
}

/// The share of new connections that each backend of a set gets, by the faults of all of them, while none is tried.
///
/// Silent backends get none. Of those with other faults at most half of the set is left out; as many as are more stay, others each
/// time. If none would be left, all have the same share, as if none were suspected.
pub fn shares(faults: &[Option<HealthFault>]) -> Vec<f64> {
    let is_failing = |fault: &Option<HealthFault>| fault.is_some_and(|fault| fault != HealthFault::Silent);
    let count = |of: &dyn Fn(&Option<HealthFault>) -> bool| faults.iter().filter(|fault| of(fault)).count();
    let (sound, failing) = (count(&|fault| fault.is_none()), count(&is_failing));
    let staying = failing.saturating_sub(faults.len() / 2);
    let all = sound + staying;
    let share = |fault: &Option<HealthFault>| match (all, fault) {
        (0, _) => 1.0 / faults.len() as f64,
        (_, None) => 1.0 / all as f64,
        (_, Some(HealthFault::Silent)) => 0.0,
        (_, Some(HealthFault::Refused | HealthFault::Unreachable | HealthFault::Reset)) => {
            staying as f64 / failing as f64 / all as f64
        }
    };
    faults.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use proxy_ebpf::abi::HealthWord;

    use super::*;

    const SILENT: Option<HealthFault> = Some(HealthFault::Silent);
    const REFUSED: Option<HealthFault> = Some(HealthFault::Refused);

    #[test]
    fn suspected_backends_are_left_out_while_others_are_sound() {
        for (name, faults, want) in [
            ("all sound", &[None, None, None, None][..], &[0.25, 0.25, 0.25, 0.25][..]),
            ("one silent", &[SILENT, None, None], &[0.0, 0.5, 0.5]),
            ("all but one silent", &[SILENT, SILENT, SILENT, None], &[0.0, 0.0, 0.0, 1.0]),
            ("all silent", &[SILENT, SILENT], &[0.5, 0.5]),
            ("half refuse", &[REFUSED, REFUSED, None, None], &[0.0, 0.0, 0.5, 0.5]),
            (
                "more than half refuse",
                &[REFUSED, REFUSED, REFUSED, None],
                &[1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, 0.5],
            ),
            ("all refuse", &[REFUSED, REFUSED], &[0.5, 0.5]),
            ("silence and refusals", &[SILENT, REFUSED], &[0.5, 0.5]),
        ] {
            let shares = shares(faults);
            let is_same = shares.iter().zip(want).all(|(share, want)| (share - want).abs() < 1e-9);
            assert!(is_same && shares.len() == want.len(), "{name}: {shares:?}");
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{name}");
        }
    }

    #[test]
    fn a_suspicion_says_for_how_long() {
        let (first, tick) = (Duration::from_secs(1_000), 1 << TICK_SHIFT);
        let at = |ticks: u64| first + Duration::from_nanos(ticks * tick);
        let since = (first.as_nanos() >> TICK_SHIFT) as u32;
        let word = HealthWord::default().failed(7, HealthFault::Silent, since);
        let health = BackendHealth { word, since, zero: 0 };
        let words = |now| Suspicion::of(&health, 7, now).map(|suspicion| suspicion.words());
        assert_eq!(words(first).as_deref(), Some("silent 0s, out 2.1s"));
        assert_eq!(words(at(12)).as_deref(), Some("silent 3s, on trial"));
        assert_eq!(words(at(400)), None, "forgotten");
        assert_eq!(Suspicion::of(&health, 8, first), None, "another backend");
    }
}

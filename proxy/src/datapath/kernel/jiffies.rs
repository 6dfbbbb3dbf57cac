//! The kernel's jiffies, which programs read instead of the monotonic clock: that costs three times as much.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::time::{ClockId, clock_getres, clock_gettime};

use super::bpf;

/// The relation of jiffies to the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    /// Nanoseconds of a jiffy.
    pub length: u32,
    /// Nanoseconds of the monotonic clock at jiffy 0, modulo 2^64.
    pub origin: u64,
}

impl Jiffies {
    /// The relation on this machine. It is constant: the kernel counts jiffies on a grid of the monotonic clock
    /// (`tick_do_update_jiffies64`). Errors: the kernel refuses the program that reads them.
    pub fn read() -> io::Result<Self> {
        // The coarse clock advances with the jiffies; its resolution is `TICK_NSEC`.
        let length = nanoseconds(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?);
        let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?;
        let (jiffies, now) = sample(&Counter::load()?)?;
        Ok(Self { length, origin: now.wrapping_sub(jiffies.wrapping_mul(length.into())) })
    }
}

/// Attempts to read both clocks without an interruption between them.
const ATTEMPTS: u32 = 100;

/// Jiffies, and nanoseconds of the coarse clock. If each attempt was interrupted, of the shortest interruption.
fn sample(counter: &Counter) -> io::Result<(u64, u64)> {
    let coarse = || Ok::<_, io::Error>(nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?));
    let (mut best, mut shortest) = ((0, 0), u64::MAX);
    for _ in 0..ATTEMPTS {
        let before = coarse()?;
        let jiffies = counter.read()?;
        let after = coarse()?;
        if after - before < shortest {
            (best, shortest) = ((jiffies, after), after - before);
        }
        if shortest == 0 {
            break;
        }
    }
    Ok(best)
}

/// Programs that return `bpf_jiffies64`: two, as a test run returns 32 bits.
struct Counter {
    low: OwnedFd,
    high: OwnedFd,
}

impl Counter {
    fn load() -> io::Result<Self> {
        const CALL_JIFFIES64: u64 = 0x85 | 118 << 32;
        const SHIFT_BY_32: u64 = 0x77 | 32 << 32;
        const EXIT: u64 = 0x95;
        let low = bpf::load_program(&[CALL_JIFFIES64, EXIT])?;
        let high = bpf::load_program(&[CALL_JIFFIES64, SHIFT_BY_32, EXIT])?;
        Ok(Self { low, high })
    }

    fn read(&self) -> io::Result<u64> {
        loop {
            let high = bpf::run_program(self.high.as_fd())?;
            let low = bpf::run_program(self.low.as_fd())?;
            // The lower half may overflow between the runs.
            if bpf::run_program(self.high.as_fd())? == high {
                return Ok(u64::from(high) << 32 | u64::from(low));
            }
        }
    }
}

fn nanoseconds(time: nix::sys::time::TimeSpec) -> u64 {
    std::time::Duration::from(time).as_nanos() as u64
}

//! The results as a few lines.

use std::{fmt, time::Duration};

const MIB: f64 = 1024.0 * 1024.0;

#[derive(Debug, Default)]
pub struct Report {
    pub start_to_ready: Duration,
    pub synced_to_programmed: Duration,
    /// Changes one after the other.
    pub alone: Latency,
    /// The same while other Services change.
    pub among_others: Latency,
    /// From the expiry of all watches until a later change has taken effect.
    pub relist: Duration,
    pub after_start: Memory,
    pub after_changes: Memory,
    pub after_relist: Memory,
    /// Of another agent, which adopted the maps.
    pub after_restart: Memory,
}

/// Bytes.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory {
    pub peak: u64,
    pub resident: u64,
    pub anonymous: u64,
    /// Mostly the binary, and the mapped arrays of the kernel.
    pub files: u64,
    pub maps: u64,
}

/// Both times of the same changes.
#[derive(Debug, Default)]
pub struct Latency {
    /// Until the frontend's word differs.
    pub live: Distribution,
    /// Until the new endpoint's name resolves, if the agent serves DNS.
    pub answered: Distribution,
}

/// Times, sorted.
#[derive(Debug, Default)]
pub struct Distribution {
    times: Vec<Duration>,
}

impl Distribution {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { times }
    }

    /// The time that this share of all values does not exceed.
    pub fn within(&self, share: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.times.get(at).copied().unwrap_or_default()
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.times.is_empty() {
            return f.write_str("not measured");
        }
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            write!(f, "{name} {:.2} ms  ", self.within(share).as_secs_f64() * 1e3)?;
        }
        write!(f, "({} changes)", self.times.len())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / MIB;
        write!(
            f,
            "peak {:.1} MiB, now {:.1} MiB (anonymous {:.1}, files and maps {:.1})",
            mib(self.peak),
            mib(self.resident),
            mib(self.anonymous),
            mib(self.files + self.maps)
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        writeln!(f, "start to ready         {:.0} ms", ms(self.start_to_ready))?;
        writeln!(f, "synced to programmed   {:.1} ms", ms(self.synced_to_programmed))?;
        writeln!(f, "change to usable       {}", self.alone.live)?;
        writeln!(f, "  among other changes  {}", self.among_others.live)?;
        writeln!(f, "change to answered     {}", self.alone.answered)?;
        writeln!(f, "  among other changes  {}", self.among_others.answered)?;
        writeln!(f, "relist                 {:.0} ms", ms(self.relist))?;
        writeln!(f, "memory after the start {}", self.after_start)?;
        writeln!(f, "  after the changes    {}", self.after_changes)?;
        writeln!(f, "  after the relist     {}", self.after_relist)?;
        write!(f, "  after a restart      {}", self.after_restart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_distribution() {
        let distribution = Distribution::new((1..=101).rev().map(Duration::from_millis).collect());
        for (share, want) in [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 101)] {
            assert_eq!(distribution.within(share), Duration::from_millis(want), "{share}");
        }
    }
}

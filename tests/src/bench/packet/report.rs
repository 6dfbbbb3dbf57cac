//! One line for each program, family, number of flows and kind of packet.

use std::{fmt, time::Duration};

#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<PacketRow>,
    pub counting: Vec<CountingRow>,
}

/// The cost of the counters of flows.
#[derive(Debug)]
pub struct CountingRow {
    pub program: &'static str,
    pub is_v6: bool,
    pub flows: u32,
    pub with: Times,
    pub without: Times,
}

#[derive(Debug)]
pub struct PacketRow {
    pub program: &'static str,
    pub is_v6: bool,
    pub flows: u32,
    pub packet: &'static str,
    pub times: Times,
    /// Of an empty program, run alternately with this one.
    pub empty: Times,
}

/// The time of each run, in nanoseconds.
#[derive(Debug, Default)]
pub struct Times(Vec<u32>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    /// The mean without the tenth at either end: single runs are told in steps of ten nanoseconds.
    fn mean(&self) -> f64 {
        let mut times = self.0.clone();
        times.sort_unstable();
        let tenth = times.len() / 10;
        let middle = &times[tenth..times.len() - tenth];
        middle.iter().map(|time| f64::from(*time)).sum::<f64>() / middle.len() as f64
    }

    fn percentile(&self, percent: usize) -> u32 {
        let mut times = self.0.clone();
        times.sort_unstable();
        times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nanoseconds per packet, by single runs; cost: median less an empty program's\n")?;
        let columns = ["cost", "median", "p90", "empty"].map(|name| format!("{name:>8}")).concat();
        writeln!(f, "{:<20} {:<4} {:>7} {:<12}{columns}", "program", "", "flows", "packet")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        writeln!(f, "\ncounters of flows: means of established packets without a tenth at either end\n")?;
        let columns = ["cost", "counted", "not"].map(|name| format!("{name:>9}")).concat();
        writeln!(f, "{:<20} {:<4} {:>7} {columns}", "program", "", "flows")?;
        self.counting.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl fmt::Display for CountingRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, flows, with, without, .. } = self;
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        let (with, without) = (with.mean(), without.mean());
        let cost = with - without;
        write!(f, "{program:<20} {family} {flows:>7} {cost:>9.1}{with:>9.1}{without:>9.1}")
    }
}

impl fmt::Display for PacketRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, flows, packet, times, empty, .. } = self;
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        let (median, floor) = (times.percentile(50), empty.percentile(50));
        let cost = i64::from(median) - i64::from(floor);
        let p90 = times.percentile(90);
        write!(f, "{program:<20} {family} {flows:>7} {packet:<12}{cost:>8}{median:>8}{p90:>8}{floor:>8}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(nanoseconds: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::default();
        nanoseconds.into_iter().for_each(|time| times.push(Duration::from_nanos(time)));
        times
    }

    #[test]
    fn lines_are_short_and_subtract_the_empty_program() {
        let row = PacketRow {
            program: "tc_external_ingress",
            is_v6: true,
            flows: 100_000,
            packet: "established",
            times: times((1..=100).map(|n| n * 10)),
            empty: times([40, 60, 50]),
        };
        let line = row.to_string();
        let numbers: Vec<_> = line.split_whitespace().skip(4).collect();
        assert_eq!(numbers, ["450", "500", "900", "50"], "{line}");
        let counting = CountingRow {
            program: "tc_external_ingress",
            is_v6: false,
            flows: 100_000,
            with: times((0..10).map(|n| 400 + n % 2 * 10).chain([9000])),
            without: times([1, 395, 405, 9000, 395, 405, 395, 405, 395, 405]),
        };
        assert!(counting.to_string().ends_with("     5.6    405.6    400.0"), "{counting}");
        let report = Report { rows: vec![row], counting: vec![counting] }.to_string();
        assert!(report.lines().all(|line| line.len() <= 80), "{report}");
    }
}

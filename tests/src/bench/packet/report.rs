//! One line for each program, family, number of flows and kind of packet.

use std::{fmt, time::Duration};

#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<PacketRow>,
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
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
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
        let report = Report { rows: vec![row] }.to_string();
        assert!(report.lines().all(|line| line.len() <= 80), "{report}");
    }
}

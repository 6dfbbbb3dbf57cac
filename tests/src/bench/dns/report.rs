//! The results as a table, and the ratios of two servers.

use std::{fmt, time::Duration};

use super::load::Figures;

#[derive(Debug, Default)]
pub struct Report {
    pub servers: Vec<Measured>,
}

#[derive(Debug)]
pub struct Measured {
    pub name: &'static str,
    /// Until it had all objects.
    pub start: Duration,
    pub measured: Vec<Figures>,
    /// Peak resident memory, in KiB.
    pub memory: u64,
}

impl Report {
    /// Our queries per processor time divided by the other server's, by kind; and the ratio of memory.
    fn ratios(&self) -> Option<(Vec<(&'static str, f64)>, f64)> {
        let [ours, theirs] = self.servers.as_slice() else { return None };
        let pairs = ours.measured.iter().zip(&theirs.measured);
        let ratios = pairs.map(|(mine, other)| (mine.name, mine.per_core / other.per_core)).collect();
        Some((ratios, ours.memory as f64 / theirs.memory as f64))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.servers {
            writeln!(
                f,
                "{}: all objects after {:.2} s, {} KiB resident at most",
                server.name,
                server.start.as_secs_f64(),
                server.memory
            )?;
            let [rate, core, lost, p50, p90, p99, p999] =
                ["queries/s", "per core", "lost", "p50 us", "p90", "p99", "p99.9"];
            writeln!(f, "  {:<16}{rate:>10}{core:>9}{lost:>7}{p50:>9}{p90:>9}{p99:>9}{p999:>9}", "")?;
            server.measured.iter().try_for_each(|figures| write_line(f, figures))?;
        }
        if let Some((ratios, memory)) = self.ratios() {
            writeln!(
                f,
                "our queries for each of theirs with the same processor time, and our\nmemory compared with theirs:"
            )?;
            for (name, ratio) in ratios {
                writeln!(f, "  {name:<16}{ratio:>10.2}")?;
            }
            writeln!(f, "  {:<16}{memory:>10.2}", "memory")?;
        }
        write!(
            f,
            "per core: for each second of the server's processor time; percentiles: of one\n\
             query at a time. Of 100 addresses, those are sent that fit 1232 octets."
        )
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, figures: &Figures) -> fmt::Result {
    let [p50, p90, p99, p999] = figures.latency;
    writeln!(
        f,
        "  {:<16}{:>10.0}{:>9.0}{:>7}{p50:>9.1}{p90:>9.1}{p99:>9.1}{p999:>9.1}",
        figures.name, figures.per_second, figures.per_core, figures.lost
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_processor_time() {
        let server = |name, per_core, memory| Measured {
            name,
            start: Duration::ZERO,
            measured: vec![Figures {
                name: "SRV",
                answered: 1,
                lost: 0,
                per_second: 1.0,
                per_core,
                latency: [1.0; 4],
            }],
            memory,
        };
        let mut report = Report { servers: vec![server("ours", 500.0, 25)] };
        assert!(report.ratios().is_none(), "no server to compare with");
        report.servers.push(server("theirs", 100.0, 100));
        assert_eq!(report.ratios(), Some((vec![("SRV", 5.0)], 0.25)));
        let text = report.to_string();
        assert!(text.contains("SRV                   5.00"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}

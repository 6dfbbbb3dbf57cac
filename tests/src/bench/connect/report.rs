//! Ratios of the rounds.

use std::fmt;

use super::client::{Medians, Round};
use crate::lab::traffic::Protocol;

/// All comparisons.
#[derive(Debug, Default)]
pub struct Report {
    pub comparisons: Vec<Comparison>,
    /// The same without the program that counts the connections of sockets.
    pub uncounted: Vec<Comparison>,
}

/// One protocol in one family.
#[derive(Debug)]
pub struct Comparison {
    pub protocol: Protocol,
    pub is_v4: bool,
    rounds: Vec<Round>,
}

/// One path compared with another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Of the medians over all rounds.
    pub ratio: f64,
    /// Of single rounds: the 10th and 90th percentile.
    pub spread: (f64, f64),
}

type Pick = fn(&Medians) -> f64;
const MEASURES: [(&str, Pick); 2] =
    [("connect", |medians| medians.connect), ("whole", |medians| medians.whole)];

impl Report {
    /// The TCP connects beyond the limit. A UDP connect sends no packet: it is a route lookup, compared with
    /// which any other lookup is expensive, so it is reported but has no limit.
    pub fn above_limit(&self, limit: f64) -> Vec<String> {
        let tcp = self.comparisons.iter().filter(|comparison| comparison.protocol == Protocol::Tcp);
        // A ratio that was not measured is NaN, and exceeds every limit.
        let keeps = |comparison: &Comparison| comparison.promised().ratio <= limit;
        tcp.filter(|comparison| !keeps(comparison)).map(Comparison::name).collect()
    }
}

impl Comparison {
    pub fn new(protocol: Protocol, is_v4: bool, rounds: Vec<Round>) -> Self {
        Self { protocol, is_v4, rounds }
    }

    /// The ratio that must be near 1: through the ClusterIP against directly, `connect` alone.
    pub fn promised(&self) -> Ratio {
        self.ratio(|round| round.vip.connect, |round| round.direct.connect)
    }

    fn name(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        format!("{protocol} over {}", if self.is_v4 { "IPv4" } else { "IPv6" })
    }

    fn ratio(&self, over: impl Fn(&Round) -> f64, under: impl Fn(&Round) -> f64) -> Ratio {
        let each: Vec<f64> = self.rounds.iter().map(|round| over(round) / under(round)).collect();
        Ratio {
            ratio: self.median(&over) / self.median(&under),
            spread: (percentile(each.clone(), 10), percentile(each, 90)),
        }
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        percentile(self.rounds.iter().map(of).collect(), 50)
    }

    fn write_measure(&self, f: &mut fmt::Formatter<'_>, name: &str, pick: Pick) -> fmt::Result {
        let to_direct = self.ratio(|round| pick(&round.vip), |round| pick(&round.direct));
        let to_bare = self.ratio(|round| pick(&round.vip), |round| pick(&round.bare));
        let bare = self.median(|round| pick(&round.bare)) / 1000.0;
        let direct = self.median(|round| pick(&round.direct)) / 1000.0;
        let vip = self.median(|round| pick(&round.vip)) / 1000.0;
        let name = format!("{}, {name}", self.name());
        writeln!(f, "{name:<24}{to_direct}   {to_bare}   {bare:>8.2}{direct:>8.2}{vip:>8.2}")
    }
}

fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.spread;
        write!(f, "{:.3} ({low:.3}..{high:.3})", self.ratio)
    }
}

fn write_all(f: &mut fmt::Formatter<'_>, comparisons: &[Comparison]) -> fmt::Result {
    for comparison in comparisons {
        for (name, pick) in MEASURES {
            comparison.write_measure(f, name, pick)?;
        }
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blank = "";
        writeln!(f, "{blank:<24}ClusterIP/direct       ClusterIP/bare         microseconds, noisy")?;
        writeln!(f, "{blank:<24}ratio (p10..p90)       ratio (p10..p90)           bare  direct     VIP")?;
        write_all(f, &self.comparisons)?;
        if !self.uncounted.is_empty() {
            writeln!(f, "without counting the connections of sockets")?;
            write_all(f, &self.uncounted)?;
        }
        write!(
            f,
            "bare: directly, from a cgroup without the programs; whole: from socket to close, UDP with an exchange"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_the_spread_is_of_rounds() {
        let both = |connect| Medians { connect, whole: connect };
        let round = |direct, vip| Round { bare: both(90.0), direct: both(direct), vip: both(vip) };
        let rounds = vec![round(100.0, 110.0), round(200.0, 200.0), round(100.0, 104.0)];
        let comparison = Comparison::new(Protocol::Tcp, true, rounds);
        assert_eq!(comparison.promised(), Ratio { ratio: 1.10, spread: (1.0, 1.04) });
        let udp = Comparison::new(Protocol::Udp, true, vec![round(100.0, 200.0)]);
        let report = Report { comparisons: vec![comparison, udp], ..Report::default() };
        assert_eq!(report.above_limit(1.05), ["TCP over IPv4"]);
        assert_eq!(report.above_limit(1.10), Vec::<String>::new());
        let comparisons = vec![Comparison::new(Protocol::Tcp, false, Vec::new())];
        let unmeasured = Report { comparisons, ..Report::default() };
        assert_eq!(unmeasured.above_limit(1.05), ["TCP over IPv6"]);
    }
}

//! The number of instructions that the verifier processes for each program, recorded for each kernel series.
//!
//! The kernel reports it as `verified_insns` of a loaded program, which the verifier's log calls "processed". It
//! determines the time of loading, and the kernel limits it to a million. Verifiers differ, so each series has
//! its own file.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};

/// The upper limit of every program, independently of the ledger: a tenth of the kernel's limit.
pub const MOST: u32 = 100_000;
/// Permitted growth, in percent.
const SLACK: u64 = 5;

/// Counts by program name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger(pub BTreeMap<String, u32>);

impl Ledger {
    /// Reports counts above the limit or above the recorded ones. `noted` is `None` for a kernel without a
    /// ledger.
    pub fn complaints(&self, recorded: Option<&Ledger>) -> Vec<String> {
        let above = self.0.iter().filter(|(_, count)| !(1..=MOST).contains(*count));
        let mut complaints: Vec<String> =
            above.map(|(name, count)| format!("{name}: {count} instructions, of at most {MOST}")).collect();
        if let Some(Ledger(recorded)) = recorded {
            let names: BTreeSet<&String> = self.0.keys().chain(recorded.keys()).collect();
            let compared =
                names.into_iter().filter_map(|name| change(name, self.0.get(name), recorded.get(name)));
            complaints.extend(compared);
        }
        complaints
    }

    /// The recorded counts of this kernel. Returns `None` if there is no ledger for it.
    pub fn recorded() -> Result<Option<Ledger>> {
        let file = file()?;
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ledger::parse(&text).map(Some).with_context(|| format!("in {}", file.display()))
    }

    /// Records these counts for this kernel.
    pub fn record(&self) -> Result<()> {
        let file = file()?;
        fs::write(&file, self.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }

    fn parse(text: &str) -> Result<Ledger> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let entry = |line: &str| {
            let (name, count) = line.split_once(' ')?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        };
        let entries =
            lines.map(|line| entry(line).with_context(|| format!("`{line}` is not a name and a count")));
        entries.collect::<Result<_>>().map(Ledger)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Instructions that the verifier follows in each program.")?;
        self.0.iter().try_for_each(|(name, count)| writeln!(f, "{name:<20}{count:>8}"))
    }
}

/// Reports a program whose count has grown, or that is missing on one side. A smaller count is accepted.
fn change(name: &str, now: Option<&u32>, recorded: Option<&u32>) -> Option<String> {
    match (now, recorded) {
        (Some(now), Some(recorded)) if u64::from(*now) * 100 > u64::from(*recorded) * (100 + SLACK) => {
            Some(format!("{name}: {now} instructions, and the ledger says {recorded}"))
        }
        (Some(_), Some(_)) | (None, None) => None,
        (Some(now), None) => Some(format!("{name}: {now} instructions, and it is not in the ledger")),
        (None, Some(_)) => Some(format!("{name}: there is no such program, but it is in the ledger")),
    }
}

/// Major and minor version: the verifier rarely changes within a series.
pub fn series() -> Result<String> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(RELEASE).with_context(|| format!("cannot read {RELEASE}"))?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    ensure!(!major.is_empty() && !minor.is_empty(), "`{release}` is not a kernel version");
    Ok(format!("{major}.{minor}"))
}

/// In the sources, unless $PORTREEVE_LEDGER names a directory.
pub fn file() -> Result<PathBuf> {
    let directory = env::var_os("PORTREEVE_LEDGER").map(PathBuf::from);
    let directory =
        directory.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-ebpf/ledger").into());
    Ok(directory.join(format!("{}.txt", series()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(entries: &[(&str, u32)]) -> Ledger {
        Ledger(entries.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
    }

    #[test]
    fn written_ledgers_are_read() {
        let counts = ledger(&[("connect4", 356), ("tc_external_ingress", 60_123)]);
        assert_eq!(Ledger::parse(&counts.to_string()).expect("the text is a ledger"), counts);
        for text in ["connect4", "connect4 many", "connect4 1 2"] {
            assert!(Ledger::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn growth_is_reported() {
        /// Name, counts, recorded counts, expected complaints.
        type Case<'a> = (&'a str, &'a [(&'a str, u32)], Option<&'a Ledger>, &'a [&'a str]);
        let recorded = ledger(&[("a", 1000)]);
        let cases: [Case<'_>; 9] = [
            ("unchanged", &[("a", 1000)], Some(&recorded), &[]),
            ("five percent", &[("a", 1050)], Some(&recorded), &[]),
            (
                "more than that",
                &[("a", 1051)],
                Some(&recorded),
                &["a: 1051 instructions, and the ledger says 1000"],
            ),
            ("smaller", &[("a", 10)], Some(&recorded), &[]),
            (
                "a new program",
                &[("a", 1000), ("b", 5)],
                Some(&recorded),
                &["b: 5 instructions, and it is not in"],
            ),
            ("one that is gone", &[], Some(&recorded), &["a: there is no such program"]),
            ("a kernel without a ledger", &[("a", 99_999)], None, &[]),
            ("too many", &[("a", 100_001)], None, &["a: 100001 instructions, of at most"]),
            ("the kernel does not report it", &[("a", 0)], None, &["a: 0 instructions, of at most"]),
        ];
        for (name, now, recorded, want) in cases {
            let complaints = ledger(now).complaints(recorded);
            assert_eq!(complaints.len(), want.len(), "{name}: {complaints:?}");
            for (complaint, want) in complaints.iter().zip(want) {
                assert!(complaint.starts_with(want), "{name}: {complaint}");
            }
        }
    }
}

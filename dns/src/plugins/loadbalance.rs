//! `loadbalance [round_robin|weighted FILE]`: the order of addresses and MX records.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_server::proto::rr::{
    LowerName, Name, RData, Record, RecordType,
    rdata::{A, AAAA},
};
use ipnetwork::IpNetwork;
use tokio::time::interval;
use tracing::warn;

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
    file_watcher::FileWatcher,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loadbalance {
    /// `None`: `round_robin`, which shuffles evenly.
    weighted: Option<Weighted>,
    /// The addresses of these networks come first, in the order of the networks.
    prefer: Vec<IpNetwork>,
}

/// One address, chosen by its weight, comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Weighted {
    file: PathBuf,
    /// `None`: the file is read once.
    reload: Option<Duration>,
}

const RELOAD: Duration = Duration::from_secs(30);

impl Loadbalance {
    pub fn round_robin() -> Self {
        Self { weighted: None, prefer: Vec::new() }
    }

    /// Whether the records are shuffled evenly.
    pub(crate) fn shuffles(&self) -> bool {
        self.weighted.is_none()
    }

    /// The changes beyond an even shuffle, if there are any. Must be called within a runtime.
    pub(crate) fn start(&self) -> Option<Balancer> {
        let weights = self.weighted.as_ref().map(Weights::start);
        let is_idle = weights.is_none() && self.prefer.is_empty();
        (!is_idle).then(|| Balancer { weights, prefer: self.prefer.clone() })
    }
}

impl Directive for Loadbalance {
    const NAME: &'static str = "loadbalance";
    const SUMMARY: &'static str =
        "addresses and MX records are shuffled, or one address comes first by its weight";
    const OPTIONS: &'static [&'static str] = &["prefer", "reload"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        let mut balance = Self::round_robin();
        balance.weighted = match statement.words.as_slice() {
            [] => None,
            [policy] if policy.is("round_robin") => None,
            [policy, file] if policy.is("weighted") => Some(weighted(file)?),
            [policy] if policy.is("weighted") => return Err(policy.refuse("write `weighted FILE`")),
            [policy, more, ..] if policy.is("round_robin") || policy.is("weighted") => {
                return Err(more.refuse("nothing more belongs here; remove it"));
            }
            [policy, ..] => {
                return Err(policy.refuse("the policies are `round_robin` and `weighted FILE`"));
            }
        };
        for option in &statement.body {
            option.no_body()?;
            match (option.name.text.as_str(), &mut balance.weighted) {
                ("reload", Some(weighted)) => {
                    let interval = option.exactly::<1>("reload DURATION")?[0].duration()?;
                    weighted.reload = (!interval.is_zero()).then_some(interval);
                }
                ("reload", None) => {
                    return Err(option.refuse("only the policy `weighted` has a file to read"));
                }
                ("prefer", None) => {
                    balance.prefer.extend(option.words.iter().map(network).collect::<Result<Vec<_>, _>>()?);
                }
                ("prefer", Some(_)) => {
                    return Err(
                        option.refuse("the policy `weighted` has no preferred networks; remove the line")
                    );
                }
                _ => return Err(statement.unknown_option(option)),
            }
        }
        *setting = Some(balance);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

fn network(word: &Word) -> Result<IpNetwork, CorefileError> {
    let parsed = word.text.parse().ok().filter(|_| word.text.contains('/'));
    parsed
        .ok_or_else(|| word.refuse(format!("`{}` is no network; write one such as `10.0.0.0/8`", word.text)))
}

fn weighted(file: &Word) -> Result<Weighted, CorefileError> {
    let weighted = Weighted { file: file.path(), reload: Some(RELOAD) };
    // A missing file may appear later, as in CoreDNS.
    if let Ok(text) = std::fs::read_to_string(&weighted.file) {
        table(&text).map_err(|problem| file.refuse(format!("{}: {problem}", file.text)))?;
    }
    Ok(weighted)
}

/// The order of records beyond an even shuffle.
#[derive(Debug)]
pub(crate) struct Balancer {
    weights: Option<Arc<Weights>>,
    prefer: Vec<IpNetwork>,
}

impl Balancer {
    /// Orders the addresses among `records`; all others stay in place. `below(n)` returns a number below n.
    pub(crate) fn order(
        &self,
        records: &mut [Record],
        qtype: RecordType,
        below: impl FnOnce(usize) -> usize,
    ) {
        let places: Vec<usize> = (0..records.len()).filter(|at| address(&records[*at]).is_some()).collect();
        if places.is_empty() {
            return;
        }
        if let Some(weights) = &self.weights
            && matches!(qtype, RecordType::A | RecordType::AAAA | RecordType::SRV)
        {
            let first = weights.choose(places.iter().map(|at| &records[*at]), below);
            records.swap(places[0], places[first]);
        }
        if !self.prefer.is_empty() {
            let mut addresses: Vec<Record> = places.iter().map(|at| records[*at].clone()).collect();
            addresses.sort_by_key(|record| self.rank(record));
            for (at, record) in places.into_iter().zip(addresses) {
                records[at] = record;
            }
        }
    }

    /// The index of the first network with the address, or the number of networks.
    fn rank(&self, record: &Record) -> usize {
        let contains = |network: &IpNetwork| address(record).is_some_and(|address| network.contains(address));
        self.prefer.iter().position(contains).unwrap_or(self.prefer.len())
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
fn address(record: &Record) -> Option<IpAddr> {
    match record.data {
        RData::A(A(address)) => Some(address.into()),
        RData::AAAA(AAAA(address)) => Some(address.into()),
        _ => None,
    }
}

/// By name and address.
type Table = HashMap<(LowerName, IpAddr), u8>;

/// The weights of a file.
#[derive(Debug)]
struct Weights {
    weighted: Weighted,
    table: ArcSwap<Table>,
}

impl Weights {
    /// Must be called within a runtime, for the task that reads the file again until the weights are dropped.
    fn start(weighted: &Weighted) -> Arc<Self> {
        let weights = Arc::new(Self { weighted: weighted.clone(), table: ArcSwap::default() });
        let mut file = FileWatcher::new(&weighted.file);
        weights.load(&mut file);
        if let Some(period) = weighted.reload {
            tokio::spawn(reload(Arc::downgrade(&weights), file, period));
        }
        weights
    }

    /// Keeps the weights of a file that has become unreadable or invalid.
    fn load(&self, file: &mut FileWatcher) {
        let path = self.weighted.file.display();
        match file.changed() {
            None => {}
            Some(Err(error)) => warn!(file = %path, %error, "cannot read weights"),
            Some(Ok(text)) => match table(&text) {
                Ok(table) => self.table.store(Arc::new(table)),
                Err(error) => warn!(file = %path, error, "weights not used"),
            },
        }
    }

    /// The index of the record that comes first.
    fn choose<'r>(
        &self,
        records: impl Iterator<Item = &'r Record> + Clone,
        below: impl FnOnce(usize) -> usize,
    ) -> usize {
        let table = self.table.load();
        let weight = |record: &Record| {
            let key = address(record).map(|address| (LowerName::new(&record.name), address));
            usize::from(key.and_then(|key| table.get(&key).copied()).unwrap_or(1))
        };
        let mut chosen = below(records.clone().map(weight).sum());
        let is_chosen = |record: &Record| {
            let weight = weight(record);
            let is_it = chosen < weight;
            chosen = chosen.saturating_sub(weight);
            is_it
        };
        records.into_iter().position(is_chosen).unwrap_or_default()
    }
}

async fn reload(weights: Weak<Weights>, mut file: FileWatcher, period: Duration) {
    let mut polls = interval(period);
    loop {
        polls.tick().await;
        let Some(weights) = weights.upgrade() else { return };
        weights.load(&mut file);
    }
}

/// Lines of one name, and of an address with its weight. Errors: the first problem.
fn table(text: &str) -> Result<Table, String> {
    let (mut table, mut name) = (Table::new(), None);
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            [word] => {
                let mut parsed = Name::from_ascii(word).ok().filter(|_| word.parse::<IpAddr>().is_err());
                if let Some(parsed) = &mut parsed {
                    parsed.set_fqdn(true);
                }
                name = Some(LowerName::from(parsed.ok_or_else(|| format!("line {number} has no weight"))?));
            }
            [address, weight] => {
                let name = name.clone().ok_or_else(|| format!("line {number} has no name above it"))?;
                let address = address.parse().map_err(|_| format!("line {number} has no address"))?;
                let weight = weight.parse().ok().filter(|weight| *weight > 0);
                let weight = weight.ok_or_else(|| format!("line {number} has no weight from 1 to 255"))?;
                table.insert((name, address), weight);
            }
            _ => return Err(format!("line {number} has too many words")),
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(addresses: &[&str]) -> Vec<Record> {
        let record = |text: &&str| {
            let data = match text.parse().unwrap() {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            };
            Record::from_rdata(Name::from_ascii("www.example.com.").unwrap(), 5, data)
        };
        addresses.iter().map(record).collect()
    }

    fn texts(records: &[Record]) -> String {
        records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_address_comes_first_by_its_weight() {
        let file = "# weights\nWWW.example.com\n10.0.0.1 3\n10.0.0.2 1\n\nother.\n10.0.0.3 9\n";
        let weighted = Weighted { file: PathBuf::new(), reload: None };
        let weights = Weights { weighted, table: ArcSwap::from_pointee(table(file).unwrap()) };
        let balancer = Balancer { weights: Some(Arc::new(weights)), prefer: Vec::new() };
        // The weights are 3, 1 and, by default, 1.
        let mut firsts = Vec::new();
        for random in 0..5 {
            let mut records = records(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
            let below = |limit: usize| {
                assert_eq!(limit, 5);
                random
            };
            balancer.order(&mut records, RecordType::A, below);
            firsts.push(records[0].data.to_string());
        }
        assert_eq!(firsts, ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let mut mx = records(&["10.0.0.1", "10.0.0.2"]);
        balancer.order(&mut mx, RecordType::MX, |_| 4);
        assert_eq!(texts(&mx), "10.0.0.1 10.0.0.2", "only for addresses and services");
        for (text, want) in [
            ("10.0.0.1", "line 1 has no weight"),
            ("10.0.0.1 1", "line 1 has no name"),
            ("a\n10.0.0.1 0", "line 2 has no weight"),
            ("a\n10.0.0.1 256", "line 2 has no weight"),
            ("a\nb 1", "line 2 has no address"),
            ("a\n10.0.0.1 1 1", "line 2 has too many words"),
        ] {
            assert!(table(text).unwrap_err().contains(want), "{text}");
        }
    }

    #[test]
    fn preferred_networks_come_first() {
        let prefer = vec!["10.9.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let balancer = Balancer { weights: None, prefer };
        let mut addresses = records(&["10.0.0.1", "fd00::1", "10.9.0.2", "10.0.0.2", "10.9.0.1"]);
        balancer.order(&mut addresses, RecordType::A, |_| 0);
        assert_eq!(texts(&addresses), "10.9.0.2 10.9.0.1 fd00::1 10.0.0.1 10.0.0.2");
    }
}

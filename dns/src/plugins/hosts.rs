//! `hosts [FILE [ZONES...]]`: names with their addresses, from a file such as `/etc/hosts` or from the Corefile.
//!
//! An asterisk as the first label matches any one label, where the name itself has no address of the family. Such an
//! entry has no PTR record.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{
        LowerName, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR},
    },
};
use tokio::time::interval;
use tracing::warn;

use super::directive::{Directive, LocalPlugin, PluginContext};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, zones_or},
    file_watcher::FileWatcher,
    observe::metrics::{HostsMetrics, Plugin},
    resolve::reply::Reply,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Hosts {
    /// A file such as `/etc/hosts`, which is watched.
    pub file: PathBuf,
    pub zones: Zones,
    /// Entries in the Corefile itself.
    pub entries: Vec<(IpAddr, LowerName)>,
    pub ttl: u32,
    /// Whether PTR queries are answered.
    pub reverse: bool,
    /// The polling interval of the file; `None`: the file is read once.
    pub reload: Option<Duration>,
    /// Zones in which a missing name falls through to the next plugin. Empty: none.
    pub fallthrough: Zones,
}

impl Hosts {
    pub fn new(zones: Zones) -> Self {
        Self {
            file: "/etc/hosts".into(),
            zones,
            entries: Vec::new(),
            ttl: 3600,
            reverse: true,
            reload: Some(Duration::from_secs(5)),
            fallthrough: Zones::default(),
        }
    }
}

impl Directive for Hosts {
    const NAME: &'static str = "hosts";
    const SUMMARY: &'static str = "names with their addresses, from a file or inline";
    const OPTIONS: &'static [&'static str] = &["ttl", "no_reverse", "reload", "fallthrough"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        *setting = Some(parse(statement, zones)?);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }

    fn start(setting: &Option<Self>, context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        let hosts = setting.as_ref()?;
        Some(Box::new(HostsPlugin::start(hosts, context.metrics.hosts())))
    }
}

const MAX_TTL: u32 = 65_535;

fn parse(statement: &Statement, zones: &Zones) -> Result<Hosts, CorefileError> {
    let (file, named) = match statement.words.split_first() {
        Some((file, named)) => (Some(file), named),
        None => (None, statement.words.as_slice()),
    };
    let mut hosts = Hosts::new(zones_or(named, zones.clone())?);
    if let Some(file) = file {
        hosts.file = file.path();
    }
    for option in &statement.body {
        option.no_body()?;
        read_option(&mut hosts, statement, option)?;
    }
    Ok(hosts)
}

fn read_option(hosts: &mut Hosts, statement: &Statement, option: &Statement) -> Result<(), CorefileError> {
    match option.name.text.as_str() {
        "fallthrough" => hosts.fallthrough = option.fallthrough()?,
        "no_reverse" => {
            option.no_words()?;
            hosts.reverse = false;
        }
        "ttl" => {
            let [word] = option.exactly("ttl SECONDS")?;
            hosts.ttl = word.number()?;
            if !(1..=MAX_TTL).contains(&hosts.ttl) {
                return Err(word.refuse("write a TTL from 1 to 65535"));
            }
        }
        "reload" => {
            let interval = option.exactly::<1>("reload DURATION")?[0].duration()?;
            hosts.reload = (!interval.is_zero()).then_some(interval);
        }
        _ => entry(hosts, statement, option)?,
    }
    Ok(())
}

fn entry(hosts: &mut Hosts, statement: &Statement, option: &Statement) -> Result<(), CorefileError> {
    let Some(address) = address(&option.name.text) else {
        return Err(statement.unknown_option(option));
    };
    if option.words.is_empty() {
        return Err(option.refuse("an address without a name; write `ADDRESS NAME...`"));
    }
    for word in &option.words {
        hosts.entries.push((address, word.name()?));
    }
    Ok(())
}

/// The entries of one server block.
#[derive(Debug, Clone)]
struct HostsPlugin(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Hosts,
    /// Replaced as a whole when the file changes.
    table: ArcSwap<Table>,
    metrics: HostsMetrics,
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<LowerName, Vec<IpAddr>>,
    /// By reverse name.
    names: HashMap<LowerName, Vec<LowerName>>,
}

impl HostsPlugin {
    /// Must be called within a runtime, for the task that watches the file until the plugin is dropped.
    fn start(config: &Hosts, metrics: HostsMetrics) -> Self {
        let mut file = FileWatcher::new(&config.file);
        let shared = Arc::new(Shared { config: config.clone(), table: ArcSwap::default(), metrics });
        shared.fill("");
        shared.reload(&mut file);
        tokio::spawn(watch_file(Arc::downgrade(&shared), file));
        Self(shared)
    }
}

impl LocalPlugin for HostsPlugin {
    fn answer(&self, question: &Query) -> Option<Reply> {
        let Shared { config, table, .. } = &*self.0;
        let name = LowerName::new(question.name());
        let table = table.load();
        let answers = table.answers(question, &name, config);
        // A reverse name need not be in a configured zone, and an unlisted one is no miss.
        let is_pointer = question.query_type() == RecordType::PTR;
        if answers.is_empty() && (is_pointer || !config.zones.contains(&name)) {
            return None;
        }
        if answers.is_empty() && !table.has(&name) {
            let leads_on = config.fallthrough.contains(&name);
            return (!leads_on).then(|| Reply::from_plugin(ResponseCode::NXDomain, Plugin::Hosts));
        }
        Some(Reply { answers, ..Reply::from_plugin(ResponseCode::NoError, Plugin::Hosts) })
    }
}

impl Shared {
    /// Keeps the entries of a file that has become unreadable.
    fn reload(&self, file: &mut FileWatcher) {
        match file.changed() {
            None => {}
            Some(Ok(text)) => self.fill(&text),
            Some(Err(error)) => warn!(file = %self.config.file.display(), %error, "cannot read hosts file"),
        }
    }

    fn fill(&self, text: &str) {
        let listed = entries(text).into_iter().chain(self.config.entries.iter().cloned());
        let mut table = Table::default();
        for (address, name) in listed.filter(|(_, name)| self.config.zones.contains(name)) {
            table.add(address, name);
        }
        self.metrics.record_read(table.addresses.values().map(Vec::len).sum());
        self.table.store(Arc::new(table));
    }
}

impl Table {
    fn add(&mut self, address: IpAddr, name: LowerName) {
        if !name.is_wildcard() {
            self.add_pointer(address, &name);
        }
        let addresses = self.addresses.entry(name).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }

    fn add_pointer(&mut self, address: IpAddr, name: &LowerName) {
        let names = self.names.entry(Name::from(address).into()).or_default();
        if !names.contains(name) {
            names.push(name.clone());
        }
    }

    fn has(&self, name: &LowerName) -> bool {
        self.addresses.contains_key(name) || self.addresses.contains_key(&wildcard_of(name))
    }

    /// The addresses of one family: of the name, or else of the wildcard that matches it.
    fn addresses(&self, name: &LowerName, is_wanted: fn(&IpAddr) -> bool) -> Vec<IpAddr> {
        let of = |name: &LowerName| -> Vec<IpAddr> {
            self.addresses.get(name).into_iter().flatten().copied().filter(is_wanted).collect()
        };
        let own = of(name);
        if own.is_empty() { of(&wildcard_of(name)) } else { own }
    }

    fn answers(&self, question: &Query, name: &LowerName, config: &Hosts) -> Vec<Record> {
        let record = |data| Record::from_rdata(question.name().clone(), config.ttl, data);
        if question.query_type() == RecordType::PTR && config.reverse {
            let names = self.names.get(name).into_iter().flatten();
            return names.map(|name| record(RData::PTR(PTR(name.into())))).collect();
        }
        let addresses = if question.query_type() == RecordType::A {
            self.addresses(name, IpAddr::is_ipv4)
        } else if question.query_type() == RecordType::AAAA {
            self.addresses(name, IpAddr::is_ipv6)
        } else {
            Vec::new()
        };
        let data = addresses.into_iter().map(|address| match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        });
        data.map(record).collect()
    }
}

/// The name with an asterisk in place of its first label.
fn wildcard_of(name: &LowerName) -> LowerName {
    name.clone().into_wildcard()
}

/// An IPv4-mapped address is IPv4, and the zone of a link-local address is dropped.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

async fn watch_file(shared: Weak<Shared>, mut file: FileWatcher) {
    let Some(period) = shared.upgrade().and_then(|shared| shared.config.reload) else { return };
    let mut polls = interval(period);
    loop {
        polls.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.reload(&mut file);
    }
}

/// Skips malformed lines, as other readers of hosts files do.
fn entries(text: &str) -> Vec<(IpAddr, LowerName)> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(address) else { continue };
        for mut name in words.filter_map(|word| Name::from_ascii(word).ok()) {
            name.set_fqdn(true);
            entries.push((address, name.into()));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::observe::metrics::Metrics;

    fn answer(hosts: &HostsPlugin, name: &str, qtype: RecordType) -> Option<(ResponseCode, Vec<String>)> {
        let reply = hosts.answer(&Query::query(Name::from_ascii(name).unwrap(), qtype))?;
        Some((reply.rcode, reply.answers.iter().map(|record| record.data.to_string()).collect()))
    }

    #[tokio::test(start_paused = true)]
    async fn listed_names_are_answered() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        fs::write(&file, "10.0.0.1 Web web.example # ours\n10.0.0.2 web.example\nfd00::1\tweb.example\nx y\n10.0.0.4 www.com")
            .unwrap();
        let zone = |text: &str| LowerName::from(Name::from_ascii(text).unwrap());
        let zones = Zones(vec![zone("web."), zone("example."), zone("org.")]);
        let mut config =
            Hosts { file: file.clone(), fallthrough: Zones(vec![zone("org.")]), ..Hosts::new(zones) };
        config.entries =
            vec![("10.0.0.3".parse().unwrap(), Name::from_ascii("inline.example.").unwrap().into())];
        let hosts = HostsPlugin::start(&config, Metrics::default().hosts());
        let found =
            |data: &[&str]| Some((ResponseCode::NoError, data.iter().map(ToString::to_string).collect()));
        let missing = Some((ResponseCode::NXDomain, vec![]));
        for (name, qtype, want) in [
            ("WEB.example.", RecordType::A, found(&["10.0.0.1", "10.0.0.2"])),
            ("web.", RecordType::A, found(&["10.0.0.1"])),
            ("web.example.", RecordType::AAAA, found(&["fd00::1"])),
            ("web.example.", RecordType::MX, found(&[])),
            ("inline.example.", RecordType::A, found(&["10.0.0.3"])),
            ("1.0.0.10.in-addr.arpa.", RecordType::PTR, found(&["web.", "web.example."])),
            ("1.0.0.10.in-addr.arpa.", RecordType::A, None),
            ("9.0.0.10.in-addr.arpa.", RecordType::PTR, None),
            ("4.0.0.10.in-addr.arpa.", RecordType::PTR, None),
            ("www.com.", RecordType::A, None),
            ("other.example.", RecordType::A, missing),
            ("other.org.", RecordType::A, None),
        ] {
            assert_eq!(answer(&hosts, name, qtype), want, "{name} {qtype}");
        }
        fs::write(&file, "10.0.0.9 new.example").unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(
            answer(&hosts, "new.example.", RecordType::A),
            found(&["10.0.0.9"]),
            "the file has changed"
        );
        fs::remove_file(&file).unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(answer(&hosts, "new.example.", RecordType::A), found(&["10.0.0.9"]), "it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wildcard_matches_one_label() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        let text = "192.0.2.10 *.apps.example.net\n192.0.2.11 a.apps.example.net\n2001:db8::10 *.apps.example.net\n\
                    192.0.2.12 x.*.example.org\n::ffff:10.0.0.2 mapped.example.net\n";
        fs::write(&file, text).unwrap();
        let hosts = Hosts { file, ..Hosts::new(Zones::all()) };
        let hosts = HostsPlugin::start(&hosts, Metrics::default().hosts());
        let found =
            |data: &[&str]| Some((ResponseCode::NoError, data.iter().map(ToString::to_string).collect()));
        let missing = Some((ResponseCode::NXDomain, vec![]));
        for (name, qtype, want) in [
            ("X.Apps.example.net.", RecordType::A, found(&["192.0.2.10"])),
            ("x.apps.example.net.", RecordType::AAAA, found(&["2001:db8::10"])),
            ("x.apps.example.net.", RecordType::MX, found(&[])),
            // As in CoreDNS, a name of its own is preferred in each family.
            ("a.apps.example.net.", RecordType::A, found(&["192.0.2.11"])),
            ("a.apps.example.net.", RecordType::AAAA, found(&["2001:db8::10"])),
            ("apps.example.net.", RecordType::A, missing.clone()),
            ("y.x.apps.example.net.", RecordType::A, missing.clone()),
            ("10.2.0.192.in-addr.arpa.", RecordType::PTR, None),
            ("11.2.0.192.in-addr.arpa.", RecordType::PTR, found(&["a.apps.example.net."])),
            // An asterisk is special only as the whole first label.
            ("x.y.example.org.", RecordType::A, missing.clone()),
            ("mapped.example.net.", RecordType::A, found(&["10.0.0.2"])),
            ("mapped.example.net.", RecordType::AAAA, found(&[])),
            ("2.0.0.10.in-addr.arpa.", RecordType::PTR, found(&["mapped.example.net."])),
        ] {
            assert_eq!(answer(&hosts, name, qtype), want, "{name} {qtype}");
        }
    }
}

//! `auto [ZONES...]`: zones of the master files in a directory, which come and go with their files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_server::proto::{
    op::Query,
    rr::{LowerName, Name, RecordType},
};
use regex::Regex;
use tokio::{task::spawn_blocking, time::interval};
use tracing::{info, warn};

use super::{
    directive::{Directive, LocalPlugin, PluginContext},
    file::with_cause,
    kept_zones::{check_signatures, reply},
};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, zones_or},
    file_watcher::Stamp,
    observe::metrics::Plugin,
    resolve::reply::Reply,
    zone_data::{Zone, parse},
};

#[derive(Debug, Clone)]
pub struct Auto {
    /// Names outside these zones are not answered.
    origins: Zones,
    directory: PathBuf,
    /// Matched against the name of a file; not anchored.
    pattern: Regex,
    /// The origin of the zone, with `{1}` for the first group.
    origin: String,
    /// `None`: the directory is read once.
    reload: Option<Duration>,
}

impl PartialEq for Auto {
    fn eq(&self, other: &Self) -> bool {
        self.origins == other.origins
            && self.directory == other.directory
            && self.pattern.as_str() == other.pattern.as_str()
            && self.origin == other.origin
            && self.reload == other.reload
    }
}

const PATTERN: &str = r"db\.(.*)";
const RELOAD: Duration = Duration::from_secs(60);
/// Limit of the depth of directories.
const MAX_DEPTH: usize = 16;
/// Limit of the files of a directory.
const MAX_FILES: usize = 10_000;

impl Directive for Auto {
    const NAME: &'static str = "auto";
    const SUMMARY: &'static str = "zones of the master files in a directory, as those of `file`";
    const OPTIONS: &'static [&'static str] = &["directory", "reload"];
    const INEFFECTIVE: &'static [(&'static str, &'static str)] =
        &[("upstream", "aliases are resolved by this server anyway")];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        *setting = Some(read(statement, zones)?);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }

    fn start(setting: &Option<Self>, _context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        Some(Box::new(AutoPlugin(Served::start(setting.as_ref()?))))
    }
}

fn read(statement: &Statement, block: &Zones) -> Result<Auto, CorefileError> {
    let pattern = Regex::new(PATTERN).map_err(|error| statement.refuse(error.to_string()))?;
    let mut auto = Auto {
        origins: zones_or(&statement.words, block.clone())?,
        directory: PathBuf::new(),
        pattern,
        origin: "{1}".to_owned(),
        reload: Some(RELOAD),
    };
    for option in &statement.body {
        option.no_body()?;
        match (option.name.text.as_str(), option.words.as_slice()) {
            ("directory", [directory]) => auto.directory = directory.path(),
            ("directory", [directory, pattern, origin]) => {
                auto.directory = directory.path();
                auto.pattern = pattern.regex()?;
                if auto.pattern.captures_len() < 2 {
                    return Err(pattern.refuse("the expression has no group; put one around the origin"));
                }
                auto.origin.clone_from(&origin.text);
            }
            ("directory", _) => return Err(option.misused("directory DIRECTORY [REGEX ORIGIN]")),
            ("reload", _) => {
                let interval = option.exactly::<1>("reload DURATION")?[0].duration()?;
                auto.reload = (!interval.is_zero()).then_some(interval);
            }
            // CoreDNS ignores it as well.
            ("upstream", _) => {}
            _ => return Err(statement.unknown_option(option)),
        }
    }
    if auto.directory.as_os_str().is_empty() {
        return Err(statement.refuse("`auto` has no directory; add `directory DIRECTORY`"));
    }
    Ok(auto)
}

#[derive(Debug)]
struct AutoPlugin(Arc<Served>);

#[derive(Debug)]
struct Served {
    auto: Auto,
    /// Replaced as a whole after each reading of the directory.
    zones: ArcSwap<BTreeMap<LowerName, Loaded>>,
}

/// A zone, and the version of its file.
#[derive(Debug, Clone)]
struct Loaded {
    path: PathBuf,
    stamp: Stamp,
    zone: Arc<Zone>,
}

impl AutoPlugin {
    fn reply(&self, question: &Query, wants_dnssec: bool) -> Option<Reply> {
        let name = LowerName::new(question.name());
        if !self.0.auto.origins.contains(&name) {
            return None;
        }
        let zones = self.0.zones.load();
        let mut above = (0..=name.iter().count()).rev().map(|labels| LowerName::from(name.trim_to(labels)));
        // The parent has the DS records of a zone (RFC 4035, section 3.1.4.1).
        let own = if question.query_type() == RecordType::DS { zones.get(&name) } else { None };
        let parent = above.find_map(|above| zones.get(&above).filter(|_| own.is_none() || above != name));
        let loaded = parent.or(own)?;
        let found = loaded.zone.lookup(question.name(), question.query_type(), wants_dnssec);
        Some(reply(found, Plugin::Auto))
    }
}

impl LocalPlugin for AutoPlugin {
    fn answer(&self, question: &Query) -> Option<Reply> {
        self.reply(question, false)
    }

    fn answer_with_dnssec(&self, question: &Query) -> Option<Reply> {
        self.reply(question, true)
    }

    fn follows_cluster(&self) -> bool {
        true
    }

    fn zone(&self, origin: &LowerName) -> Option<Arc<Zone>> {
        let zones = self.0.zones.load();
        zones
            .get(origin)
            .filter(|_| self.0.auto.origins.contains(origin))
            .map(|loaded| Arc::clone(&loaded.zone))
    }

    fn serials(&self) -> Vec<(LowerName, u32)> {
        let zones = self.0.zones.load();
        zones.iter().map(|(origin, loaded)| (origin.clone(), loaded.zone.serial())).collect()
    }
}

impl Served {
    /// Must be called within a runtime, for the task that reads the directory again until the plugin is dropped.
    fn start(auto: &Auto) -> Arc<Self> {
        let served = Arc::new(Self { auto: auto.clone(), zones: ArcSwap::default() });
        served.load();
        if let Some(period) = auto.reload {
            tokio::spawn(reload(Arc::downgrade(&served), period));
        }
        served
    }

    /// Reads the directory. A zone stays while its file is there, even if it has become invalid or its serial has not
    /// changed.
    fn load(&self) {
        let mut files = Vec::new();
        collect(&self.auto.directory, 0, &mut files);
        files.sort();
        let before = self.zones.load();
        let mut zones = BTreeMap::new();
        for path in files {
            let Some(origin) = self.origin(&path) else { continue };
            if zones.contains_key(&origin) {
                warn!(zone = %origin, file = %path.display(), "further file of a zone not used");
                continue;
            }
            if let Some(loaded) = load(path, &origin, before.get(&origin)) {
                check_signatures(&loaded.zone, &origin);
                zones.insert(origin, loaded);
            }
        }
        for origin in before.keys().filter(|origin| !zones.contains_key(*origin)) {
            info!(zone = %origin, "zone removed with its file");
        }
        self.zones.store(Arc::new(zones));
    }

    fn origin(&self, path: &Path) -> Option<LowerName> {
        let captures = self.auto.pattern.captures(path.file_name()?.to_str()?)?;
        let fill = |text: String, group: usize| {
            text.replace(&format!("{{{group}}}"), captures.get(group).map_or("", |group| group.as_str()))
        };
        let mut name = Name::from_ascii((0..captures.len()).fold(self.auto.origin.clone(), fill)).ok()?;
        name.set_fqdn(true);
        Some(name.into())
    }
}

fn load(path: PathBuf, origin: &LowerName, before: Option<&Loaded>) -> Option<Loaded> {
    let stamp = Stamp::of(&path);
    if let Some(known) = before.filter(|known| known.stamp == stamp && known.path == path) {
        return Some(known.clone());
    }
    match parse(&path, origin) {
        Err(error) => {
            warn!(file = %path.display(), zone = %origin, error = with_cause(&error), "zone not loaded");
            before.map(|known| Loaded { path, stamp, zone: Arc::clone(&known.zone) })
        }
        Ok(zone) => match before.filter(|known| known.zone.serial() == zone.serial()) {
            Some(known) => Some(Loaded { path, stamp, zone: Arc::clone(&known.zone) }),
            None => {
                let (serial, foreign) = (zone.serial(), zone.foreign);
                info!(file = %path.display(), zone = %origin, serial, foreign, "zone loaded");
                Some(Loaded { path, stamp, zone: Arc::new(zone) })
            }
        },
    }
}

/// The files below a directory. As in CoreDNS, links to files are followed, and of links to directories only the
/// first, as a mounted ConfigMap has one.
fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            return warn!(directory = %directory.display(), %error, "cannot read directory of zones");
        }
    };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && depth < MAX_DEPTH {
            collect(&entry.path(), depth + 1, files);
        } else if !is_directory && entry.path().is_file() {
            if files.len() >= MAX_FILES {
                return warn!(directory = %directory.display(), limit = MAX_FILES, "too many files of zones");
            }
            files.push(entry.path());
        }
    }
}

async fn reload(served: Weak<Served>, period: Duration) {
    let mut polls = interval(period);
    polls.tick().await;
    loop {
        polls.tick().await;
        let Some(served) = served.upgrade() else { return };
        // Large files must not delay queries. The task ends abnormally only by a panic, which is reported already.
        let _ = spawn_blocking(move || served.load()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::{self, Source};

    fn auto(options: &str) -> Result<Auto, CorefileError> {
        let text = format!("org {{\nauto {{\n{options}\n}}\n}}");
        let tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
        read(&tree.blocks[0].directives[0], &Zones(vec![Name::from_ascii("org.").unwrap().into()]))
    }

    fn answer(plugin: &AutoPlugin, name: &str) -> String {
        match plugin.answer(&Query::query(Name::from_ascii(name).unwrap(), RecordType::A)) {
            None => "none".to_owned(),
            Some(reply) => {
                let data = reply.answers.iter().map(|record| record.data.to_string());
                format!("{} {}", reply.rcode.low(), data.collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[tokio::test]
    async fn zones_come_and_go_with_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, serial: u32, address: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("@ SOA ns c {serial} 1 1 1 1\na A {address}\n")).unwrap();
        };
        write("db.one.org", 1, "10.0.0.1");
        write("sub/db.two.org", 1, "10.0.0.2");
        write("db.three.net", 1, "10.0.0.3");
        write("other", 1, "10.0.0.4");
        fs::write(directory.path().join("db.bad.org"), "x").unwrap();
        let auto = auto(&format!("directory {}\nreload 0", directory.path().display())).unwrap();
        let plugin = AutoPlugin(Served::start(&auto));
        for (name, want) in [
            ("a.one.org.", "0 10.0.0.1"),
            ("A.Two.org.", "0 10.0.0.2"),
            ("b.one.org.", "3 "),
            // Outside the zones of the directive.
            ("a.three.net.", "none"),
            ("a.bad.org.", "none"),
            ("a.org.", "none"),
        ] {
            assert_eq!(answer(&plugin, name), want, "{name}");
        }
        write("db.one.org", 1, "10.0.0.9");
        write("db.four.org", 1, "10.0.0.4");
        fs::remove_file(directory.path().join("sub/db.two.org")).unwrap();
        plugin.0.load();
        assert_eq!(answer(&plugin, "a.one.org."), "0 10.0.0.1", "the serial has not changed");
        assert_eq!(answer(&plugin, "a.four.org."), "0 10.0.0.4");
        assert_eq!(answer(&plugin, "a.two.org."), "none");
        write("db.one.org", 2, "10.0.0.19");
        plugin.0.load();
        assert_eq!(answer(&plugin, "a.one.org."), "0 10.0.0.19");
    }

    #[tokio::test]
    async fn the_directory_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let options =
            format!("directory {} ^(.*)\\.zone$ {{1}}.org\nreload 10ms", directory.path().display());
        let plugin = AutoPlugin(Served::start(&auto(&options).unwrap()));
        fs::write(directory.path().join("x.zone"), "@ SOA ns c 1 1 1 1 1\na A 10.0.0.1\n").unwrap();
        while answer(&plugin, "a.x.org.") != "0 10.0.0.1" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for (options, want) in [
            ("", "has no directory"),
            ("directory", "is to be written `directory DIRECTORY [REGEX ORIGIN]`"),
            ("directory /x (.*)", "is to be written `directory DIRECTORY [REGEX ORIGIN]`"),
            ("directory /x .* {1}", "has no group"),
            ("directory /x ( {1}", "is no regular expression"),
            ("directory /x\nreload x", "is no duration"),
            ("directory /x\nfallthrough", "`fallthrough` is no option of `auto`"),
        ] {
            let error = auto(options).unwrap_err().to_string();
            assert!(error.contains(want), "{options}: {error}");
        }
        assert!(auto("directory /nonexistent").is_ok(), "it may appear later");
    }
}

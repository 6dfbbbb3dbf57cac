//! `file FILE [ZONES...]`: zones of master files (RFC 1035, section 5), answered after `kubernetes`.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use hickory_server::proto::rr::LowerName;
use tokio::{task::spawn_blocking, time::interval};
use tracing::{info, warn};

use super::{
    directive::{LocalPlugin, PluginContext, Repeated},
    kept_zones::{KeptZone, KeptZones, check_signatures},
};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, zones_or},
    observe::metrics::Plugin,
    zone_data::{Zone, ZoneFileError, parse},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneFile {
    path: PathBuf,
    /// The origins of the file, each of which is read from it.
    zones: Zones,
    /// `None`: the file is read once.
    reload: Option<Duration>,
    /// A changed file is read for its modification time instead of a changed serial.
    by_mtime: bool,
    /// Zones in which a missing name falls through to the next plugin. Empty: none.
    fallthrough: Zones,
}

/// The size, in octets, up to which a file is checked with the Corefile.
const MAX_CHECKED: u64 = 1 << 20;
const RELOAD: Duration = Duration::from_secs(60);

impl Repeated for ZoneFile {
    const NAME: &'static str = "file";
    const SUMMARY: &'static str = "zones of master files, with wildcards, delegations, CNAME, DNAME and `$GENERATE`; signed ones with signatures and proofs (NSEC, NSEC3) for \
        clients that want them, made elsewhere";
    const OPTIONS: &'static [&'static str] = &["reload", "reload_by_mtime", "fallthrough"];
    const INEFFECTIVE: &'static [(&'static str, &'static str)] =
        &[("upstream", "aliases are resolved by this server anyway")];

    fn read(statement: &Statement, zones: &Zones) -> Result<Self, CorefileError> {
        read(statement, zones)
    }

    fn start(files: &[Self], _context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        Some(Box::new(KeptZones::start(files, |file| &file.zones, Served::start)))
    }
}

fn read(statement: &Statement, block: &Zones) -> Result<ZoneFile, CorefileError> {
    let [word, named @ ..] = statement.words.as_slice() else {
        return Err(statement.misused("file FILE [ZONES...]"));
    };
    let mut file = ZoneFile {
        path: word.path(),
        zones: zones_or(named, block.clone())?,
        reload: Some(RELOAD),
        by_mtime: false,
        fallthrough: Zones::default(),
    };
    for option in &statement.body {
        option.no_body()?;
        match option.name.text.as_str() {
            "reload" => {
                let interval = option.exactly::<1>("reload DURATION")?[0].duration()?;
                file.reload = (!interval.is_zero()).then_some(interval);
            }
            "reload_by_mtime" => {
                option.no_words()?;
                file.by_mtime = true;
            }
            "fallthrough" => file.fallthrough = option.fallthrough()?,
            // CoreDNS ignores it as well.
            "upstream" => {}
            _ => return Err(statement.unknown_option(option)),
        }
    }
    // A larger file takes too long for each reading of the Corefile; its mistakes are logged at the start.
    let size = std::fs::metadata(&file.path).map_or(0, |metadata| metadata.len());
    for zone in file.zones.0.iter().filter(|_| size <= MAX_CHECKED) {
        match parse(&file.path, zone) {
            Ok(_) => {}
            // It may appear later, as in CoreDNS.
            Err(ZoneFileError::Unreadable(..)) if file.reload.is_some() => {}
            Err(error) => return Err(word.refuse(with_cause(&error))),
        }
    }
    Ok(file)
}

pub(super) fn with_cause(error: &ZoneFileError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// One zone.
#[derive(Debug)]
struct Served {
    file: ZoneFile,
    origin: LowerName,
    /// `None` before the file could be read: SERVFAIL.
    zone: ArcSwapOption<Zone>,
}

impl KeptZone for Served {
    const PLUGIN: Plugin = Plugin::File;

    fn origin(&self) -> &LowerName {
        &self.origin
    }

    fn zone(&self) -> &ArcSwapOption<Zone> {
        &self.zone
    }

    fn fallthrough(&self) -> &Zones {
        &self.file.fallthrough
    }
}

impl Served {
    /// Must be called within a runtime, for the task that reads the file again until the plugin is dropped.
    fn start(file: &ZoneFile, origin: &LowerName) -> Arc<Self> {
        let served =
            Arc::new(Self { file: file.clone(), origin: origin.clone(), zone: ArcSwapOption::empty() });
        let mtime = modified(&file.path);
        served.load();
        if let Some(period) = file.reload {
            tokio::spawn(reload(Arc::downgrade(&served), period, mtime));
        }
        served
    }

    /// Reads the file. A zone that was read before stays if the file is invalid, or if neither its serial has changed
    /// nor `by_mtime` is set.
    fn load(&self) {
        let path = self.file.path.display();
        match parse(&self.file.path, &self.origin) {
            Err(error) => {
                warn!(file = %path, zone = %self.origin, error = with_cause(&error), "zone not loaded")
            }
            Ok(zone) => {
                let before = self.zone.load();
                let is_same = before.as_ref().is_some_and(|before| before.serial() == zone.serial());
                if is_same && !self.file.by_mtime {
                    return self.check();
                }
                let (serial, foreign) = (zone.serial(), zone.foreign);
                info!(file = %path, zone = %self.origin, serial, foreign, "zone loaded");
                self.zone.store(Some(Arc::new(zone)));
                self.check();
            }
        }
    }

    fn check(&self) {
        if let Some(zone) = &*self.zone.load() {
            check_signatures(zone, &self.origin);
        }
    }
}

fn modified(path: &PathBuf) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

async fn reload(served: Weak<Served>, period: Duration, mut seen: Option<SystemTime>) {
    let mut polls = interval(period);
    polls.tick().await;
    loop {
        polls.tick().await;
        let Some(served) = served.upgrade() else { return };
        let mtime = modified(&served.file.path);
        if served.file.by_mtime && mtime == seen {
            served.check();
            continue;
        }
        seen = mtime;
        // A large file must not delay queries. The task ends abnormally only by a panic, which is reported already.
        let _ = spawn_blocking(move || served.load()).await;
    }
}

#[cfg(test)]
mod tests;

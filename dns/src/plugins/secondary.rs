//! `secondary [ZONES...]`: zones that are fetched from other servers, kept in memory, and refreshed by the timers of
//! their SOA records and by NOTIFY (RFC 1034, section 4.3.5; RFC 1996).

mod fetch;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use fetch::{FetchError, fetch, serial_of};
use hickory_server::proto::rr::LowerName;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    directive::{LocalPlugin, PluginContext, Repeated},
    kept_zones::{KeptZone, KeptZones, check_signatures},
};
use crate::{
    config::{DNS_PORT, Zones},
    corefile::{CorefileError, Statement, Word, zones_or},
    observe::{faults::with_causes, metrics::Plugin},
    zone_data::{Timers, Zone, is_newer},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secondary {
    zones: Zones,
    /// The servers that have the zones, in the order in which they are asked.
    primaries: Vec<SocketAddr>,
    /// Zones in which a missing name falls through to the next plugin. Empty: none.
    fallthrough: Zones,
}

impl Repeated for Secondary {
    const NAME: &'static str = "secondary";
    const SUMMARY: &'static str =
        "zones of other servers, fetched over TCP (AXFR), refreshed by their SOA records and by NOTIFY";
    const OPTIONS: &'static [&'static str] = &["transfer", "fallthrough"];

    fn read(statement: &Statement, zones: &Zones) -> Result<Self, CorefileError> {
        read(statement, zones)
    }

    fn start(settings: &[Self], _context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        Some(Box::new(KeptZones::start(settings, |setting| &setting.zones, Served::start)))
    }
}

fn read(statement: &Statement, block: &Zones) -> Result<Secondary, CorefileError> {
    let mut secondary = Secondary {
        zones: zones_or(&statement.words, block.clone())?,
        primaries: Vec::new(),
        fallthrough: Zones::default(),
    };
    for option in &statement.body {
        option.no_body()?;
        match (option.name.text.as_str(), option.words.as_slice()) {
            ("transfer", [from, primaries @ ..]) if from.is("from") && !primaries.is_empty() => {
                for word in primaries {
                    secondary.primaries.push(primary(word)?);
                }
            }
            ("transfer", _) => return Err(option.misused("transfer from ADDRESS...")),
            ("fallthrough", _) => secondary.fallthrough = option.fallthrough()?,
            ("catalog", _) => {
                return Err(option.refuse("catalogs of zones are not followed; name the zones"));
            }
            _ => return Err(statement.unknown_option(option)),
        }
    }
    if secondary.primaries.is_empty() {
        return Err(statement.refuse("no server has the zones; add `transfer from ADDRESS`"));
    }
    Ok(secondary)
}

fn primary(word: &Word) -> Result<SocketAddr, CorefileError> {
    let text = word.text.strip_prefix("dns://").unwrap_or(&word.text);
    let address = text.parse::<IpAddr>().map(|address| (address, DNS_PORT).into());
    address
        .or_else(|_| text.parse())
        .map_err(|_| word.refuse(format!("`{text}` is no address; write one such as `192.0.2.1:53`")))
}

/// One zone.
#[derive(Debug)]
struct Served {
    setting: Secondary,
    origin: LowerName,
    /// `None` before the first transfer and after the zone has expired: SERVFAIL.
    zone: ArcSwapOption<Zone>,
    /// Ends a pause: the zone may have changed, or it is dropped.
    wake: Arc<Notify>,
}

impl KeptZone for Served {
    const PLUGIN: Plugin = Plugin::Secondary;

    fn origin(&self) -> &LowerName {
        &self.origin
    }

    fn zone(&self) -> &ArcSwapOption<Zone> {
        &self.zone
    }

    fn fallthrough(&self) -> &Zones {
        &self.setting.fallthrough
    }

    fn notified(&self, client: IpAddr) -> Option<bool> {
        let is_primary = self.setting.primaries.iter().any(|primary| primary.ip().to_canonical() == client);
        if is_primary {
            self.wake.notify_one();
        }
        Some(is_primary)
    }
}

/// The first pause after a failure while there is no zone, which doubles; as in CoreDNS.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const MAX_FIRST_RETRY: Duration = Duration::from_secs(10);
/// The least pause, whatever a SOA record says and however many notifications arrive.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Limit of the random part of a pause.
const MAX_JITTER: Duration = Duration::from_secs(5);

impl Drop for Served {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Served {
    /// Must be called within a runtime, for the task that keeps the zone until the plugin is dropped.
    fn start(setting: &Secondary, origin: &LowerName) -> Arc<Self> {
        let served = Arc::new(Self {
            setting: setting.clone(),
            origin: origin.clone(),
            zone: ArcSwapOption::empty(),
            wake: Arc::default(),
        });
        tokio::spawn(keep(Arc::downgrade(&served), Arc::clone(&served.wake)));
        served
    }

    /// Fetches the zone if a primary has a newer one. Errors: that of the last primary.
    async fn refresh(&self) -> Result<(), FetchError> {
        let known = self.zone.load().as_ref().map(|zone| zone.serial());
        let mut last = FetchError::Nothing;
        for primary in &self.setting.primaries {
            match self.refresh_from(*primary, known).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    warn!(zone = %self.origin, %primary, error = with_causes(&error), "zone not refreshed");
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn refresh_from(&self, primary: SocketAddr, known: Option<u32>) -> Result<(), FetchError> {
        if let Some(known) = known
            && !is_newer(serial_of(primary, &self.origin).await?, known)
        {
            return Ok(());
        }
        let zone = fetch(primary, &self.origin).await?;
        let (serial, foreign) = (zone.serial(), zone.foreign);
        info!(zone = %self.origin, %primary, serial, foreign, "zone transferred");
        self.zone.store(Some(Arc::new(zone)));
        Ok(())
    }

    fn timers(&self) -> Option<Timers> {
        self.zone.load().as_ref().map(|zone| zone.timers())
    }

    /// Expires the zone if it is time. Returns the time that it has left.
    fn expire(&self, verified: Instant, timers: &Timers) -> Duration {
        let left = timers.expire.saturating_sub(verified.elapsed());
        if left.is_zero() {
            warn!(zone = %self.origin, "zone expired: no primary has confirmed it in time");
            self.zone.store(None);
        }
        left
    }
}

/// Keeps a zone until it is dropped.
async fn keep(served: Weak<Served>, wake: Arc<Notify>) {
    let (mut verified, mut first_retry) = (Instant::now(), FIRST_RETRY);
    loop {
        let Some(served) = served.upgrade() else { return };
        let refreshed = served.refresh().await;
        if let Some(zone) = &*served.zone.load() {
            check_signatures(zone, &served.origin);
        }
        let pause = match (refreshed, served.timers()) {
            (Ok(()), Some(timers)) => {
                (verified, first_retry) = (Instant::now(), FIRST_RETRY);
                timers.refresh.max(MIN_PAUSE).min(timers.expire.max(MIN_PAUSE)) + jitter(timers.refresh)
            }
            (Err(_), Some(timers)) => {
                let left = served.expire(verified, &timers);
                (timers.retry.max(MIN_PAUSE) + jitter(timers.retry)).min(left.max(MIN_PAUSE))
            }
            (_, None) => {
                let pause = first_retry;
                first_retry = (2 * first_retry).min(MAX_FIRST_RETRY);
                pause
            }
        };
        drop(served);
        sleep(pause.min(MIN_PAUSE)).await;
        tokio::select! {
            () = sleep(pause.saturating_sub(MIN_PAUSE)) => {}
            () = wake.notified() => {}
        }
    }
}

/// Spreads the refreshes of the nodes of a cluster.
fn jitter(pause: Duration) -> Duration {
    MAX_JITTER.min(pause / 4).mul_f32(rand::random::<f32>())
}

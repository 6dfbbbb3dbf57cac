//! `reload [INTERVAL] [JITTER]`: a changed Corefile is applied without a restart.

use std::time::Duration;

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
};

/// The Corefile is read at this interval, plus or minus the jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    pub interval: Duration,
    pub jitter: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), jitter: Duration::from_secs(15) }
    }
}

impl Directive for Reload {
    const NAME: &'static str = "reload";
    const SUMMARY: &'static str = "a changed Corefile is applied without a restart";
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_body()?;
        let mut reload = Self::default();
        match statement.words.as_slice() {
            [] => {}
            [off] if off.is("off") => {
                *setting = None;
                return Ok(());
            }
            [interval] => reload.interval = at_least(MIN_INTERVAL, interval)?,
            [interval, jitter] => {
                reload.interval = at_least(MIN_INTERVAL, interval)?;
                reload.jitter = at_least(MIN_JITTER, jitter)?;
            }
            [_, _, ..] => return Err(statement.misused("reload [INTERVAL] [JITTER]")),
        }
        reload.jitter = reload.jitter.min(reload.interval / 2);
        *setting = Some(reload);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

/// CoreDNS's limits.
const MIN_INTERVAL: Duration = Duration::from_secs(2);
const MIN_JITTER: Duration = Duration::from_secs(1);

fn at_least(min: Duration, word: &Word) -> Result<Duration, CorefileError> {
    let duration = word.interval()?;
    if duration < min {
        return Err(word.refuse(format!("the shortest duration is {}s here", min.as_secs())));
    }
    Ok(duration)
}

//! `reload [INTERVAL] [JITTER]`: a changed Corefile is applied without a restart.

use std::time::Duration;

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
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
            [interval] => {
                reload.interval = interval.interval()?;
                reload.jitter = reload.jitter.min(reload.interval / 2);
            }
            [interval, jitter] => {
                (reload.interval, reload.jitter) = (interval.interval()?, jitter.duration()?);
            }
            [_, _, ..] => return Err(statement.misused("reload [INTERVAL] [JITTER]")),
        }
        *setting = Some(reload);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

//! `ready [ADDRESS]`: readiness over HTTP.

use std::net::SocketAddr;

use super::directive::Directive;
use crate::{
    config::{Zones, any},
    corefile::{CorefileError, Statement, Word},
};

pub(super) struct Ready;

const PORT: u16 = 8181;

impl Directive for Ready {
    const NAME: &'static str = "ready";
    const SUMMARY: &'static str = "readiness over HTTP";
    const INEFFECTIVE: &'static [(&'static str, &'static str)] =
        &[("monitor", "readiness never ends before the server does")];
    type Setting = Option<SocketAddr>;

    fn read(
        setting: &mut Option<SocketAddr>,
        statement: &Statement,
        _zones: &Zones,
    ) -> Result<(), CorefileError> {
        // Once synced, the server stays ready, so both modes are the same.
        let is_mode = |word: &Word| word.is("until-ready") || word.is("continuously");
        let is_harmless =
            |option: &&Statement| option.name.text == "monitor" && option.words.iter().all(is_mode);
        if let Some(option) = statement.body.iter().find(|option| !is_harmless(option)) {
            return Err(statement.unknown_option(option));
        }
        *setting = Some(statement.listen_address(any(PORT))?);
        Ok(())
    }

    fn is_enabled(setting: &Option<SocketAddr>) -> bool {
        setting.is_some()
    }
}

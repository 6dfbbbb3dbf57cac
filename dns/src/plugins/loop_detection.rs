//! `loop`: upstreams that forward to this server are detected and left out.

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

pub(super) struct Loop;

impl Directive for Loop {
    const NAME: &'static str = "loop";
    const SUMMARY: &'static str =
        "an upstream that forwards to this server is left out, and the server goes on";
    type Setting = bool;

    fn read(setting: &mut bool, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        *setting = statement.flag()?;
        Ok(())
    }

    fn is_enabled(setting: &bool) -> bool {
        *setting
    }
}

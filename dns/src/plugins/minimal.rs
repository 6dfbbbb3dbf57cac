//! `minimal`: replies carry the records of the answer only.

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

pub(super) struct Minimal;

impl Directive for Minimal {
    const NAME: &'static str = "minimal";
    const SUMMARY: &'static str = "only the records of the answer";
    type Setting = bool;

    fn read(setting: &mut bool, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        *setting = statement.flag()?;
        Ok(())
    }

    fn is_enabled(setting: &bool) -> bool {
        *setting
    }
}

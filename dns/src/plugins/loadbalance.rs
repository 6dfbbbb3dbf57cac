//! `loadbalance`: address and MX records are shuffled.

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

pub(super) struct Loadbalance;

impl Directive for Loadbalance {
    const NAME: &'static str = "loadbalance";
    const SUMMARY: &'static str = "addresses and MX records are shuffled; only the policy `round_robin`";
    type Setting = bool;

    fn read(setting: &mut bool, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_body()?;
        match statement.words.as_slice() {
            [] => {}
            [policy] if policy.is("round_robin") => {}
            [policy, ..] if policy.is("weighted") || policy.is("prefer") => {
                return Err(policy.refuse(format!(
                    "the policy `{}` is not supported; write `loadbalance` alone, which shuffles evenly",
                    policy.text
                )));
            }
            [policy, ..] => {
                return Err(
                    policy.refuse("only the policy `round_robin` is supported; write `loadbalance` alone")
                );
            }
        }
        *setting = true;
        Ok(())
    }

    fn is_enabled(setting: &bool) -> bool {
        *setting
    }
}

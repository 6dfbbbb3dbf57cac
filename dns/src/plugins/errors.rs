//! `errors`: failures of upstreams are logged with or without it, at their start and at their end.

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

pub(super) struct Errors;

impl Directive for Errors {
    const NAME: &'static str = "errors";
    const SUMMARY: &'static str = "failures are in the log, with or without it";
    const INEFFECTIVE: &'static [(&'static str, &'static str)] = &[
        ("consolidate", "a failure is logged when it begins and when it ends, not each time"),
        ("stacktrace", "a panic is logged with its place in any case"),
    ];
    type Setting = ();

    fn read((): &mut (), statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        match statement.words.as_slice() {
            [] => {}
            [file] if file.is("stdout") => {}
            [file, ..] => {
                return Err(file.refuse("errors go to the log; write `errors` alone, or `errors stdout`"));
            }
        }
        let is_known =
            |option: &&Statement| Self::INEFFECTIVE.iter().any(|(name, _)| option.name.text == *name);
        match statement.body.iter().find(|option| !is_known(option)) {
            None => Ok(()),
            Some(option) => Err(statement.unknown_option(option)),
        }
    }
}

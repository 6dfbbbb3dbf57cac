//! `https`: limits of the server over HTTPS. Connections are limited for all transports together.

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

#[derive(Debug)]
pub(super) struct Https;

impl Directive for Https {
    const NAME: &'static str = "https";
    const SUMMARY: &'static str = "options of the server over HTTPS";
    const OPTIONS: &'static [&'static str] = &["max_connections"];
    const INEFFECTIVE: &'static [(&'static str, &'static str)] =
        &[("max_connections", "connections are limited per client and for all transports together")];
    type Setting = ();

    fn read((): &mut (), statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_words()?;
        for option in &statement.body {
            option.no_body()?;
            match option.name.text.as_str() {
                "max_connections" => {
                    let _: u32 = option.exactly::<1>("max_connections NUMBER")?[0].number()?;
                }
                _ => return Err(statement.unknown_option(option)),
            }
        }
        Ok(())
    }
}

//! `health [ADDRESS]`: liveness over HTTP, and the time to serve on after the start of a shutdown.

use std::{net::SocketAddr, time::Duration};

use super::directive::Directive;
use crate::{
    config::{Zones, any},
    corefile::{CorefileError, Statement},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub address: SocketAddr,
    /// How long queries are answered after readiness has ended.
    pub lameduck: Duration,
}

const PORT: u16 = 8080;

impl Directive for Health {
    const NAME: &'static str = "health";
    const SUMMARY: &'static str = "liveness over HTTP";
    const OPTIONS: &'static [&'static str] = &["lameduck"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        let mut health = Self { address: statement.listen_address(any(PORT))?, lameduck: Duration::ZERO };
        for option in &statement.body {
            match option.name.text.as_str() {
                "lameduck" => health.lameduck = option.exactly::<1>("lameduck DURATION")?[0].duration()?,
                _ => return Err(statement.unknown_option(option)),
            }
        }
        *setting = Some(health);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

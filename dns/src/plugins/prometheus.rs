//! `prometheus [ADDRESS]`: metrics over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

pub(super) struct Prometheus;

const PORT: u16 = 9153;

impl Directive for Prometheus {
    const NAME: &'static str = "prometheus";
    const SUMMARY: &'static str = "metrics over HTTP, by CoreDNS's names";
    type Setting = Option<SocketAddr>;

    fn read(
        setting: &mut Option<SocketAddr>,
        statement: &Statement,
        _zones: &Zones,
    ) -> Result<(), CorefileError> {
        statement.no_body()?;
        // Unlike health, on loopback by default, as in CoreDNS.
        *setting = Some(statement.listen_address((Ipv4Addr::LOCALHOST, PORT).into())?);
        Ok(())
    }

    fn is_enabled(setting: &Option<SocketAddr>) -> bool {
        setting.is_some()
    }
}

//! `bind ADDRESS|INTERFACE...`: the addresses that the block listens at.

use std::net::IpAddr;

use super::directive::Directive;
use crate::{
    config::{BindAddress, Zones},
    corefile::{CorefileError, Statement, Word},
};

pub(super) struct Bind;

impl Directive for Bind {
    const NAME: &'static str = "bind";
    const SUMMARY: &'static str = "listening addresses; an interface stands for its addresses";
    const IS_REPEATABLE: bool = true;
    /// Empty: all addresses.
    type Setting = Vec<BindAddress>;

    fn read(
        setting: &mut Vec<BindAddress>,
        statement: &Statement,
        _zones: &Zones,
    ) -> Result<(), CorefileError> {
        statement.no_body()?;
        if statement.words.is_empty() {
            return Err(statement.misused("bind ADDRESS|INTERFACE..."));
        }
        setting.extend(statement.words.iter().map(address));
        Ok(())
    }
}

fn address(word: &Word) -> BindAddress {
    match word.text.parse::<IpAddr>() {
        Ok(address) => BindAddress::Address(address),
        Err(_) => BindAddress::Interface(word.text.clone()),
    }
}

//! `bufsize [SIZE]`: the largest UDP reply, whatever size the client advertises.

use super::directive::Directive;
use crate::{
    config::{MAX_UDP_PAYLOAD, Zones},
    corefile::{CorefileError, Statement},
};

pub(super) struct Bufsize;

impl Directive for Bufsize {
    const NAME: &'static str = "bufsize";
    const SUMMARY: &'static str = "the largest UDP reply";
    type Setting = u16;

    fn absent() -> u16 {
        MAX_UDP_PAYLOAD
    }

    fn read(setting: &mut u16, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_body()?;
        if statement.words.is_empty() {
            *setting = MAX_UDP_PAYLOAD;
            return Ok(());
        }
        let [size] = statement.exactly("bufsize [SIZE]")?;
        *setting = size.number()?;
        if (512..=4096).contains(setting) {
            Ok(())
        } else {
            Err(size.refuse("`bufsize` takes a size from 512 to 4096"))
        }
    }
}

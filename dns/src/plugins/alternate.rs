//! `alternate [original] RCODE[,RCODE...] . TO...`: other upstreams for queries that those of `forward` answer with these
//! response codes. An external plugin of CoreDNS.

use hickory_server::proto::op::ResponseCode;

use super::{directive::Directive, forward};
use crate::{
    config::{Alternate, Forward, Zones},
    corefile::{CorefileError, Statement, Word},
};

impl Directive for Alternate {
    const NAME: &'static str = "alternate";
    const SUMMARY: &'static str =
        "other upstreams for what those of `forward` answer with given response codes";
    const IS_REPEATABLE: bool = true;
    type Setting = Vec<Self>;

    fn read(setting: &mut Vec<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        let (alternate, rcodes) = parse(statement)?;
        let known = |rcode: &ResponseCode| setting.iter().any(|other| other.rcodes.contains(rcode));
        if alternate.rcodes.iter().any(known) {
            return Err(rcodes.refuse("a response code has upstreams already; put both into one line"));
        }
        setting.push(alternate);
        Ok(())
    }

    fn is_enabled(setting: &Vec<Self>) -> bool {
        !setting.is_empty()
    }
}

/// Returns the word of the response codes, too.
fn parse(statement: &Statement) -> Result<(Alternate, &Word), CorefileError> {
    statement.no_body()?;
    let (original, words) = match statement.words.as_slice() {
        [first, rest @ ..] if first.is("original") => (true, rest),
        words => (false, words),
    };
    let [rcodes, zone, to @ ..] = words else { return Err(misused(statement)) };
    let separate = |text: &str| Word { text: text.to_owned(), ..rcodes.clone() }.rcode();
    let listed = rcodes.text.split(',').map(separate).collect::<Result<_, _>>()?;
    if zone.text != "." {
        return Err(zone.refuse("the zone is `.`: the directive applies to all names of the block"));
    }
    if to.is_empty() {
        return Err(misused(statement));
    }
    let forward = Forward::to(forward::upstreams(to)?);
    Ok((Alternate { original, rcodes: listed, forward }, rcodes))
}

fn misused(statement: &Statement) -> CorefileError {
    statement.misused("alternate [original] RCODE[,RCODE...] . TO...")
}

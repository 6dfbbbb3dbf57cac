//! `rewrite ttl` and `rewrite rcode`: changes of the response to a query whose name matches.

use std::ops::RangeInclusive;

use hickory_server::proto::op::ResponseCode;

use super::pattern::{Pattern, kind_of};
use crate::corefile::{CorefileError, Statement, Word};

const TTL_USAGE: &str =
    "rewrite [continue|stop] ttl [exact|prefix|suffix|substring|regex] NAME SECONDS|MIN-MAX";
const RCODE_USAGE: &str = "rewrite [continue|stop] rcode [exact|prefix|suffix|substring|regex] NAME FROM TO";
/// The largest TTL (RFC 2181, section 8).
const MAX_TTL: u32 = 0x7fff_ffff;

/// The TTLs of all records are raised or lowered into a range of seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct TtlRule {
    pub(super) from: Pattern,
    pub(super) range: RangeInclusive<u32>,
}

impl TtlRule {
    pub(super) fn parse(statement: &Statement, words: &[Word]) -> Result<Self, CorefileError> {
        let (kind, [from, range]) = kind_of(words, 2) else { return Err(statement.misused(TTL_USAGE)) };
        let parsed = ttl_range(&range.text).ok_or_else(|| {
            range.refuse(format!("`{}` is no TTL; write one like `30`, `30-300`, `-30` or `30-`", range.text))
        })?;
        Ok(Self { from: Pattern::parse(kind, from)?, range: parsed })
    }
}

fn ttl_range(text: &str) -> Option<RangeInclusive<u32>> {
    let (min, max) = match text.split_once('-') {
        None => {
            let exactly = text.parse().ok()?;
            (exactly, exactly)
        }
        Some(("", "")) => return None,
        Some((min, "")) => (min.parse().ok()?, MAX_TTL),
        Some(("", max)) => (0, max.parse().ok()?),
        Some((min, max)) => (min.parse().ok()?, max.parse().ok()?),
    };
    (min <= max && text.bytes().all(|octet| octet.is_ascii_digit() || octet == b'-')).then_some(min..=max)
}

/// A response code is replaced by another one.
#[derive(Debug, Clone, PartialEq)]
pub struct RcodeRule {
    pub(super) from: Pattern,
    pub(super) old: ResponseCode,
    pub(super) new: ResponseCode,
}

impl RcodeRule {
    pub(super) fn parse(statement: &Statement, words: &[Word]) -> Result<Self, CorefileError> {
        let (kind, [from, old, new]) = kind_of(words, 3) else { return Err(statement.misused(RCODE_USAGE)) };
        Ok(Self { from: Pattern::parse(kind, from)?, old: rcode(old)?, new: rcode(new)? })
    }
}

/// Names and numbers of the registry (RFC 6895, section 2.3).
const RCODES: [(&str, u16); 19] = [
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("BADSIG", 16),
    ("BADKEY", 17),
    ("BADTIME", 18),
    ("BADMODE", 19),
    ("BADNAME", 20),
    ("BADALG", 21),
    ("BADTRUNC", 22),
    ("BADCOOKIE", 23),
];

fn rcode(word: &Word) -> Result<ResponseCode, CorefileError> {
    let name = word.text.to_uppercase();
    let named = RCODES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let number = named.or_else(|| word.text.parse().ok().filter(|number| *number <= 23));
    number.map(|number: u16| number.into()).ok_or_else(|| {
        word.refuse(format!(
            "`{}` is no response code; write one such as `NXDOMAIN`, or its number",
            word.text
        ))
    })
}

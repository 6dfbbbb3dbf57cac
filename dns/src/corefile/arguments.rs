//! Values of words: numbers, durations, names, zones, addresses.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use hickory_server::proto::{
    op::ResponseCode,
    rr::{LowerName, Name, RecordType},
};

use regex::Regex;

use super::{CorefileError, keys, lexer::Word, tree::Statement};
use crate::config::{Zones, any};

impl Statement {
    /// Whether a word of it stands in the line.
    pub(crate) fn stands_at(&self, file: &str, line: usize) -> bool {
        let is_there = |word: &Word| *word.file == *file && word.line == line;
        is_there(&self.name)
            || self.words.iter().any(is_there)
            || self.body.iter().any(|option| option.stands_at(file, line))
    }

    pub(crate) fn refuse(&self, problem: impl Into<String>) -> CorefileError {
        self.name.refuse(problem)
    }

    /// The words, if there are exactly `N`; `usage` is for the error.
    pub(crate) fn exactly<const N: usize>(&self, usage: &str) -> Result<&[Word; N], CorefileError> {
        <&[Word; N]>::try_from(self.words.as_slice()).map_err(|_| self.misused(usage))
    }

    pub(crate) fn misused(&self, usage: &str) -> CorefileError {
        self.refuse(format!("`{}` is to be written `{usage}`", self.name.text))
    }

    pub(crate) fn no_words(&self) -> Result<(), CorefileError> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => {
                Err(word.refuse(format!("`{}` takes nothing more; remove `{}`", self.name.text, word.text)))
            }
        }
    }

    pub(crate) fn no_body(&self) -> Result<(), CorefileError> {
        match self.body.first() {
            None => Ok(()),
            Some(option) => Err(self.unknown_option(option)),
        }
    }

    pub(crate) fn unknown_option(&self, option: &Statement) -> CorefileError {
        let (option_name, name) = (&option.name.text, &self.name.text);
        option.refuse(format!(
            "`{option_name}` is no option of `{name}` that is supported; remove the line or correct it"
        ))
    }

    /// Returns true for a directive without words and options.
    pub(crate) fn flag(&self) -> Result<bool, CorefileError> {
        self.no_words()?;
        self.no_body()?;
        Ok(true)
    }

    /// The only word as an address to listen at.
    pub(crate) fn listen_address(&self, default: SocketAddr) -> Result<SocketAddr, CorefileError> {
        match self.words.as_slice() {
            [] => Ok(default),
            [word] => listen_address(&word.text).ok_or_else(|| {
                word.refuse(format!(
                    "`{}` is no address to listen at; write `:9153` or `127.0.0.1:9153`",
                    word.text
                ))
            }),
            [_, more, ..] => Err(more.refuse("one address is enough")),
        }
    }

    /// Zones of the option `fallthrough`: the named ones, or all.
    pub(crate) fn fallthrough(&self) -> Result<Zones, CorefileError> {
        zones_or(&self.words, Zones::all())
    }
}

impl Word {
    pub(crate) fn number<N: FromStr>(&self) -> Result<N, CorefileError> {
        self.text.parse().map_err(|_| self.refuse(format!("`{}` is no number that fits here", self.text)))
    }

    /// A duration in the syntax of Go: `500ms`, `1m30s`.
    pub(crate) fn duration(&self) -> Result<Duration, CorefileError> {
        duration(&self.text).ok_or_else(|| {
            self.refuse(format!("`{}` is no duration; write it like `500ms`, `5s` or `1m30s`", self.text))
        })
    }

    /// A duration between two runs of a task, not zero.
    pub(crate) fn interval(&self) -> Result<Duration, CorefileError> {
        match self.duration()? {
            Duration::ZERO => {
                Err(self.refuse("without a pause nothing else would be done; write one like `5s`"))
            }
            interval => Ok(interval),
        }
    }

    pub(crate) fn seconds(&self) -> Result<Duration, CorefileError> {
        match self.text.parse() {
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
            Err(_) => self.duration(),
        }
    }

    pub(crate) fn name(&self) -> Result<LowerName, CorefileError> {
        let name = Name::from_ascii(&self.text).ok().map(|mut name| {
            name.set_fqdn(true);
            LowerName::from(name)
        });
        name.ok_or_else(|| self.refuse(format!("`{}` is no domain name", self.text)))
    }

    /// A zone, or the reverse zones of a network.
    pub(crate) fn zones(&self) -> Result<Vec<LowerName>, CorefileError> {
        keys::zones(&self.text)
            .ok_or_else(|| self.refuse(format!("`{}` is neither a zone nor a network", self.text)))
    }

    pub(crate) fn regex(&self) -> Result<Regex, CorefileError> {
        Regex::new(&self.text)
            .map_err(|error| self.refuse(format!("`{}` is no regular expression: {error}", self.text)))
    }

    pub(crate) fn record_type(&self) -> Result<RecordType, CorefileError> {
        self.text
            .to_uppercase()
            .parse()
            .map_err(|_| self.refuse(format!("`{}` is no type of records; write one such as `A`", self.text)))
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(&self.text)
    }

    pub(crate) fn rcode(&self) -> Result<ResponseCode, CorefileError> {
        let code = match self.text.to_uppercase().as_str() {
            "NOERROR" => ResponseCode::NoError,
            "FORMERR" => ResponseCode::FormErr,
            "SERVFAIL" => ResponseCode::ServFail,
            "NXDOMAIN" => ResponseCode::NXDomain,
            "NOTIMP" => ResponseCode::NotImp,
            "REFUSED" => ResponseCode::Refused,
            _ => {
                return Err(self.refuse(format!(
                    "`{}` is no response code; write one of NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED",
                    self.text
                )));
            }
        };
        Ok(code)
    }
}

pub(crate) fn zones(words: &[Word]) -> Result<Zones, CorefileError> {
    let zones: Result<Vec<_>, _> = words.iter().map(Word::zones).collect();
    zones.map(|zones| Zones(zones.concat()))
}

/// The zones, or `otherwise` if none is named.
pub(crate) fn zones_or(words: &[Word], otherwise: Zones) -> Result<Zones, CorefileError> {
    if words.is_empty() { Ok(otherwise) } else { zones(words) }
}

/// `:8080`, `localhost:8080`, `127.0.0.1:8080`, `[::1]:8080`.
fn listen_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host {
        "" => Some(any(port)),
        "localhost" => Some((Ipv4Addr::LOCALHOST, port).into()),
        _ => text.parse().ok(),
    }
}

fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] =
        [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, None);
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, size) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds = Some(seconds.unwrap_or_default() + number.parse::<f64>().ok()? * size);
        rest = &after[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, want) in [
            ("5s", Some(5000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("5", None),
            ("s", None),
            ("5x", None),
            ("", None),
            ("-5s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text}");
        }
    }
}

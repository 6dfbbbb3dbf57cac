//! Wrong values of flags in words. A parser of the standard library describes its own fault ("invalid digit found in
//! string"), not the value that is expected.

use std::{
    error::Error,
    net::AddrParseError,
    num::{IntErrorKind, ParseFloatError, ParseIntError},
};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use ipnetwork::IpNetworkError;

/// The error with the expected value in its message.
pub fn in_words(error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let cause = error.source().and_then(expected);
    let parts = text(ContextKind::InvalidArg).zip(text(ContextKind::InvalidValue)).zip(cause);
    match parts {
        Some(((flag, value), expected)) if error.kind() == ErrorKind::ValueValidation => {
            let message = format!("invalid value '{value}' for '{flag}': it is not {expected}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message)
        }
        Some(_) | None => error,
    }
}

/// The value that the parser with this error expects.
fn expected(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<ParseIntError>() {
        let is_large = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
        return Some(if is_large { "a number in the permitted range" } else { "a whole number" }.to_owned());
    }
    if error.is::<ParseFloatError>() {
        return Some("a number".to_owned());
    }
    if error.is::<AddrParseError>() {
        return Some("IP:PORT (an IPv6 address goes in brackets)".to_owned());
    }
    if error.is::<IpNetworkError>() {
        return Some("a network in CIDR notation".to_owned());
    }
    // The parser of ranges: "1 is not in 1024..=4194304".
    let text = error.to_string();
    let (least, most) = text.split_once(" is not in ")?.1.split_once("..=")?;
    Some(format!("within {least} and {most}"))
}

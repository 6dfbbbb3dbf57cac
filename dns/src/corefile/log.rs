//! `log [NAMES...] [FORMAT]`, with `class CLASSES...` in its body.

use super::{CorefileError, arguments::zones_or, lexer::Word, tree::Directive};
use crate::config::{Class, Log, Zones};

/// What CoreDNS can write of an answer; here that is always all there is, in fields.
const FORMATS: [&str; 2] = ["{common}", "{combined}"];

pub(super) fn read(directive: &Directive) -> Result<Log, CorefileError> {
    let (names, _) = parts(directive);
    let mut log = Log { zones: zones_or(names, Zones::all())?, classes: Vec::new() };
    for option in &directive.body {
        option.no_body()?;
        if option.name.text != "class" {
            return Err(directive.unknown_option(option));
        }
        if option.words.is_empty() {
            return Err(option.misused("class CLASS..."));
        }
        for word in &option.words {
            log.classes.extend(classes(word)?);
        }
    }
    if log.classes.is_empty() {
        log.classes = Class::ALL.to_vec();
    }
    Ok(log)
}

/// A format of the user's own.
pub(super) fn own_format(directive: &Directive) -> Option<&Word> {
    parts(directive).1.filter(|format| !FORMATS.contains(&&*format.text))
}

fn parts(directive: &Directive) -> (&[Word], Option<&Word>) {
    match directive.words.split_last() {
        Some((format, names)) if format.text.contains('{') => (names, Some(format)),
        _ => (&directive.words, None),
    }
}

fn classes(word: &Word) -> Result<&'static [Class], CorefileError> {
    match word.text.as_str() {
        "success" => Ok(&[Class::Success]),
        "denial" => Ok(&[Class::Denial]),
        "error" => Ok(&[Class::Error]),
        "all" => Ok(&Class::ALL),
        _ => Err(word.refuse("the classes are `success`, `denial`, `error` and `all`")),
    }
}

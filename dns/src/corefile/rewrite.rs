//! `rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer ...]`

use super::{CorefileError, lexer::Word, tree::Directive};
use crate::config::{AnswerName, Matches, Rewrite};

const USAGE: &str =
    "rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer auto]";
const KINDS: [&str; 5] = ["exact", "prefix", "suffix", "substring", "regex"];

/// Over one line, or over several with the options on lines of their own.
pub(super) fn read(directive: &Directive) -> Result<Rewrite, CorefileError> {
    let mut words = directive.words.as_slice();
    let continues = match words.first() {
        Some(word) if word.is("continue") || word.is("stop") => {
            words = &words[1..];
            word.is("continue")
        }
        _ => false,
    };
    if words.is_empty() {
        return over_lines(directive, continues);
    }
    directive.no_body()?;
    one(directive, words, continues)
}

fn over_lines(directive: &Directive, continues: bool) -> Result<Rewrite, CorefileError> {
    let (first, options) = directive.body.split_first().ok_or_else(|| directive.misused(USAGE))?;
    let mut words: Vec<Word> = line(first);
    for option in options {
        if !option.name.is("answer") {
            return Err(
                option.refuse("one question is rewritten in a block; write another `rewrite` for more")
            );
        }
        words.extend(line(option));
    }
    one(directive, &words, continues)
}

fn line(directive: &Directive) -> Vec<Word> {
    std::iter::once(&directive.name).chain(&directive.words).cloned().collect()
}

fn one(directive: &Directive, words: &[Word], continues: bool) -> Result<Rewrite, CorefileError> {
    let (field, rest) = words.split_first().ok_or_else(|| directive.misused(USAGE))?;
    if !field.is("name") {
        return Err(
            field.refuse(format!("only names can be rewritten, not `{}`; remove the rule", field.text))
        );
    }
    let (kind, rest) = match rest.split_first() {
        Some((kind, rest)) if KINDS.contains(&kind.text.as_str()) => (kind.text.as_str(), rest),
        _ => ("exact", rest),
    };
    let [from, to, options @ ..] = rest else { return Err(directive.misused(USAGE)) };
    let (is_auto, answers) = answers(options)?;
    Ok(Rewrite {
        matches: matches(kind, from)?,
        to: target(kind, to)?,
        turns_back: is_auto || kind == "exact",
        answers,
        continues,
    })
}

fn matches(kind: &str, from: &Word) -> Result<Matches, CorefileError> {
    let text = from.text.to_lowercase();
    Ok(match kind {
        "prefix" => Matches::Prefix(text),
        "suffix" => Matches::Suffix(absolute(text)),
        "substring" => Matches::Substring(text),
        // Names are matched in lower case, with the dot of the root at their end.
        "regex" => Matches::Regex(from.regex()?),
        _ => Matches::Exact(from.name()?),
    })
}

/// What stands at the end of a name ends with the root, too.
fn target(kind: &str, to: &Word) -> Result<String, CorefileError> {
    Ok(match kind {
        "prefix" | "substring" => to.text.to_lowercase(),
        "suffix" | "regex" => absolute(to.text.to_lowercase()),
        _ => to.name()?.to_string(),
    })
}

fn absolute(text: String) -> String {
    if text.ends_with('.') { text } else { text + "." }
}

/// Whether `answer auto` is among them, and the others. The word `answer` may be left out behind the first.
fn answers(mut words: &[Word]) -> Result<(bool, Vec<AnswerName>), CorefileError> {
    let (mut is_auto, mut answers) = (false, Vec::new());
    if let Some(first) = words.first().filter(|word| !word.is("answer")) {
        return Err(misplaced(first));
    }
    while let Some((first, behind)) = words.split_first() {
        match if first.is("answer") { behind } else { words } {
            [auto, rest @ ..] if auto.is("auto") => (is_auto, words) = (true, rest),
            [field, from, to, rest @ ..] if field.is("name") || field.is("value") => {
                let to = absolute(to.text.to_lowercase());
                answers.push(AnswerName { from: from.regex()?, to, in_value: field.is("value") });
                words = rest;
            }
            _ => return Err(misplaced(first)),
        }
    }
    Ok((is_auto, answers))
}

fn misplaced(word: &Word) -> CorefileError {
    word.refuse("after the names comes `answer auto`, or `answer name|value FROM TO`")
}

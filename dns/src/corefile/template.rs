//! `template CLASS TYPE [ZONES...]`

use hickory_server::proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};
use regex::Regex;

use super::{CorefileError, arguments::zones_or, lexer::Word, tree::Directive};
use crate::{
    config::{Template, Zones},
    plugins::template::Pattern,
};

pub(super) fn read(directive: &Directive, block: &Zones) -> Result<Template, CorefileError> {
    let [class, qtype, zones @ ..] = directive.words.as_slice() else {
        return Err(directive.misused("template CLASS TYPE [ZONES...]"));
    };
    let mut template = Template {
        class: class_of(class)?,
        qtype: qtype_of(qtype)?,
        zones: zones_or(zones, block.clone())?,
        matches: Vec::new(),
        answers: Vec::new(),
        additionals: Vec::new(),
        authorities: Vec::new(),
        rcode: ResponseCode::NoError,
        fallthrough: Zones::default(),
    };
    for option in &directive.body {
        option.no_body()?;
        read_option(&mut template, directive, option)?;
    }
    if template.matches.is_empty() {
        let everything = Regex::new("").map_err(|error| directive.refuse(error.to_string()))?;
        template.matches.push(everything);
    }
    Ok(template)
}

fn read_option(
    template: &mut Template,
    directive: &Directive,
    option: &Directive,
) -> Result<(), CorefileError> {
    match option.name.text.as_str() {
        "match" => {
            for word in &option.words {
                template.matches.push(word.regex()?);
            }
        }
        "answer" => template.answers.extend(records(option)?),
        "additional" => template.additionals.extend(records(option)?),
        "authority" => template.authorities.extend(records(option)?),
        "rcode" => template.rcode = option.exactly::<1>("rcode CODE")?[0].rcode()?,
        "fallthrough" => template.fallthrough = option.fallthrough()?,
        _ => return Err(directive.unknown_option(option)),
    }
    Ok(())
}

fn records(option: &Directive) -> Result<Vec<String>, CorefileError> {
    let checked = |word: &Word| match Pattern::parse(&word.text) {
        Ok(_) => Ok(word.text.clone()),
        Err(error) => Err(word.refuse(error.to_string())),
    };
    option.words.iter().map(checked).collect()
}

/// Questions of other classes are refused before any template is looked at.
fn class_of(word: &Word) -> Result<DNSClass, CorefileError> {
    match word.text.to_uppercase().as_str() {
        "IN" => Ok(DNSClass::IN),
        "ANY" => Ok(DNSClass::ANY),
        _ => Err(word.refuse("the class comes first, and only `IN` and `ANY` are answered")),
    }
}

fn qtype_of(word: &Word) -> Result<Option<RecordType>, CorefileError> {
    let qtype: RecordType = word.text.to_uppercase().parse().map_err(|_| {
        word.refuse(format!("`{}` is no type of records; write one such as `A`, or `ANY`", word.text))
    })?;
    Ok((qtype != RecordType::ANY).then_some(qtype))
}

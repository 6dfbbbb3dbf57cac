//! `hosts [FILE [ZONES...]]`

use std::net::IpAddr;

use super::{CorefileError, arguments::zones_or, tree::Directive};
use crate::config::{Hosts, Zones};

const LONGEST_TTL: u32 = 65_535;

pub(super) fn read(directive: &Directive, zones: &Zones) -> Result<Hosts, CorefileError> {
    let (file, named) = match directive.words.split_first() {
        Some((file, named)) => (Some(file), named),
        None => (None, directive.words.as_slice()),
    };
    let mut hosts = Hosts::new(zones_or(named, zones.clone())?);
    if let Some(file) = file {
        hosts.file = file.path();
    }
    for option in &directive.body {
        option.no_body()?;
        read_option(&mut hosts, directive, option)?;
    }
    Ok(hosts)
}

fn read_option(hosts: &mut Hosts, directive: &Directive, option: &Directive) -> Result<(), CorefileError> {
    match option.name.text.as_str() {
        "fallthrough" => hosts.fallthrough = option.fallthrough()?,
        "no_reverse" => {
            option.no_words()?;
            hosts.reverse = false;
        }
        "ttl" => {
            let [word] = option.exactly("ttl SECONDS")?;
            hosts.ttl = word.number()?;
            if !(1..=LONGEST_TTL).contains(&hosts.ttl) {
                return Err(word.refuse("write a TTL from 1 to 65535"));
            }
        }
        "reload" => {
            let interval = option.exactly::<1>("reload DURATION")?[0].duration()?;
            hosts.reload = (!interval.is_zero()).then_some(interval);
        }
        _ => entry(hosts, directive, option)?,
    }
    Ok(())
}

fn entry(hosts: &mut Hosts, directive: &Directive, option: &Directive) -> Result<(), CorefileError> {
    let Ok(address) = option.name.text.parse::<IpAddr>() else {
        return Err(directive.unknown_option(option));
    };
    if option.words.is_empty() {
        return Err(option.refuse("an address without a name; write `ADDRESS NAME...`"));
    }
    for word in &option.words {
        hosts.entries.push((address, word.name()?));
    }
    Ok(())
}

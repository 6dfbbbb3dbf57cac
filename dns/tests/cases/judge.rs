//! Compares a reply with the outcomes that a case accepts.

use std::{collections::BTreeMap, net::SocketAddr};

use hickory_server::proto::{
    op::Message,
    rr::{RData, Record as Received, RecordType},
};
use serde::Deserialize;

use super::{
    query,
    state::{Expectation, Group, Query, Record, Transport},
};

pub struct Failure {
    id: String,
    level: String,
    text: String,
}

impl Failure {
    pub fn new(group: &str, query: &Query, transport: Transport, why: String) -> Self {
        let text = format!(
            "{group}: {} ({transport:?}) {} {}: {why} [{}]",
            query.id, query.qname, query.qtype, query.notes
        );
        Self { id: query.id.clone(), level: query.level.clone(), text }
    }
}

#[derive(Debug, Deserialize)]
struct Deviation {
    id: String,
    reason: String,
}

/// Fails on a difference that is not listed as a deviation, and on a listed deviation that no longer differs.
pub fn report(failures: Vec<Failure>) {
    let listed: Vec<Deviation> =
        serde_json::from_str(include_str!("../../testdata/cases/deviations.json")).unwrap();
    let listed: BTreeMap<_, _> =
        listed.into_iter().map(|deviation| (deviation.id, deviation.reason)).collect();
    let is_listed = |failure: &&Failure| failure.level == "should" && listed.contains_key(&failure.id);
    let unlisted: Vec<_> =
        failures.iter().filter(|failure| !is_listed(failure)).map(|failure| &failure.text).collect();
    let unlisted: Vec<String> = unlisted.into_iter().cloned().collect();
    assert!(unlisted.is_empty(), "{} answers differ:\n{}", unlisted.len(), unlisted.join("\n"));
    for (id, reason) in &listed {
        assert!(!reason.is_empty(), "{id} is listed as a deviation without a reason");
        assert!(
            failures.iter().any(|failure| failure.id == *id),
            "{id} is listed as a deviation, but does not deviate"
        );
    }
}

pub async fn judge(
    query: &Query,
    group: &Group,
    reply: Option<&[u8]>,
    server: SocketAddr,
) -> Result<(), String> {
    let reply = reply.ok_or("no reply")?;
    let message = Message::from_vec(reply).map_err(|error| format!("unreadable: {error}"))?;
    check_frame(query, reply, &message)?;
    let mut why = match check_expectation(query, &query.expected, group, &message, server).await {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    for other in &query.also_accept {
        match check_expectation(query, other, group, &message, server).await {
            Ok(()) => return Ok(()),
            Err(other) => why = format!("{why}; or {other}"),
        }
    }
    Err(why)
}

fn check_frame(query: &Query, reply: &[u8], message: &Message) -> Result<(), String> {
    expect("id", reply[..2] == [0xab, 0xcd], true)?;
    expect("QR", reply[2] & 0x80 != 0, true)?;
    expect("RD", message.metadata.recursion_desired, query.rd)?;
    if query.qdcount == 1 && !message.queries.is_empty() {
        let question = query::question(&query.qname, &query.qtype, &query.qclass);
        expect("question", reply[12..].starts_with(&question), true)?;
    }
    if let Some(opt) = query.opt {
        expect("OPT", message.edns.is_some(), opt)?;
    }
    if let Some(tc) = query.tc {
        expect("TC", message.metadata.truncation, tc)?;
    }
    if let Some(ra) = query.ra {
        expect("RA", message.metadata.recursion_available, ra)?;
    }
    if query.max_len.is_some_and(|limit| reply.len() > limit) {
        return Err(format!("{} octets", reply.len()));
    }
    let is_exact = |record: &&Received| record.name.to_ascii() == query.qname;
    if query.case_exact_owner && !message.answers.iter().all(|record| is_exact(&record)) {
        return Err("an owner name differs in case from the query name".to_owned());
    }
    match query.answer_exact_count {
        Some(count) => expect("number of answers", message.answers.len(), count),
        None => Ok(()),
    }
}

async fn check_expectation(
    query: &Query,
    expected: &Expectation,
    group: &Group,
    message: &Message,
    server: SocketAddr,
) -> Result<(), String> {
    let rcode = rcode(message);
    let wanted = expected.rcode_any.clone().unwrap_or_else(|| vec![expected.rcode.clone()]);
    if !wanted.contains(&rcode) {
        return Err(format!("{rcode} instead of {}", wanted.join(" or ")));
    }
    if let Some(aa) = expected.aa {
        expect("AA", message.metadata.authoritative, aa)?;
    }
    check_authority(query, expected, group, message)?;
    match expected.answer_mode.as_deref() {
        Some("any") => {}
        Some("subset") => check_subset(expected, message)?,
        Some("ns-in-zone-resolvable") => check_name_servers(message, server).await?,
        Some(other) => return Err(format!("answer mode {other} is unknown")),
        None => check_answer(query, expected, message)?,
    }
    check_extra(expected, message)
}

fn rcode(message: &Message) -> String {
    use hickory_server::proto::op::ResponseCode as Code;
    match message.metadata.response_code {
        Code::NoError => "NOERROR",
        Code::NXDomain => "NXDOMAIN",
        Code::ServFail => "SERVFAIL",
        Code::Refused => "REFUSED",
        Code::FormErr => "FORMERR",
        Code::NotImp => "NOTIMP",
        Code::BADVERS | Code::BADSIG => "BADVERS",
        other => return format!("{other}"),
    }
    .to_owned()
}

fn check_authority(
    query: &Query,
    expected: &Expectation,
    group: &Group,
    message: &Message,
) -> Result<(), String> {
    let Some(wanted) = expected.authority_soa.filter(|_| expected.authority_soa_check) else { return Ok(()) };
    let is_soa = |record: &&Received| record.record_type() == RecordType::SOA;
    let found: Vec<_> = message.authorities.iter().filter(is_soa).collect();
    expect("SOA records in authority", found.len(), usize::from(wanted))?;
    let zone = query.authority_zone.clone().unwrap_or_else(|| format!("{}.", group.config.zones[0]));
    for record in found {
        let RData::SOA(soa) = &record.data else { continue };
        expect("owner of the SOA", record.name.to_ascii().to_lowercase(), zone.to_lowercase())?;
        if record.ttl > group.config.ttl || soa.minimum > group.config.ttl {
            return Err(format!("SOA with TTL {} and minimum {}", record.ttl, soa.minimum));
        }
    }
    Ok(())
}

fn check_answer(query: &Query, expected: &Expectation, message: &Message) -> Result<(), String> {
    let is_names_only = query.soa_rdata_check.is_some();
    let mut found: Vec<_> = message.answers.iter().map(|record| text(record, is_names_only)).collect();
    let mut wanted: Vec<_> =
        expected.answer.iter().map(|record| wanted_text(record, is_names_only)).collect();
    found.sort();
    wanted.sort();
    expect("answer", found, wanted)?;
    for record in &message.answers {
        let same = |wanted: &&Record| wanted_text(wanted, is_names_only) == text(record, is_names_only);
        let limit = expected.answer.iter().find(same).and_then(|wanted| wanted.ttl);
        if limit.is_some_and(|limit| record.ttl > limit || record.ttl == 0) {
            return Err(format!("TTL {} of {}", record.ttl, record.name));
        }
    }
    check_chain(message)
}

/// A CNAME record must precede the records of its target.
fn check_chain(message: &Message) -> Result<(), String> {
    let Some(first) = message.answers.first() else { return Ok(()) };
    let mut current = first.name.clone();
    for record in &message.answers {
        expect("owner name in the CNAME chain", record.name.to_lowercase(), current.to_lowercase())?;
        if let RData::CNAME(target) = &record.data {
            current = target.0.clone();
        }
    }
    check_weights(message)
}

fn check_weights(message: &Message) -> Result<(), String> {
    let is_weightless = |record: &Received| matches!(&record.data, RData::SRV(srv) if srv.weight == 0);
    if message.answers.len() > 1 && message.answers.iter().any(is_weightless) {
        return Err("a target of weight 0 among others".to_owned());
    }
    Ok(())
}

fn check_subset(expected: &Expectation, message: &Message) -> Result<(), String> {
    let mut found: Vec<_> = message.answers.iter().map(|record| text(record, false)).collect();
    let all = found.len();
    found.sort();
    found.dedup();
    expect("distinct answers", found.len(), all)?;
    let wanted: Vec<_> = expected.answer.iter().map(|record| wanted_text(record, false)).collect();
    match found.iter().find(|text| !wanted.is_empty() && !wanted.contains(text)) {
        Some(text) => Err(format!("{text} is not one of the endpoints")),
        None => Ok(()),
    }
}

async fn check_name_servers(message: &Message, server: SocketAddr) -> Result<(), String> {
    let targets = message.answers.iter().filter_map(|record| match &record.data {
        RData::NS(target) => Some(target.0.to_ascii()),
        _ => None,
    });
    let targets: Vec<String> = targets.collect();
    expect("name servers", targets.is_empty(), false)?;
    for target in targets {
        let mut resolves = false;
        for qtype in ["A", "AAAA"] {
            let query = plain(&target, qtype);
            let reply = query::send(server, &query, Transport::Udp).await.unwrap_or_default();
            resolves |= Message::from_vec(&reply).is_ok_and(|reply| !reply.answers.is_empty());
        }
        expect(&format!("{target} resolves"), resolves, true)?;
    }
    Ok(())
}

fn plain(name: &str, qtype: &str) -> Query {
    let query = serde_json::json!({"id": "", "qname": name, "qtype": qtype, "level": "", "rcode": "NOERROR"});
    serde_json::from_value(query).unwrap()
}

fn check_extra(expected: &Expectation, message: &Message) -> Result<(), String> {
    let wanted: Vec<_> = expected.extra.iter().map(|record| wanted_text(record, false)).collect();
    let is_address = |record: &&Received| matches!(record.data, RData::A(_) | RData::AAAA(_));
    // Without a list in the case, the additional section is not checked.
    let listed = expected.answer_mode.is_none() && !expected.extra.is_empty();
    for record in message.additionals.iter().filter(is_address).filter(|_| listed) {
        let text = text(record, false);
        expect(&format!("{text} listed as additional"), wanted.contains(&text), true)?;
    }
    Ok(())
}

fn text(record: &Received, is_names_only: bool) -> String {
    let data = match &record.data {
        RData::SRV(srv) => format!("{} {}", srv.port, srv.target.to_ascii()),
        RData::SOA(soa) if is_names_only => format!("{} {}", soa.mname, soa.rname),
        RData::TXT(txt) => {
            let parts = txt.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned());
            parts.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    format!("{} {} {data}", record.name.to_ascii(), record.record_type()).to_lowercase()
}

fn wanted_text(record: &Record, is_names_only: bool) -> String {
    let words: Vec<_> = record.rdata.split_whitespace().collect();
    let data = match record.rtype.as_str() {
        "SRV" => words[2..].join(" "),
        "SOA" if is_names_only => words[..2].join(" "),
        "TXT" => record.rdata.trim_matches('"').to_owned(),
        _ => record.rdata.clone(),
    };
    format!("{} {} {data}", record.name, record.rtype).to_lowercase()
}

fn expect<T: PartialEq + std::fmt::Debug>(field: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{field}: {found:?} instead of {wanted:?}")) }
}

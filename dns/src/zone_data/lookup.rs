//! Answers from the records of a zone (RFC 1034, section 4.3.2; wildcards, RFC 4592; DNAME, RFC 6672).

use hickory_server::proto::rr::{
    LowerName, Name, RData, Record, RecordType,
    rdata::{CNAME, MX, NS, NULL, SRV},
};

use super::zone::Zone;

/// Limit of the aliases that are followed within a zone.
const MAX_ALIASES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Records of the type, possibly after aliases, or an alias that leads out of the zone.
    Answer,
    /// The name is in a zone of another server.
    Referral,
    /// The name exists, without records of the type.
    NoData,
    NxDomain,
    /// A substitution by DNAME is too long (RFC 6672, section 2.2).
    TooLong,
    /// The aliases lead in a circle.
    Loop,
}

/// The records for each section.
#[derive(Debug)]
pub struct Found {
    pub outcome: Outcome,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

/// One step: a name without its aliases.
enum Step {
    End(Outcome),
    Alias(Name),
}

impl Zone {
    /// Looks up a name in the zone.
    pub fn lookup(&self, name: &Name, qtype: RecordType) -> Found {
        let mut found = Found {
            outcome: Outcome::Answer,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        };
        let mut name = name.clone();
        for _ in 0..=MAX_ALIASES {
            match self.step(&name, qtype, &mut found) {
                Step::End(outcome) => {
                    found.outcome = outcome;
                    return found;
                }
                Step::Alias(target) if self.origin.zone_of(&target) => name = target,
                // The next server or zone knows the target.
                Step::Alias(_) => return found,
            }
        }
        found.outcome = Outcome::Loop;
        found
    }

    fn step(&self, qname: &Name, qtype: RecordType, found: &mut Found) -> Step {
        let name = LowerName::new(qname);
        if let Some(step) = self.above(qname, &name, qtype, found) {
            return step;
        }
        if let Some(records) = self.node(&name) {
            return self.at(records, qname, qtype, found);
        }
        if self.has_descendant(&name) {
            return self.denial(Outcome::NoData, found);
        }
        let wildcard = self.closest_encloser(&name).map(|encloser| below(&encloser));
        match wildcard {
            Some(Some(wildcard)) if self.exists(&wildcard) => {
                self.at(self.node(&wildcard).unwrap_or_default(), qname, qtype, found)
            }
            _ => self.denial(Outcome::NxDomain, found),
        }
    }

    /// The DNAME or the zone cut above a name, or the cut at it, from the apex downwards.
    fn above(&self, qname: &Name, name: &LowerName, qtype: RecordType, found: &mut Found) -> Option<Step> {
        let apex = self.origin.iter().count();
        for labels in apex..=qname.iter().count() {
            let at = LowerName::from(qname.trim_to(labels));
            let Some(records) = self.node(&at) else { continue };
            let is_whole = at == *name;
            if !is_whole && let Some(record) = of_type(records, RecordType::DNAME).next() {
                let step = substitute(record, qname, labels, found);
                let is_answer =
                    matches!((&step, qtype), (Step::Alias(_), RecordType::CNAME | RecordType::ANY));
                return Some(if is_answer { Step::End(Outcome::Answer) } else { step });
            }
            let is_cut = labels > apex && of_type(records, RecordType::NS).next().is_some();
            // The parent answers for DS (RFC 4035, section 3.1.4.1).
            if is_cut && !(is_whole && qtype == RecordType::DS) {
                let servers: Vec<Record> = of_type(records, RecordType::NS).cloned().collect();
                let is_below = |name: &Name| at.zone_of(&LowerName::new(name));
                found.additionals.extend(self.addresses(&servers, is_below));
                found.authorities.extend(servers);
                return Some(Step::End(Outcome::Referral));
            }
        }
        None
    }

    /// The records of a name, or of the wildcard that matches it.
    fn at(&self, records: &[Record], qname: &Name, qtype: RecordType, found: &mut Found) -> Step {
        let owned = |record: &Record| Record::from_rdata(qname.clone(), record.ttl, record.data.clone());
        if let Some(alias) = of_type(records, RecordType::CNAME).next()
            && let RData::CNAME(CNAME(target)) = &alias.data
            && !matches!(qtype, RecordType::CNAME | RecordType::ANY)
        {
            found.answers.push(owned(alias));
            return Step::Alias(target.clone());
        }
        let answers: Vec<Record> = if qtype == RecordType::ANY {
            records.iter().map(owned).collect()
        } else {
            of_type(records, qtype).map(owned).collect()
        };
        if answers.is_empty() {
            return self.denial(Outcome::NoData, found);
        }
        found.additionals.extend(self.addresses(&answers, |name| self.origin.zone_of(name)));
        found.answers.extend(answers);
        // As in CoreDNS; but an answer with the servers needs them once.
        let is_apex = LowerName::new(qname) == LowerName::new(&self.origin);
        if !(is_apex && matches!(qtype, RecordType::NS | RecordType::ANY)) {
            let apex = self.node(&LowerName::new(&self.origin)).unwrap_or_default();
            found.authorities.extend(of_type(apex, RecordType::NS).cloned());
        }
        Step::End(Outcome::Answer)
    }

    fn denial(&self, outcome: Outcome, found: &mut Found) -> Step {
        let mut soa = self.soa.clone();
        if let RData::SOA(data) = &soa.data {
            // RFC 2308, section 3.
            soa.ttl = soa.ttl.min(data.minimum);
        }
        found.authorities.push(soa);
        Step::End(outcome)
    }

    /// The longest name above this one that exists (RFC 4592, section 3.3.1).
    fn closest_encloser(&self, name: &LowerName) -> Option<LowerName> {
        let apex = self.origin.iter().count();
        let above = (apex..name.iter().count()).rev().map(|labels| LowerName::from(name.trim_to(labels)));
        above.into_iter().find(|name| self.exists(name))
    }

    /// The addresses of the names in these records, each name once, if the name is wanted.
    fn addresses(&self, records: &[Record], is_wanted: impl Fn(&Name) -> bool) -> Vec<Record> {
        let mut targets: Vec<&Name> =
            records.iter().filter_map(target).filter(|name| is_wanted(name)).collect();
        targets.sort_unstable();
        targets.dedup();
        let nodes = targets.into_iter().filter_map(|name| self.node(&LowerName::new(name))).flatten();
        let is_address = |record: &&Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
        nodes.filter(is_address).cloned().collect()
    }
}

/// The wildcard below a name.
fn below(name: &LowerName) -> Option<LowerName> {
    name.prepend_label("*").ok().map(LowerName::from)
}

fn of_type(records: &[Record], record_type: RecordType) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |record| record.record_type() == record_type)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
fn target(record: &Record) -> Option<&Name> {
    match &record.data {
        RData::NS(NS(name)) | RData::MX(MX { exchange: name, .. }) | RData::SRV(SRV { target: name, .. }) => {
            Some(name)
        }
        RData::SVCB(service) => Some(&service.target_name),
        RData::HTTPS(service) => Some(&service.0.target_name),
        _ => None,
    }
}

/// Adds a DNAME record, and the CNAME record that follows from it for a name `labels` above whose top it stands.
fn substitute(record: &Record, qname: &Name, labels: usize, found: &mut Found) -> Step {
    found.answers.push(record.clone());
    let Some(suffix) = name_in(&record.data) else { return Step::End(Outcome::Loop) };
    let count = qname.iter().count() - labels;
    let target = Name::from_labels(qname.iter().take(count).chain(suffix.iter()));
    let Ok(target) = target else { return Step::End(Outcome::TooLong) };
    if LowerName::new(&target) == LowerName::new(qname) {
        return Step::End(Outcome::Loop);
    }
    let alias = Record::from_rdata(qname.clone(), record.ttl, RData::CNAME(CNAME(target.clone())));
    found.answers.push(alias);
    Step::Alias(target)
}

/// The name in the data of a DNAME record, which the library keeps as octets.
#[expect(clippy::wildcard_enum_match_arm, reason = "types are an open list")]
fn name_in(data: &RData) -> Option<Name> {
    let (mut rest, mut labels) = match data {
        RData::Unknown { rdata: NULL { anything, .. }, .. } => (anything.as_slice(), Vec::new()),
        _ => return None,
    };
    while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
        let (label, following) = after.split_at_checked(usize::from(*length))?;
        labels.push(label);
        rest = following;
    }
    Name::from_labels(labels).ok()
}

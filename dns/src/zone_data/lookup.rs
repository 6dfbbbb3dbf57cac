//! Answers from the records of a zone (RFC 1034, section 4.3.2; wildcards, RFC 4592; DNAME, RFC 6672), with signatures and
//! proofs for those who want them (RFC 4035, section 3.1).

use hickory_server::proto::rr::{
    LowerName, Name, RData, Record, RecordType,
    rdata::{CNAME, MX, NS, NULL, SRV},
};

use super::{
    denial::Absent,
    signature::{of_type, set_type, signatures},
    zone::Zone,
};

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

/// What the records are for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    qtype: RecordType,
    /// DO.
    wants_dnssec: bool,
}

impl Asked {
    /// The signatures of the records of a type, if they are wanted.
    fn signatures<'r>(
        self,
        records: &'r [Record],
        record_type: RecordType,
    ) -> impl Iterator<Item = &'r Record> + use<'r> {
        signatures(records, record_type).filter(move |_| self.wants_dnssec)
    }

    /// Whether an alias may have records of the type, so that it is not followed (RFC 4035, section 2.5).
    fn stands_beside_an_alias(self) -> bool {
        matches!(self.qtype, RecordType::CNAME | RecordType::ANY | RecordType::RRSIG | RecordType::NSEC)
    }
}

/// One step: a name without its aliases.
enum Step {
    End(Outcome),
    Alias(Name),
}

impl Zone {
    /// Looks up a name in the zone. `wants_dnssec`: with signatures and proofs, if the zone has them.
    pub fn lookup(&self, name: &Name, qtype: RecordType, wants_dnssec: bool) -> Found {
        let asked = Asked { qtype, wants_dnssec };
        let mut found = Found {
            outcome: Outcome::Answer,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        };
        let mut name = name.clone();
        for _ in 0..=MAX_ALIASES {
            match self.step(&name, asked, &mut found) {
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

    fn step(&self, qname: &Name, asked: Asked, found: &mut Found) -> Step {
        let name = LowerName::new(qname);
        if let Some(step) = self.above(qname, &name, asked, found) {
            return step;
        }
        let own = self.node(&name);
        if own.is_some() || self.has_descendant(&name) {
            let step = self.at(own.unwrap_or_default(), qname, asked, found);
            if matches!(step, Step::End(Outcome::NoData)) {
                self.prove(Absent::Type(&name), asked, found);
            }
            return step;
        }
        // The apex exists.
        let encloser = self.closest_encloser(&name).unwrap_or_else(|| LowerName::new(&self.origin));
        match below(&encloser).filter(|wildcard| self.exists(wildcard)) {
            Some(wildcard) => {
                let step = self.at(self.node(&wildcard).unwrap_or_default(), qname, asked, found);
                let absent = match step {
                    Step::End(Outcome::NoData) => Absent::TypeOfWildcard(&name, &encloser),
                    Step::End(_) | Step::Alias(_) => Absent::Closer(&name, &encloser),
                };
                self.prove(absent, asked, found);
                step
            }
            None => {
                let step = self.denial(Outcome::NxDomain, asked, found);
                self.prove(Absent::Name(&name, &encloser), asked, found);
                step
            }
        }
    }

    /// Adds the proof of a fact, if it is wanted.
    fn prove(&self, absent: Absent<'_>, asked: Asked, found: &mut Found) {
        let Some(chain) = self.chain.as_ref().filter(|_| asked.wants_dnssec) else { return };
        for record in chain.proof(absent, &self.origin, &self.nodes, &self.hashed) {
            // Two aliases may need the same.
            if !found.authorities.contains(&record) {
                found.authorities.push(record);
            }
        }
    }

    /// The DNAME or the zone cut above a name, or the cut at it, from the apex downwards.
    fn above(&self, qname: &Name, name: &LowerName, asked: Asked, found: &mut Found) -> Option<Step> {
        let apex = self.origin.iter().count();
        for labels in apex..=qname.iter().count() {
            let at = LowerName::from(qname.trim_to(labels));
            let Some(records) = self.node(&at) else { continue };
            let is_whole = at == *name;
            if !is_whole && let Some(record) = of_type(records, RecordType::DNAME).next() {
                found.answers.push(record.clone());
                found.answers.extend(asked.signatures(records, RecordType::DNAME).cloned());
                let step = substitute(record, qname, labels, found);
                let is_answer =
                    matches!((&step, asked.qtype), (Step::Alias(_), RecordType::CNAME | RecordType::ANY));
                return Some(if is_answer { Step::End(Outcome::Answer) } else { step });
            }
            let is_cut = labels > apex && of_type(records, RecordType::NS).next().is_some();
            // The parent answers for DS (RFC 4035, section 3.1.4.1).
            if is_cut && !(is_whole && asked.qtype == RecordType::DS) {
                let servers: Vec<Record> = of_type(records, RecordType::NS).cloned().collect();
                let is_below = |name: &Name| at.zone_of(&LowerName::new(name));
                found.additionals.extend(self.addresses(&servers, is_below, asked));
                found.authorities.extend(servers);
                self.refer(records, &at, asked, found);
                return Some(Step::End(Outcome::Referral));
            }
        }
        None
    }

    /// Adds the DS records of a delegation, or the proof that there are none (RFC 4035, section 3.1.4).
    fn refer(&self, records: &[Record], at: &LowerName, asked: Asked, found: &mut Found) {
        if !asked.wants_dnssec {
            return;
        }
        match of_type(records, RecordType::DS).next() {
            None => self.prove(Absent::Type(at), asked, found),
            Some(_) => {
                found.authorities.extend(of_type(records, RecordType::DS).cloned());
                found.authorities.extend(signatures(records, RecordType::DS).cloned());
            }
        }
    }

    /// The records of a name, or of the wildcard that matches it.
    fn at(&self, records: &[Record], qname: &Name, asked: Asked, found: &mut Found) -> Step {
        let qtype = asked.qtype;
        let owned = |record: &Record| Record::from_rdata(qname.clone(), record.ttl, record.data.clone());
        if let Some(alias) = of_type(records, RecordType::CNAME).next()
            && let RData::CNAME(CNAME(target)) = &alias.data
            && !asked.stands_beside_an_alias()
        {
            found.answers.push(owned(alias));
            found.answers.extend(asked.signatures(records, RecordType::CNAME).map(owned));
            return Step::Alias(target.clone());
        }
        let answers: Vec<Record> = if qtype == RecordType::ANY {
            records.iter().map(owned).collect()
        } else {
            of_type(records, qtype).map(owned).collect()
        };
        if answers.is_empty() {
            return self.denial(Outcome::NoData, asked, found);
        }
        found.additionals.extend(self.addresses(&answers, |name| self.origin.zone_of(name), asked));
        found.answers.extend(answers);
        found.answers.extend(asked.signatures(records, qtype).map(owned));
        // As in CoreDNS; but an answer with the servers needs them once.
        let is_apex = LowerName::new(qname) == LowerName::new(&self.origin);
        if !(is_apex && matches!(qtype, RecordType::NS | RecordType::ANY)) {
            let apex = self.node(&LowerName::new(&self.origin)).unwrap_or_default();
            found.authorities.extend(of_type(apex, RecordType::NS).cloned());
            found.authorities.extend(asked.signatures(apex, RecordType::NS).cloned());
        }
        Step::End(Outcome::Answer)
    }

    fn denial(&self, outcome: Outcome, asked: Asked, found: &mut Found) -> Step {
        let apex = self.node(&LowerName::new(&self.origin)).unwrap_or_default();
        let signatures = asked.signatures(apex, RecordType::SOA);
        for mut record in [&self.soa].into_iter().chain(signatures).cloned() {
            if let RData::SOA(data) = &self.soa.data {
                // RFC 2308, section 3.
                record.ttl = record.ttl.min(data.minimum);
            }
            found.authorities.push(record);
        }
        Step::End(outcome)
    }

    /// The longest name above this one that exists (RFC 4592, section 3.3.1).
    fn closest_encloser(&self, name: &LowerName) -> Option<LowerName> {
        let apex = self.origin.iter().count();
        let above = (apex..name.iter().count()).rev().map(|labels| LowerName::from(name.trim_to(labels)));
        above.into_iter().find(|name| self.exists(name))
    }

    /// The addresses of the names in these records, each name once, if the name is wanted.
    fn addresses(&self, records: &[Record], is_wanted: impl Fn(&Name) -> bool, asked: Asked) -> Vec<Record> {
        let mut targets: Vec<&Name> =
            records.iter().filter_map(target).filter(|name| is_wanted(name)).collect();
        targets.sort_unstable();
        targets.dedup();
        let nodes = targets.into_iter().filter_map(|name| self.node(&LowerName::new(name))).flatten();
        let is_address = |record: &&Record| {
            matches!(set_type(record), RecordType::A | RecordType::AAAA)
                && (asked.wants_dnssec || record.record_type() != RecordType::RRSIG)
        };
        nodes.filter(is_address).cloned().collect()
    }
}

/// The wildcard below a name.
fn below(name: &LowerName) -> Option<LowerName> {
    name.prepend_label("*").ok().map(LowerName::from)
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

/// Adds the CNAME record that follows from a DNAME record for a name `labels` above whose top it stands.
fn substitute(record: &Record, qname: &Name, labels: usize, found: &mut Found) -> Step {
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

#[cfg(test)]
mod tests;

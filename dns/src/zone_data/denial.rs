//! Proofs that a name has no records of a type, or does not exist: the NSEC records (RFC 4035, section 3.1.3) or the
//! NSEC3 records (RFC 5155, section 7.2) of a zone that was signed before it was read.
//!
//! Both form a chain in canonical order: the owner of a record *matches* its own name, and its record *covers* the names
//! between it and the next owner. With NSEC3 the owners are hashes of the names.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE32_DNSSEC;
use hickory_server::proto::rr::{LowerName, Name, Record, RecordType};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use super::{
    signature::{octets, of_type, set_type, signatures},
    words::labels,
};

/// Limit of the additional iterations of a hash, of which a query takes up to three times as many as labels are opted out,
/// and three. Validators take 50 or 150 at the most, and signers should use none (RFC 9276, section 3).
const MAX_ITERATIONS: u16 = 150;
/// The only algorithm of hashes: SHA-1.
const SHA1: u8 = 1;

/// The chain of a zone.
#[derive(Debug)]
pub(super) struct Chain {
    owners: BTreeSet<LowerName>,
    /// `None`: NSEC.
    hash: Option<Hash>,
}

/// The parameters of the NSEC3 records.
#[derive(Debug, PartialEq, Eq)]
struct Hash {
    iterations: u16,
    salt: Vec<u8>,
}

/// A fact that needs a proof.
#[derive(Debug, Clone, Copy)]
pub(super) enum Absent<'n> {
    /// The name has no records of the type.
    Type(&'n LowerName),
    /// The name does not exist below the closest encloser, and there is no wildcard.
    Name(&'n LowerName, &'n LowerName),
    /// The name does not exist below the closest encloser; its wildcard stands for it.
    Closer(&'n LowerName, &'n LowerName),
    /// So it does, without records of the type.
    TypeOfWildcard(&'n LowerName, &'n LowerName),
}

/// The NSEC3 records of a zone with their signatures, by owner.
pub(super) type Hashed = BTreeMap<LowerName, Vec<Record>>;

/// Moves the NSEC3 records, and their signatures, out of the names of a zone: these owners do not exist for queries (RFC
/// 5155, section 7.2.8).
pub(super) fn take_hashed(nodes: &mut BTreeMap<LowerName, Vec<Record>>) -> Hashed {
    let mut hashed = Hashed::new();
    nodes.retain(|name, records| {
        if of_type(records, RecordType::NSEC3).next().is_none() {
            return true;
        }
        let is_hashed = |record: &mut Record| set_type(record) == RecordType::NSEC3;
        hashed.insert(name.clone(), records.extract_if(.., is_hashed).collect());
        !records.is_empty()
    });
    hashed
}

impl Chain {
    /// The chain of a zone with this apex. NSEC precedes, as a zone that changes to NSEC3 has it until it is complete
    /// (RFC 5155, section 10.4). `None`: the zone is not signed, or has hashes of an unknown algorithm. Errors: too many
    /// iterations.
    pub(super) fn new(
        apex: &[Record],
        nodes: &BTreeMap<LowerName, Vec<Record>>,
        hashed: &Hashed,
    ) -> Result<Option<Self>, u16> {
        if of_type(apex, RecordType::NSEC).next().is_some() {
            let has_it = |records: &[Record]| of_type(records, RecordType::NSEC).next().is_some();
            let owners = nodes.iter().filter(|(_, records)| has_it(records)).map(|(name, _)| name.clone());
            return Ok(Some(Self { owners: owners.collect(), hash: None }));
        }
        let Some(hash) = of_type(apex, RecordType::NSEC3PARAM).find_map(Hash::published) else {
            return Ok(None);
        };
        if hash.iterations > MAX_ITERATIONS {
            return Err(hash.iterations);
        }
        let has_it = |records: &[Record]| records.iter().any(|record| hash.is_of(record));
        let owners = hashed.iter().filter(|(_, records)| has_it(records)).map(|(name, _)| name.clone());
        Ok(Some(Self { owners: owners.collect(), hash: Some(hash) }))
    }

    /// The records that prove a fact, with their signatures.
    pub(super) fn proof(
        &self,
        absent: Absent<'_>,
        zone: &Name,
        nodes: &BTreeMap<LowerName, Vec<Record>>,
        hashed: &Hashed,
    ) -> Vec<Record> {
        let mut records = Vec::<Record>::new();
        let mut owners = self.owners(absent, zone).unwrap_or_default();
        owners.sort_unstable();
        owners.dedup();
        for owner in owners {
            let (own, record_type) = match &self.hash {
                None => (nodes.get(owner), RecordType::NSEC),
                Some(_) => (hashed.get(owner), RecordType::NSEC3),
            };
            let own = own.map(Vec::as_slice).unwrap_or_default();
            let is_of_chain = |record: &&Record| self.hash.as_ref().is_none_or(|hash| hash.is_of(record));
            records.extend(of_type(own, record_type).filter(is_of_chain).cloned());
            records.extend(signatures(own, record_type).cloned());
        }
        records
    }

    fn matching(&self, name: &LowerName) -> Option<&LowerName> {
        self.owners.get(name)
    }

    /// The owner at a name or before it; the last one before the first.
    fn up_to(&self, name: &LowerName) -> Option<&LowerName> {
        self.owners.range(..=name).next_back().or_else(|| self.owners.last())
    }

    fn owners(&self, absent: Absent<'_>, zone: &Name) -> Option<Vec<&LowerName>> {
        match &self.hash {
            None => self.of_names(absent),
            Some(hash) => self.of_hashes(absent, zone, hash),
        }
    }

    /// RFC 4035, section 3.1.3. The record before an empty non-terminal covers it.
    fn of_names(&self, absent: Absent<'_>) -> Option<Vec<&LowerName>> {
        let mut owners = match absent {
            Absent::Type(name) | Absent::Closer(name, _) => vec![self.up_to(name)?],
            Absent::Name(name, encloser) | Absent::TypeOfWildcard(name, encloser) => {
                vec![self.up_to(name)?, self.up_to(&wildcard(encloser)?)?]
            }
        };
        owners.dedup();
        Some(owners)
    }

    /// RFC 5155, section 7.2.
    fn of_hashes(&self, absent: Absent<'_>, zone: &Name, hash: &Hash) -> Option<Vec<&LowerName>> {
        let of = |name: &LowerName| hash.owner(name, zone);
        match absent {
            Absent::Type(name) => match self.matching(&of(name)?) {
                Some(owner) => Some(vec![owner]),
                // Opted out: sections 7.2.4 and 7.2.7.
                None => self.closest(name, &parent(name), &of).map(|(owners, _)| owners),
            },
            Absent::Closer(name, encloser) => {
                let closer = LowerName::from(name.trim_to(encloser.iter().count() + 1));
                Some(vec![self.up_to(&of(&closer)?)?])
            }
            Absent::Name(name, encloser) | Absent::TypeOfWildcard(name, encloser) => {
                let (mut owners, encloser) = self.closest(name, encloser, &of)?;
                owners.push(self.up_to(&of(&wildcard(&encloser)?)?)?);
                Some(owners)
            }
        }
    }

    /// The proof of the closest encloser that can be proven (section 7.2.1): the owner that matches it, and the one that
    /// covers the next closer name.
    fn closest<'c>(
        &'c self,
        name: &LowerName,
        encloser: &LowerName,
        of: &impl Fn(&LowerName) -> Option<LowerName>,
    ) -> Option<(Vec<&'c LowerName>, LowerName)> {
        for labels in (0..=encloser.iter().count()).rev() {
            let at = LowerName::from(encloser.trim_to(labels));
            if let Some(matching) = self.matching(&of(&at)?) {
                let closer = LowerName::from(name.trim_to(labels + 1));
                return Some((vec![matching, self.up_to(&of(&closer)?)?], at));
            }
        }
        None
    }
}

impl Hash {
    /// The parameters in an NSEC3PARAM record; `None`: the chain is not to be used.
    fn published(record: &Record) -> Option<Self> {
        // Flags are reserved (RFC 5155, section 4.1.2).
        let [SHA1, 0, high, low, _, salt @ ..] = octets(&record.data) else { return None };
        Some(Self { iterations: u16::from_be_bytes([*high, *low]), salt: salt.to_vec() })
    }

    /// Whether an NSEC3 record has these parameters. Its flag is that of opting out.
    fn is_of(&self, record: &Record) -> bool {
        let [SHA1, _, high, low, length, rest @ ..] = octets(&record.data) else { return false };
        record.record_type() == RecordType::NSEC3
            && u16::from_be_bytes([*high, *low]) == self.iterations
            && rest.get(..usize::from(*length)) == Some(&self.salt)
    }

    /// The owner of the NSEC3 record of a name (section 5).
    fn owner(&self, name: &LowerName, zone: &Name) -> Option<LowerName> {
        let mut input = Vec::new();
        labels(name, &mut input)?;
        for _ in 0..=self.iterations {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(&input);
            context.update(&self.salt);
            input.clear();
            input.extend(context.finish().as_ref());
        }
        zone.prepend_label(BASE32_DNSSEC.encode(&input)).ok().map(LowerName::from)
    }
}

fn wildcard(name: &LowerName) -> Option<LowerName> {
    name.prepend_label("*").ok().map(LowerName::from)
}

fn parent(name: &LowerName) -> LowerName {
    name.base_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes are those of RFC 5155, appendix A, and of `nsec3hash`.
    #[test]
    fn names_are_hashed() {
        let zone = Name::from_ascii("example.").unwrap();
        let salt = vec![0xaa, 0xbb, 0xcc, 0xdd];
        for (name, iterations, salt, want) in [
            ("example.", 12, salt.clone(), "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom"),
            ("A.example.", 12, salt.clone(), "35mthgpgcu1qg68fab165klnsnk3dpvl"),
            ("*.w.example.", 12, salt, "r53bq7cc2uvmubfu5ocmm6pers9tk9en"),
            ("example.", 0, vec![], "3msev9usmd4br9s97v51r2tdvmr9iqo1"),
        ] {
            let hash = Hash { iterations, salt };
            let owner = hash.owner(&LowerName::new(&Name::from_ascii(name).unwrap()), &zone).unwrap();
            assert_eq!(owner.to_string(), format!("{want}.example."), "{name}");
        }
    }
}

//! Zones that BIND has signed. A validator judges the proofs in `tests/tests/dns_validation.rs`; these are their records.

use std::path::Path;

use super::*;
use crate::zone_data::{Invalid, parse};

const CHAINS: [&str; 3] = ["nsec", "nsec3", "nsec3-opt-out"];

fn signed(chain: &str) -> Zone {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/signed")).join(chain);
    parse(&path, &Name::from_ascii("example.org.").unwrap()).unwrap()
}

fn found(zone: &Zone, name: &str, qtype: RecordType, wants_dnssec: bool) -> Found {
    let name = if name.is_empty() { "example.org.".to_owned() } else { format!("{name}.example.org.") };
    zone.lookup(&Name::from_ascii(name).unwrap(), qtype, wants_dnssec)
}

/// The types of some records, in a row; `*` behind the type of a set that has a signature.
fn types(records: &[Record]) -> String {
    let unsigned: Vec<&Record> =
        records.iter().filter(|record| record.record_type() != RecordType::RRSIG).collect();
    let text = |record: &&Record| {
        let of_set = records.iter().filter(|other| {
            other.name == record.name && set_type(other) == record.record_type() && other.ttl == record.ttl
        });
        let is_signed = of_set.filter(|other| other.record_type() == RecordType::RRSIG).count() > 0;
        format!("{}{}", record.record_type(), if is_signed { "*" } else { "" })
    };
    unsigned.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The owners of NSEC records below the zone.
fn owners(records: &[Record]) -> Vec<String> {
    let owner = |record: &Record| {
        let name = record.name.to_string().to_lowercase();
        name.strip_suffix("example.org.").unwrap_or(&name).trim_end_matches('.').to_owned()
    };
    of_type(records, RecordType::NSEC).map(owner).collect()
}

/// Name and type; answer and authority without NSEC and NSEC3 records; the owners of the NSEC records; the numbers of NSEC3
/// records without and with opting out.
type Case = (&'static str, RecordType, &'static str, &'static str, &'static [&'static str], [usize; 2]);

const SIGNED: &[Case] = &[
    ("www", RecordType::A, "A*", "NS* NS*", &[], [0, 0]),
    ("", RecordType::DNSKEY, "DNSKEY* DNSKEY*", "NS* NS*", &[], [0, 0]),
    ("", RecordType::SOA, "SOA*", "NS* NS*", &[], [0, 0]),
    ("alias", RecordType::A, "CNAME* A*", "NS* NS*", &[], [0, 0]),
    ("", RecordType::MX, "MX*", "NS* NS*", &[], [0, 0]),
    ("out", RecordType::A, "CNAME*", "", &[], [0, 0]),
    // No records of the type; an empty non-terminal has no NSEC record, but one for its hash.
    ("www", RecordType::AAAA, "", "SOA*", &["www"], [1, 1]),
    ("below.it", RecordType::A, "", "SOA*", &["insecure"], [1, 1]),
    // No name, and no wildcard.
    ("none", RecordType::A, "", "SOA*", &["mail", ""], [3, 3]),
    ("x.y.www", RecordType::A, "", "SOA*", &["www"], [3, 3]),
    ("broken", RecordType::A, "CNAME*", "SOA*", &["mail", ""], [3, 3]),
    // A wildcard, its alias, and one without records of the type.
    ("a.b.wild", RecordType::A, "A*", "NS* NS*", &["*.wild"], [1, 1]),
    ("x.aka", RecordType::A, "CNAME* A*", "NS* NS*", &["*.aka"], [1, 1]),
    ("chain", RecordType::A, "CNAME* A*", "NS* NS*", &["*.wild"], [1, 1]),
    ("a.wild", RecordType::AAAA, "", "SOA*", &["*.wild"], [3, 2]),
    ("x.real.wild", RecordType::A, "", "SOA*", &["real.wild"], [3, 3]),
    ("tree", RecordType::A, "", "SOA*", &["tree"], [1, 1]),
    ("a.tree", RecordType::A, "DNAME* CNAME A*", "NS* NS*", &[], [0, 0]),
    // Delegations: DS records, or the proof that there are none. An unsigned one is opted out.
    ("host.secure", RecordType::A, "", "NS DS*", &[], [0, 0]),
    ("secure", RecordType::DS, "DS*", "NS* NS*", &[], [0, 0]),
    ("x.insecure", RecordType::A, "", "NS", &["insecure"], [1, 2]),
    ("insecure", RecordType::DS, "", "SOA*", &["insecure"], [1, 2]),
    ("x.lone.ent", RecordType::A, "", "NS", &["lone.ent"], [1, 2]),
    ("ent", RecordType::A, "", "SOA*", &["chain"], [1, 2]),
];

#[test]
fn answers_of_signed_zones_carry_signatures_and_proofs() {
    for chain in CHAINS {
        let zone = signed(chain);
        for (name, qtype, answers, authorities, nsec, nsec3) in SIGNED.iter().copied() {
            let case = format!("{chain}: {name} {qtype}");
            let found = found(&zone, name, qtype, true);
            assert_eq!(types(&found.answers), answers, "{case}");
            let is_proof =
                |record: &&Record| matches!(set_type(record), RecordType::NSEC | RecordType::NSEC3);
            let (proofs, others): (Vec<&Record>, Vec<&Record>) = found.authorities.iter().partition(is_proof);
            let [proofs, others] = [proofs, others].map(|all| all.into_iter().cloned().collect::<Vec<_>>());
            assert_eq!(types(&others), authorities, "{case}");
            match chain {
                "nsec" => {
                    let mut got = owners(&proofs);
                    got.sort_unstable_by(|one, other| other.cmp(one));
                    let mut want = nsec.to_vec();
                    want.sort_unstable_by(|one, other| other.cmp(one));
                    assert_eq!(got, want, "{case}");
                }
                _ => {
                    let want = nsec3[usize::from(chain == "nsec3-opt-out")];
                    assert_eq!(of_type(&proofs, RecordType::NSEC3).count(), want, "{case}");
                }
            }
            assert_eq!(types(&proofs).matches('*').count(), proofs.len() / 2, "{case}");
        }
    }
}

#[test]
fn nothing_is_signed_for_those_who_do_not_want_it() {
    let is_dnssec = |record: &Record| {
        matches!(set_type(record), RecordType::NSEC | RecordType::NSEC3)
            || record.record_type() == RecordType::RRSIG
    };
    for chain in CHAINS {
        let zone = signed(chain);
        for (name, qtype, ..) in SIGNED {
            let Found { answers, authorities, additionals, .. } = found(&zone, name, *qtype, false);
            let all = [answers, authorities, additionals].concat();
            assert!(!all.iter().any(is_dnssec), "{chain}: {name} {qtype}");
        }
        // Unless they ask for them.
        let types = types(&found(&zone, "", RecordType::RRSIG, false).answers);
        assert_eq!(types, "", "only signatures");
        assert!(found(&zone, "", RecordType::RRSIG, false).answers.len() >= 6);
    }
}

/// RFC 5155, section 7.2.8; and all of it is transferred.
#[test]
fn owners_of_hashes_do_not_exist_but_are_transferred() {
    let zone = signed("nsec3");
    let hashed: Vec<Record> =
        zone.records().filter(|record| record.record_type() == RecordType::NSEC3).cloned().collect();
    assert!(hashed.len() > 20, "{}", hashed.len());
    let found = zone.lookup(&hashed[0].name, RecordType::NSEC3, true);
    assert_eq!(found.outcome, Outcome::NxDomain);
    assert!(of_type(&found.authorities, RecordType::NSEC3).count() >= 2);
    let signatures = zone.records().filter(|record| set_type(record) == RecordType::NSEC3).count();
    assert_eq!(signatures, 2 * hashed.len());
    assert_eq!(
        zone.nodes.values().flatten().filter(|record| set_type(record) == RecordType::NSEC3).count(),
        0
    );
}

/// RFC 4035, section 2.5.
#[test]
fn signatures_and_proofs_stand_beside_an_alias() {
    let zone = signed("nsec");
    for (qtype, want) in
        [(RecordType::NSEC, "NSEC*"), (RecordType::ANY, "CNAME* NSEC*"), (RecordType::RRSIG, "")]
    {
        let found = found(&zone, "alias", qtype, true);
        assert_eq!(types(&found.answers), want, "{qtype}");
        assert!(found.answers.iter().all(|record| record.name.to_string().starts_with("alias.")), "{qtype}");
    }
}

/// Each signature has the TTL of its set (RFC 4034, section 3).
#[test]
fn signatures_keep_their_ttl() {
    let zone = signed("nsec");
    let ttls = |qtype| -> Vec<u32> {
        found(&zone, "www", qtype, true).answers.iter().map(|record| record.ttl).collect()
    };
    assert_eq!(ttls(RecordType::A), [3600, 3600]);
    assert_eq!(ttls(RecordType::NSEC), [300, 300]);
}

#[test]
fn invalid_signatures_are_told_once() {
    const BEFORE: u32 = 1_767_225_600;
    const AFTER: u32 = 2_840_140_800;
    for (now, want) in [
        (BEFORE, None),
        (AFTER, None),
        (BEFORE - 1, Some(Invalid::NotYetValid)),
        (AFTER + 1, Some(Invalid::Expired)),
    ] {
        let zone = signed("nsec");
        assert_eq!(zone.invalid_signatures(now), want, "{now}");
        assert_eq!(zone.invalid_signatures(now), None, "{now}, again");
    }
}

/// While a zone changes from one chain to another, the published one is used whole.
#[test]
fn only_the_published_chain_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zone");
    let text = "\
@ SOA ns c 1 1 1 1 60
@ NS ns
@ NSEC3PARAM 1 0 0 -
3msev9usmd4br9s97v51r2tdvmr9iqo1 NSEC3 1 0 0 - 3msev9usmd4br9s97v51r2tdvmr9iqo1 NS SOA
5msev9usmd4br9s97v51r2tdvmr9iqo1 NSEC3 1 0 5 aabb 5msev9usmd4br9s97v51r2tdvmr9iqo1 NS SOA
";
    for (text, want) in [
        (text.to_owned(), "3msev9usmd4br9s97v51r2tdvmr9iqo1"),
        (format!("{text}@ NSEC @ NS SOA\n"), ""),
        (text.replace("NSEC3PARAM 1 0 0", "NSEC3PARAM 1 1 0"), "none"),
        (text.replace("NSEC3PARAM 1 0 0", "NSEC3PARAM 2 0 0"), "none"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let zone = parse(&path, &Name::from_ascii("example.").unwrap()).unwrap();
        let asked = |name: &str| zone.lookup(&Name::from_ascii(name).unwrap(), RecordType::MX, true);
        // The hashes of the second one and of the wildcard are between those of the two chains and the end.
        let proofs = [asked("example."), asked("x.example.")].map(|found| found.authorities).concat();
        let mut owners: Vec<String> = proofs
            .iter()
            .filter(|record| record.record_type() != RecordType::SOA)
            .map(|record| {
                record.name.to_string().trim_end_matches("example.").trim_end_matches('.').to_owned()
            })
            .collect();
        owners.dedup();
        let want: &[&str] = if want == "none" { &[] } else { &[want] };
        assert_eq!(owners, want, "{text}");
    }
}

//! The labels of qtypes and response codes, as in CoreDNS.

use std::borrow::Cow;

use hickory_server::proto::{op::ResponseCode, rr::RecordType};

/// Types with a label of their own, by number; all others are `other`.
pub(super) const TYPES: [(u16, &str); 19] = [
    (1, "A"),
    (28, "AAAA"),
    (5, "CNAME"),
    (48, "DNSKEY"),
    (43, "DS"),
    (15, "MX"),
    (2, "NS"),
    (47, "NSEC"),
    (50, "NSEC3"),
    (12, "PTR"),
    (46, "RRSIG"),
    (6, "SOA"),
    (33, "SRV"),
    (16, "TXT"),
    (65, "HTTPS"),
    (64, "SVCB"),
    (252, "AXFR"),
    (251, "IXFR"),
    (255, "ANY"),
];

/// The index of a type in [`TYPES`], or its length for other types.
pub(super) fn type_index(qtype: RecordType) -> usize {
    let number = u16::from(qtype);
    TYPES.iter().position(|(known, _)| *known == number).unwrap_or(TYPES.len())
}

pub(super) fn type_name(index: usize) -> &'static str {
    TYPES.get(index).map_or(OTHER, |(_, name)| name)
}

const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
    "NOTAUTH", "NOTZONE",
];
const BADVERS: u16 = 16;
const OTHER: &str = "other";

/// The number of labels: [`RCODES`], BADVERS, and `other`.
pub(super) const RCODE_COUNT: usize = RCODES.len() + 2;

pub(super) fn rcode_index(rcode: ResponseCode) -> usize {
    match u16::from(rcode) {
        BADVERS => RCODES.len(),
        number => {
            usize::from(number).min(RCODES.len() + 1) + usize::from(usize::from(number) == RCODES.len())
        }
    }
}

pub(super) fn rcode_name(index: usize) -> &'static str {
    RCODES.get(index).copied().unwrap_or(if index == RCODES.len() { "BADVERS" } else { OTHER })
}

/// The name of a response code, or its number if it has none.
pub fn rcode_word(rcode: ResponseCode) -> Cow<'static, str> {
    match rcode_name(rcode_index(rcode)) {
        OTHER => u16::from(rcode).to_string().into(),
        word => word.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_coredns() {
        for (qtype, want) in [
            (RecordType::A, "A"),
            (RecordType::HTTPS, "HTTPS"),
            (RecordType::ANY, "ANY"),
            (RecordType::IXFR, "IXFR"),
            (RecordType::CAA, "other"),
            (RecordType::Unknown(4711), "other"),
        ] {
            assert_eq!(type_name(type_index(qtype)), want);
        }
        for (rcode, want) in [
            (ResponseCode::NoError, "NOERROR"),
            (ResponseCode::Refused, "REFUSED"),
            (ResponseCode::NotZone, "NOTZONE"),
            (ResponseCode::BADVERS, "BADVERS"),
            (ResponseCode::Unknown(11), "other"),
            (ResponseCode::Unknown(4095), "other"),
        ] {
            assert_eq!(rcode_name(rcode_index(rcode)), want);
        }
    }
}

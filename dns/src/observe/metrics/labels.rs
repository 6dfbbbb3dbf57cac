//! The labels of qtypes and response codes, as in CoreDNS.

use std::borrow::Cow;

use hickory_server::proto::{op::ResponseCode, rr::RecordType};

/// Types with a label of their own; all others are `other`.
pub(super) const TYPES: [&str; 19] = [
    "A", "AAAA", "CNAME", "DNSKEY", "DS", "MX", "NS", "NSEC", "NSEC3", "PTR", "RRSIG", "SOA", "SRV", "TXT",
    "HTTPS", "SVCB", "AXFR", "IXFR", "ANY",
];

/// The index of a type in [`TYPES`], or its length for other types.
pub(super) fn type_index(qtype: RecordType) -> usize {
    let number = u16::from(qtype);
    const NUMBERS: [u16; TYPES.len()] =
        [1, 28, 5, 48, 43, 15, 2, 47, 50, 12, 46, 6, 33, 16, 65, 64, 252, 251, 255];
    NUMBERS.iter().position(|known| *known == number).unwrap_or(TYPES.len())
}

pub(super) fn type_name(index: usize) -> &'static str {
    TYPES.get(index).copied().unwrap_or(OTHER)
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

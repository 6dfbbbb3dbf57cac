//! Records of the cluster's zones as those of a message.

use hickory_server::proto::rr::{
    Name, RData, Record,
    rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT},
};

use crate::cluster::{
    answer::{AnswerData, AnswerRecord, Owner, Soa},
    zone::Dashed,
};

/// `question`: the owner of a record of the question's name.
pub(super) fn record(from: &AnswerRecord<'_>, question: &Name) -> Record {
    Record::from_rdata(name(from.owner, question), from.ttl, data(&from.data, question))
}

fn data(data: &AnswerData<'_>, question: &Name) -> RData {
    match data {
        AnswerData::A(address) => RData::A(A(*address)),
        AnswerData::Aaaa(address) => RData::AAAA(AAAA(*address)),
        AnswerData::Srv { weight, port, target } => {
            RData::SRV(SRV::new(0, *weight, *port, name(*target, question)))
        }
        AnswerData::Ptr(target) => RData::PTR(PTR(name(*target, question))),
        AnswerData::Cname(target) => RData::CNAME(CNAME(target.to_hickory())),
        AnswerData::Ns(target) => RData::NS(NS(name(*target, question))),
        AnswerData::Txt(text) => RData::TXT(TXT::new(vec![(*text).to_owned()])),
        AnswerData::Soa(soa) => RData::SOA(soa_data(*soa)),
        AnswerData::HostInfo => RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())),
    }
}

fn soa_data(Soa { zone, serial, minimum }: Soa<'_>) -> SOA {
    let server = name(Owner::NameServer(zone), &Name::root());
    let hostmaster =
        Name::from_labels([b"hostmaster".as_slice()].into_iter().chain(zone.labels())).unwrap_or_default();
    let [refresh, retry, expire] = Soa::TIMERS.map(u32::cast_signed);
    SOA::new(server, hostmaster, serial, refresh, retry, expire, minimum)
}

fn name(owner: Owner<'_>, question: &Name) -> Name {
    match owner {
        Owner::Question => question.clone(),
        // Too long only in a zone with many labels and with long names; the target is then the root.
        Owner::Whole(_) | Owner::NameServer(_) | Owner::Service { .. } => {
            Name::from_labels(owner.labels(&mut Dashed::default())).unwrap_or_default()
        }
    }
}

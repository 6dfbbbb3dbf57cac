//! `any`: queries for ANY get one HINFO record (RFC 8482, section 4.2).

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::{RData, Record, RecordType, rdata::HINFO},
};

use super::directive::{LocalPlugin, Switch};
use crate::{cluster::name::QueryName, observe::metrics::Plugin, resolve::reply::Reply};

#[derive(Debug)]
pub(super) struct Any;

/// CoreDNS's TTL, the number of the RFC.
const TTL: u32 = 8482;

impl Switch for Any {
    const NAME: &'static str = "any";
    const SUMMARY: &'static str = "one HINFO record for queries of type ANY";

    fn plugin() -> Option<Box<dyn LocalPlugin>> {
        Some(Box::new(Self))
    }
}

impl LocalPlugin for Any {
    fn answer(&self, question: &Query) -> Option<Reply> {
        if question.query_type() != RecordType::ANY {
            return None;
        }
        let data = HINFO::new("ANY obsoleted".to_owned(), "See RFC 8482".to_owned());
        let answers = vec![Record::from_rdata(question.name().clone(), TTL, RData::HINFO(data))];
        Some(Reply { answers, ..Reply::from_plugin(ResponseCode::NoError, Plugin::Any) })
    }

    fn may_answer(&self, _name: &QueryName, qtype: RecordType) -> bool {
        qtype == RecordType::ANY
    }
}

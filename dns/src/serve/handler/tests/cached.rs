//! Cached answers: the fast path gives what the slow path gives.

use hickory_server::proto::{
    op::ResponseCode,
    rr::{
        RData,
        rdata::{AAAA, CNAME, MX, SOA, TXT, opt::EdnsOption},
    },
};

use super::*;
use crate::{
    config::Cache,
    plugins::loadbalance::Loadbalance,
    resolve::forward::fake::{Fake, a, reply_to, wire},
};

fn name(text: &str) -> HickoryName {
    HickoryName::from_ascii(text).unwrap()
}

/// Replies by the first label of the name.
fn upstream_reply(query: &Message) -> Message {
    let (asked, mut reply) = (query.queries[0].name().clone(), reply_to(query));
    let label =
        asked.iter().next().map(|label| String::from_utf8_lossy(label).to_lowercase()).unwrap_or_default();
    let soa = SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, 60);
    match label.as_str() {
        "one" => {
            reply.metadata.authentic_data = true;
            reply.add_answer(a(asked, 300, [192, 0, 2, 1]));
        }
        "many" => (1..=5).for_each(|last| {
            reply.add_answer(a(asked.clone(), 300, [192, 0, 2, last]));
        }),
        "alias" => {
            let target = name("Target.Example.");
            reply.add_answer(Record::from_rdata(asked, 60, RData::CNAME(CNAME(target.clone()))));
            (1..=3).for_each(|last| {
                reply.add_answer(a(target.clone(), 300, [192, 0, 2, last]));
            });
        }
        "six" => {
            for last in 1..=3 {
                let data = RData::AAAA(AAAA(std::net::Ipv6Addr::from(last)));
                reply.add_answer(Record::from_rdata(asked.clone(), 300, data));
            }
        }
        "mail" => (1..=3).for_each(|preference| {
            let data = RData::MX(MX::new(preference, name("mx.example.")));
            reply.add_answer(Record::from_rdata(asked.clone(), 300, data));
        }),
        "text" => {
            let data = RData::TXT(TXT::new(vec!["x".repeat(200); 4]));
            reply.add_answer(Record::from_rdata(asked, 300, data));
            reply.add_authority(Record::from_rdata(name("example."), 90, RData::SOA(soa)));
            reply.add_additional(a(name("ns.example."), 40, [192, 0, 2, 9]));
        }
        "stale" => {
            reply.add_answer(a(asked, 300, [192, 0, 2, 1]));
            let error = EdnsOption::Unknown(15, vec![0, 3]);
            reply.edns.as_mut().unwrap().options_mut().insert(error);
        }
        _ => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.add_authority(Record::from_rdata(name("example."), 90, RData::SOA(soa)));
        }
    }
    reply
}

#[tokio::test]
async fn cached_answers_are_the_same_on_both_paths() {
    let upstream = Fake::start(|query, _| vec![wire(&upstream_reply(query))]).await;
    for (shuffle, keep_ttl, kubernetes) in
        [(false, false, None), (true, true, Some(Kubernetes::shipped(&domain("cluster.local").unwrap())))]
    {
        let block = ServerBlock {
            forwards: vec![Forward::to(vec![Upstream::plain(upstream.address)])],
            cache: Some(Cache { keep_ttl, ..Cache::default() }),
            kubernetes,
            loadbalance: shuffle.then(Loadbalance::round_robin),
            ..ServerBlock::new(vec![Listen::plain(HickoryName::root().into())])
        };
        let (handler, metrics) = handler_of_block(&block, []);
        let mut fast = Vec::new();
        for (label, qtype) in [
            ("one", RecordType::A),
            ("many", RecordType::A),
            ("alias", RecordType::A),
            ("six", RecordType::AAAA),
            ("mail", RecordType::MX),
            ("text", RecordType::TXT),
            ("stale", RecordType::A),
            ("absent", RecordType::A),
        ] {
            for (transport, payload) in [
                (Transport::Udp, None),
                (Transport::Udp, Some(700)),
                (Transport::Udp, Some(1232)),
                (Transport::Tcp, Some(1232)),
            ] {
                let first = request(&format!("{label}.example."), qtype, payload).unwrap();
                if let Handled::Pending(pending) = handler.handle(&first, client(transport)) {
                    pending.finish().await;
                }
                for (flags, name) in
                    [(0, label.to_owned()), (0x20, label.to_uppercase()), (0x10, label.to_owned())]
                {
                    let mut request = request(&format!("{name}.Example."), qtype, payload).unwrap();
                    request[3] |= flags;
                    if let Handled::Pending(pending) = handler.handle(&request, client(transport)) {
                        pending.finish().await;
                    }
                    if compare(&handler, &request, transport) == 1 {
                        fast.push(label);
                    }
                }
            }
        }
        fast.dedup();
        assert_eq!(fast, ["one", "many", "alias", "six", "text", "absent"], "shuffle: {shuffle}");
        let text = metrics.text();
        assert!(text.contains("plugin=\"cache\",rcode=\"NXDOMAIN\""), "{text}");
    }
}

#[tokio::test]
async fn cached_addresses_are_shuffled_on_the_fast_path() {
    let upstream = Fake::start(|query, _| vec![wire(&upstream_reply(query))]).await;
    for (shuffle, want) in [(true, 2..=5), (false, 1..=1)] {
        let block = ServerBlock {
            forwards: vec![Forward::to(vec![Upstream::plain(upstream.address)])],
            cache: Some(Cache::default()),
            loadbalance: shuffle.then(Loadbalance::round_robin),
            ..ServerBlock::new(vec![Listen::plain(HickoryName::root().into())])
        };
        let (handler, _) = handler_of_block(&block, []);
        let request = request("many.example.", RecordType::A, None).unwrap();
        if let Handled::Pending(pending) = handler.handle(&request, client(Transport::Udp)) {
            pending.finish().await;
        }
        let firsts: std::collections::BTreeSet<String> = (0..100)
            .map(|_| {
                let reply = handler.fast_path(&request, client(Transport::Udp), Instant::now()).unwrap();
                Message::from_vec(&reply).unwrap().answers[0].data.to_string()
            })
            .collect();
        assert!(want.contains(&firsts.len()), "{firsts:?}");
    }
}

//! Directives that answer or change single queries: `acl`, `chaos`, `header`, `nsid`, `whoami`.

use std::{fs, sync::Arc};

use hickory_server::proto::{
    op::{Edns, Message, Query},
    rr::{
        DNSClass, Name, Record, RecordType,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use super::{client, handler_of_block};
use crate::{
    cluster::zone::{self, Change, ServiceKey},
    observe::metrics::Transport,
    plugins,
    resolve::forward::ServerContext,
    serve::handler::{Block, Client, Handled, Handler},
};

/// A handler of one block for `.` with these directives.
fn handler(directives: &str) -> Handler {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, format!(". {{\n{directives}\n}}\n")).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    handler_of_block(&config.servers[0], []).0
}

fn problem(directives: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, format!(". {{\n{directives}\n}}\n")).unwrap();
    plugins::read(&path, &|_| None).err().map_or_else(|| "accepted".to_owned(), |error| error.to_string())
}

fn query(name: &str, qtype: RecordType, class: DNSClass) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut query = Query::query(Name::from_ascii(name).unwrap(), qtype);
    query.set_query_class(class);
    message.add_query(query);
    message
}

fn reply(handler: &Handler, query: &Message, transport: Transport) -> Option<Message> {
    match handler.handle(&query.to_vec().unwrap(), client(transport)) {
        Handled::Reply(reply) => Some(Message::from_vec(&reply).unwrap()),
        Handled::Dropped => None,
        Handled::Pending(_) | Handled::Transfer(_) => panic!("nothing is to be forwarded"),
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| format!("{} {} {} {}", record.name, record.ttl, record.dns_class, record.data))
        .collect()
}

#[tokio::test]
async fn clients_are_restricted_by_type_and_network() {
    // The client is 127.0.0.1.
    for (rules, name, qtype, want) in [
        ("block", "a.example.", RecordType::A, "REFUSED 15"),
        ("filter", "a.example.", RecordType::A, "NOERROR 17"),
        ("drop", "a.example.", RecordType::A, "nothing"),
        ("allow", "a.example.", RecordType::A, "NOERROR"),
        ("", "a.example.", RecordType::A, "NOERROR"),
        ("block type AAAA", "a.example.", RecordType::A, "NOERROR"),
        ("block type aaaa a", "a.example.", RecordType::A, "REFUSED 15"),
        ("block type *", "a.example.", RecordType::A, "REFUSED 15"),
        ("block net 10.0.0.0/8", "a.example.", RecordType::A, "NOERROR"),
        ("block net 10.0.0.0/8 127.0.0.1", "a.example.", RecordType::A, "REFUSED 15"),
        ("block net *", "a.example.", RecordType::A, "REFUSED 15"),
        ("block type AAAA net 127.0.0.0/8", "a.example.", RecordType::A, "NOERROR"),
        ("BLOCK NET 127.0.0.0/8 TYPE A", "a.example.", RecordType::A, "REFUSED 15"),
        ("allow net 127.0.0.0/8\n block", "a.example.", RecordType::A, "NOERROR"),
        ("allow net ::/0\n block", "a.example.", RecordType::A, "REFUSED 15"),
        ("filter type A\n block", "a.example.", RecordType::A, "NOERROR 17"),
    ] {
        let handler = handler(&format!(" acl {{\n {rules}\n }}\n whoami"));
        let mut query = query(name, qtype, DNSClass::IN);
        query.set_edns(Edns::new());
        let got = reply(&handler, &query, Transport::Udp).map_or_else(
            || "nothing".to_owned(),
            |reply| {
                let rcode = if reply.metadata.response_code.low() == 5 { "REFUSED" } else { "NOERROR" };
                let error = reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Unknown(15)));
                match error {
                    Some(EdnsOption::Unknown(_, code)) => format!("{rcode} {}", code[1]),
                    _ => rcode.to_owned(),
                }
            },
        );
        assert_eq!(got, want, "{rules}");
    }
    let zones = handler(" acl a.example {\n block\n }\n whoami");
    for (name, is_refused) in [("a.example.", true), ("x.A.example.", true), ("b.example.", false)] {
        let query = query(name, RecordType::A, DNSClass::IN);
        let rcode = reply(&zones, &query, Transport::Udp).unwrap().metadata.response_code;
        assert_eq!(rcode.low() == 5, is_refused, "{name}");
    }
    for (rules, want) in [
        ("deny", "no option of `acl`"),
        ("block types A", "a rule is written"),
        ("block type", "lists nothing"),
        ("block type BOGUS", "`BOGUS` is no type"),
        ("block net 10.0.0.0/99", "neither an address nor a network"),
    ] {
        let got = problem(&format!(" acl {{\n  {rules}\n }}"));
        assert!(got.contains(":3: ") && got.contains(want), "{rules}: {got}");
    }
}

#[tokio::test]
async fn the_class_chaos_tells_of_the_server() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    let named = handler(" chaos Server-1 a@example.org b@example.org");
    let plain = handler(" chaos");
    let version = concat!("portreeve-", env!("CARGO_PKG_VERSION"));
    for (handler, name, want) in [
        (&named, "version.bind.", vec!["Server-1"]),
        (&named, "VERSION.server.", vec!["Server-1"]),
        (&named, "authors.bind.", vec!["a@example.org", "b@example.org"]),
        (&named, "hostname.bind.", vec![host]),
        (&named, "id.server.", vec![host]),
        (&plain, "version.bind.", vec![version]),
        (&plain, "authors.bind.", vec![]),
    ] {
        let reply = reply(handler, &query(name, RecordType::TXT, DNSClass::CH), Transport::Udp).unwrap();
        let want: Vec<String> = want.iter().map(|text| format!("{name} 0 CH {text}")).collect();
        assert_eq!((texts(&reply.answers), reply.metadata.response_code.low()), (want, 0), "{name}");
    }
    let none = handler(" any");
    for (handler, name, qtype) in [
        (&named, "other.bind.", RecordType::TXT),
        (&named, "version.bind.", RecordType::A),
        (&none, "version.bind.", RecordType::TXT),
    ] {
        let reply = reply(handler, &query(name, qtype, DNSClass::CH), Transport::Udp).unwrap();
        assert_eq!(reply.metadata.response_code.low(), 5, "{name}");
    }
}

#[tokio::test]
async fn flags_of_the_header_are_changed() {
    // RD is set by the client, AA by `whoami`; without an upstream RA is clear.
    for (changes, want) in [
        ("response set ra", "aa ra rd"),
        ("response clear aa rd", ""),
        ("response set ra aa\n response clear rd", "aa ra"),
        ("response set ra\n response clear ra", "aa rd"),
        ("QUERY Clear RD", "aa"),
        ("query set rd", "aa rd"),
        ("query set aa ra", "aa rd"),
    ] {
        let handler = handler(&format!(" header {{\n {changes}\n }}\n whoami"));
        let query = query("a.example.", RecordType::A, DNSClass::IN);
        let flags = reply(&handler, &query, Transport::Udp).unwrap().metadata;
        let flags =
            [(flags.authoritative, "aa"), (flags.recursion_available, "ra"), (flags.recursion_desired, "rd")];
        let got: Vec<&str> = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        assert_eq!(got.join(" "), want, "{changes}");
    }
    for (directive, want) in [
        (" header", ":2: `header` changes nothing"),
        (" header {\n  set ra\n }", ":3: write `response set` instead"),
        (" header {\n  response flip ra\n }", ":3: a change is written"),
        (" header {\n  response set\n }", ":3: a change is written"),
        (" header {\n  response set ad\n }", ":3: `ad` cannot be changed"),
        (" header {\n  answer set ra\n }", ":3: `answer` is no option of `header`"),
    ] {
        assert!(problem(directive).contains(want), "{directive}: {}", problem(directive));
    }
}

#[tokio::test]
async fn the_server_is_identified_on_request() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (directive, requests, want) in [
        (" nsid Use The Force", true, Some("Use The Force")),
        (" nsid", true, Some(host.trim())),
        (" nsid x", false, None),
        (" any", true, None),
    ] {
        let handler = handler(&format!("{directive}\n whoami"));
        let mut query = query("a.example.", RecordType::A, DNSClass::IN);
        let mut edns = Edns::new();
        if requests {
            edns.options_mut().insert(EdnsOption::Unknown(3, Vec::new()));
        }
        query.set_edns(edns);
        let edns = reply(&handler, &query, Transport::Udp).unwrap().edns.unwrap();
        let got = match edns.option(EdnsCode::NSID) {
            Some(EdnsOption::NSID(payload)) => Some(payload.as_ref().to_vec()),
            _ => None,
        };
        assert_eq!(got, want.map(|text| text.as_bytes().to_vec()), "{directive}");
    }
}

#[tokio::test]
async fn the_client_is_told_its_address() {
    let handler = handler(" whoami");
    for (name, qtype, transport, service) in [
        ("a.example.", RecordType::A, Transport::Udp, "_udp.a.example."),
        ("A.example.", RecordType::AAAA, Transport::Tcp, "_tcp.A.example."),
        (".", RecordType::MX, Transport::Udp, "_udp."),
    ] {
        let reply = reply(&handler, &query(name, qtype, DNSClass::IN), transport).unwrap();
        assert!(reply.answers.is_empty() && reply.metadata.authoritative, "{name}");
        let want = [format!("{name} 0 IN 127.0.0.1"), format!("{service} 0 IN 0 0 4242 .")];
        assert_eq!(texts(&reply.additionals), want, "{name}");
    }
    let hosts = self::handler(" hosts /nonexistent {\n  10.0.0.1 a.example\n  fallthrough\n }\n whoami");
    let answered = reply(&hosts, &query("a.example.", RecordType::A, DNSClass::IN), Transport::Udp).unwrap();
    assert_eq!(texts(&answered.answers), ["a.example. 3600 IN 10.0.0.1"]);
}

#[tokio::test]
async fn rewrites_come_before_the_rules_for_clients() {
    let hosts = " hosts /nonexistent {\n  10.0.0.1 b.example\n  fallthrough\n }\n whoami";
    for (rules, qtype, class, want) in [
        (" rewrite name a.example b.example", RecordType::A, DNSClass::IN, "0 a.example. 3600 IN 10.0.0.1"),
        (
            " rewrite continue name a.example b.example\n rewrite type MX A",
            RecordType::MX,
            DNSClass::IN,
            "0 a.example. 3600 IN 10.0.0.1",
        ),
        (
            " rewrite continue class CH IN\n rewrite name a.example b.example",
            RecordType::A,
            DNSClass::CH,
            "0 a.example. 3600 IN 10.0.0.1",
        ),
        (" rewrite class IN CH", RecordType::A, DNSClass::IN, "5"),
        (
            " rewrite continue name a.example b.example\n rewrite ttl b.example 7",
            RecordType::A,
            DNSClass::IN,
            "0 a.example. 7 IN 10.0.0.1",
        ),
        (
            " rewrite continue name a.example b.example\n rewrite rcode b.example NOERROR REFUSED",
            RecordType::A,
            DNSClass::IN,
            "5 a.example. 3600 IN 10.0.0.1",
        ),
        (" rewrite name prefix a ..", RecordType::A, DNSClass::IN, "2"),
        (
            " rewrite name a.example b.example\n acl b.example {\n  block\n }",
            RecordType::A,
            DNSClass::IN,
            "5",
        ),
    ] {
        let handler = handler(&format!("{rules}\n{hosts}"));
        let reply = reply(&handler, &query("a.example.", qtype, class), Transport::Udp).unwrap();
        let asked = &reply.queries[0];
        assert_eq!((asked.query_type(), asked.query_class()), (qtype, class), "{rules}");
        let got = format!("{} {}", reply.metadata.response_code.low(), texts(&reply.answers).join(" "));
        assert_eq!(got.trim(), want, "{rules}");
    }
}

/// A handler of all blocks of a Corefile.
fn handler_of(text: &str) -> Handler {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, text).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let context = ServerContext::default();
    let start = |block| Arc::new(Block::start(block, "dns://:53", &[], &context).unwrap());
    let blocks = config.servers.iter().map(start).collect();
    let dropped = context.metrics.queries("dns://:53", "dropped");
    Handler::new(blocks, Arc::default(), dropped)
}

#[tokio::test]
async fn a_view_chooses_the_block() {
    let hosts = |address: &str| format!(" hosts /nonexistent {{\n  {address} a.example\n }}\n");
    let view = |expression: &str| format!(" view v {{\n  expr {expression}\n }}\n");
    let text = format!(
        "example {{\n{}{}}}\nexample {{\n{}{}}}\nexample {{\n{}}}\na.example {{\n{}{}}}\n",
        view("client_ip() == '10.0.0.1'"),
        hosts("10.0.0.1"),
        view("incidr(client_ip(), '127.0.0.0/8') && type() in ['A', 'AAAA'] && server_port() == '53'"),
        hosts("10.0.0.2"),
        hosts("10.0.0.3"),
        view("proto() == 'tcp'"),
        hosts("10.0.0.4"),
    );
    let handler = handler_of(&text);
    for (transport, qtype, want) in [
        (Transport::Udp, RecordType::A, "a.example. 3600 IN 10.0.0.2"),
        (Transport::Udp, RecordType::MX, ""),
        // The longer zone first.
        (Transport::Tcp, RecordType::A, "a.example. 3600 IN 10.0.0.4"),
    ] {
        let reply = reply(&handler, &query("a.example.", qtype, DNSClass::IN), transport).unwrap();
        assert_eq!(texts(&reply.answers).join(" "), want, "{transport:?} {qtype}");
    }
    let only = handler_of(&format!(". {{\n{} whoami\n}}\n", view("false")));
    let reply = reply(&only, &query("a.example.", RecordType::A, DNSClass::IN), Transport::Udp).unwrap();
    assert_eq!(reply.metadata.response_code.low(), 5);
}

/// The reply, also to a request that has to wait.
async fn eventual_reply(handler: &Handler, query: &Message, client: Client) -> Message {
    let reply = match handler.handle(&query.to_vec().unwrap(), client) {
        Handled::Reply(reply) => reply,
        Handled::Dropped => panic!("dropped"),
        Handled::Transfer(_) => panic!("a transfer"),
        Handled::Pending(pending) => pending.finish().await,
    };
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn addresses_are_synthesized_for_clients_over_ipv6() {
    let hosts =
        " hosts /nonexistent {\n  192.0.2.33 a.example\n  192.0.2.34 b.example\n  2001:db8::1 b.example\n }";
    let v4 = "127.0.0.1";
    for (options, address, name, qtype, want) in [
        ("", "::1", "a.example.", RecordType::AAAA, "0 a.example. 600 IN 64:ff9b::c000:221"),
        ("", "::1", "a.example.", RecordType::A, "0 a.example. 3600 IN 192.0.2.33"),
        ("", "::1", "b.example.", RecordType::AAAA, "0 b.example. 3600 IN 2001:db8::1"),
        ("", "::1", "c.example.", RecordType::AAAA, "3"),
        ("", v4, "a.example.", RecordType::AAAA, "0"),
        ("allow_ipv4", v4, "a.example.", RecordType::AAAA, "0 a.example. 600 IN 64:ff9b::c000:221"),
        ("translate_all", "::1", "b.example.", RecordType::AAAA, "0 b.example. 600 IN 64:ff9b::c000:222"),
        (
            "prefix 2001:db8::/96",
            "::1",
            "a.example.",
            RecordType::AAAA,
            "0 a.example. 600 IN 2001:db8::c000:221",
        ),
    ] {
        let handler = handler(&format!("{hosts}\n dns64 {{\n{options}\n }}"));
        let client = Client { address: address.parse().unwrap(), ..client(Transport::Udp) };
        let reply = eventual_reply(&handler, &query(name, qtype, DNSClass::IN), client).await;
        let got = format!("{} {}", reply.metadata.response_code.low(), texts(&reply.answers).join(" "));
        assert_eq!(got.trim(), want, "{options}: {name} {qtype}");
    }
}

#[tokio::test]
async fn files_come_after_the_other_plugins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let zone = "@ SOA ns c 1 1 1 1 60\n@ NS ns\na A 10.0.0.1\nb A 10.0.0.2\nout CNAME c.other.\nloop CNAME loop.other.\n";
    fs::write(&path, zone).unwrap();
    let text = format!(
        "example {{\n file {path}\n hosts /nonexistent {{\n  10.0.0.9 b.example\n  fallthrough\n }}\n}}\n\
         other {{\n hosts /nonexistent {{\n  10.0.0.3 c.other\n  fallthrough\n }}\n template IN A {{\n  match ^loop\n  \
         answer \"loop.other. 5 IN CNAME loop.example.\"\n  fallthrough\n }}\n}}\n",
        path = path.display()
    );
    let handler = handler_of(&text);
    for (name, rcode, want) in [
        ("a.example.", 0, "a.example. 3600 IN 10.0.0.1"),
        ("b.example.", 0, "b.example. 3600 IN 10.0.0.9"),
        ("x.example.", 3, ""),
        ("out.example.", 0, "out.example. 3600 IN c.other. c.other. 3600 IN 10.0.0.3"),
    ] {
        let reply = reply(&handler, &query(name, RecordType::A, DNSClass::IN), Transport::Udp).unwrap();
        assert_eq!(
            (reply.metadata.response_code.low(), texts(&reply.answers).join(" ")),
            (rcode, want.to_owned())
        );
    }
    let reply =
        reply(&handler, &query("loop.example.", RecordType::A, DNSClass::IN), Transport::Udp).unwrap();
    assert!((2..=8).contains(&reply.answers.len()), "a chain ends: {}", reply.answers.len());
}

/// An alias out of a signed zone is followed behind its signature, and `minimal` keeps the proofs.
#[tokio::test]
async fn signatures_are_for_those_who_want_them() {
    let directory = tempfile::tempdir().unwrap();
    let zone = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("@ SOA ns c 1 1 1 1 60\n@ NS ns\n@ NSEC *.w NS SOA\n{text}")).unwrap();
        path.display().to_string()
    };
    let sign = |record_type| format!("RRSIG {record_type} 13 2 60 20600101000000 20260101000000 1 @ AAEC");
    let (of_alias, of_address, of_proof) = (sign("CNAME"), sign("A"), sign("NSEC"));
    let first = zone(
        "db.example",
        &format!(
            "out CNAME a.other.\nout {of_alias}\n*.w A 10.0.0.1\n*.w {of_address}\n*.w NSEC @ A\n*.w {of_proof}\n"
        ),
    );
    let second = zone("db.other", &format!("a A 10.0.0.2\na {of_address}\n"));
    for files in [
        format!("file {first} example\n file {second} other\n"),
        format!("auto {{\n  directory {}\n }}\n", directory.path().display()),
    ] {
        let handler = handler_of(&format!(". {{\n {files} minimal\n}}\n"));
        for (name, wants_dnssec, answers, authorities) in [
            ("out.example.", false, "CNAME A", ""),
            ("out.example.", true, "CNAME RRSIG A RRSIG", ""),
            ("x.w.example.", false, "A", ""),
            ("x.w.example.", true, "A RRSIG", "NSEC RRSIG"),
        ] {
            let mut query = query(name, RecordType::A, DNSClass::IN);
            let mut edns = Edns::new();
            edns.set_dnssec_ok(wants_dnssec).set_max_payload(1232);
            query.set_edns(edns);
            let reply = reply(&handler, &query, Transport::Udp).unwrap();
            let types = |records: &[Record]| {
                records.iter().map(|record| record.record_type().to_string()).collect::<Vec<_>>().join(" ")
            };
            let got = (types(&reply.answers), types(&reply.authorities));
            assert_eq!(got, (answers.to_owned(), authorities.to_owned()), "{name} {wants_dnssec} {files}");
        }
    }
}

/// RFC 4035, section 3.1.4.1.
#[tokio::test]
async fn the_parent_answers_for_the_ds_records_of_a_zone() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("@ SOA ns c 1 1 1 1 60\n@ NS ns\n{text}")).unwrap();
        path.display().to_string()
    };
    let parent = write("db.example", "sub NS ns.sub\nsub DS 1 13 2 00ff\n");
    let child = write("db.sub.example", "a A 10.0.0.1\n");
    for files in [
        format!("file {parent} example\n file {child} sub.example"),
        format!("auto {{\n  directory {}\n }}", directory.path().display()),
    ] {
        let handler = handler_of(&format!(". {{\n {files}\n}}\n"));
        for (name, qtype, want) in [
            ("sub.example.", RecordType::DS, 1),
            ("example.", RecordType::DS, 0),
            ("a.sub.example.", RecordType::A, 1),
            ("a.sub.example.", RecordType::DS, 0),
        ] {
            let reply = reply(&handler, &query(name, qtype, DNSClass::IN), Transport::Udp).unwrap();
            assert!(reply.metadata.authoritative, "{name} {qtype}: {files}");
            assert_eq!(reply.answers.len(), want, "{name} {qtype}: {files}");
        }
    }
}

#[tokio::test]
async fn addresses_are_ordered_by_the_policy() {
    let directory = tempfile::tempdir().unwrap();
    let weights = directory.path().join("weights");
    fs::write(&weights, "www.example\n10.1.0.1 1\n10.2.0.1 255\n").unwrap();
    let query = query("www.example.", RecordType::A, DNSClass::IN);
    let firsts = |policy: &str| {
        let hosts = "hosts {\n 10.1.0.1 www.example\n 10.2.0.1 www.example\n}";
        let handler = handler(&format!("loadbalance {policy}\n{hosts}"));
        let first = || texts(&reply(&handler, &query, Transport::Udp).unwrap().answers)[0].clone();
        (0..200).filter(|_| first().ends_with(" 10.2.0.1")).count()
    };
    assert_eq!(firsts("{\n prefer 10.2.0.0/16\n}"), 200);
    assert_eq!(firsts("{\n prefer 10.3.0.0/16 10.1.0.0/16\n}"), 0);
    // At random; each of these is wrong once in 10^20 runs.
    assert!((30..=170).contains(&firsts("round_robin")));
    assert!(firsts(&format!("weighted {}", weights.display())) > 180);
    for (policy, want) in [
        ("loadbalance weighted", "write `weighted FILE`"),
        ("loadbalance least_conn", "the policies are `round_robin` and `weighted FILE`"),
        ("loadbalance {\n reload 5s\n}", "only the policy `weighted` has a file"),
    ] {
        assert!(problem(policy).contains(want), "{policy}: {}", problem(policy));
    }
}

#[tokio::test]
async fn the_target_of_an_alias_is_replaced() {
    let text = "example {\n rewrite cname suffix .cdn.net. .example.\n template IN A {\n  match ^www\n  \
                answer \"www.example. 5 IN CNAME b.cdn.net.\"\n  answer \"b.cdn.net. 5 IN A 10.0.0.1\"\n  fallthrough\n }\n \
                hosts /nonexistent {\n  10.0.0.2 b.example\n }\n}\n";
    let handler = handler_of(text);
    for (name, want) in [
        ("www.example.", "0 www.example. 5 IN b.example. b.example. 3600 IN 10.0.0.2"),
        ("b.example.", "0 b.example. 3600 IN 10.0.0.2"),
        ("none.example.", "3"),
    ] {
        let query = query(name, RecordType::A, DNSClass::IN);
        let reply = eventual_reply(&handler, &query, client(Transport::Udp)).await;
        let got = format!("{} {}", reply.metadata.response_code.low(), texts(&reply.answers).join(" "));
        assert_eq!(got.trim(), want, "{name}");
    }
}

#[tokio::test]
async fn a_search_list_is_walked_by_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("resolv.conf");
    fs::write(&list, "search one.example two.example\n").unwrap();
    let hosts =
        " hosts /nonexistent {\n  10.0.0.1 a.one.example\n  10.0.0.2 b.two.example\n  10.0.0.3 c.org\n }";
    let handler = handler(&format!("{hosts}\n autopath {}", list.display()));
    for (name, want) in [
        ("a.one.example.", "0 a.one.example. 3600 IN 10.0.0.1"),
        ("b.one.example.", "0 b.one.example. 3600 IN b.two.example. b.two.example. 3600 IN 10.0.0.2"),
        ("C.org.one.example.", "0 C.org.one.example. 3600 IN C.org. C.org. 3600 IN 10.0.0.3"),
        ("none.one.example.", "3"),
        // Not the first of the list.
        ("b.two.example.", "0 b.two.example. 3600 IN 10.0.0.2"),
        ("one.example.", "3"),
    ] {
        let query = query(name, RecordType::A, DNSClass::IN);
        let reply = eventual_reply(&handler, &query, client(Transport::Udp)).await;
        let got = format!("{} {}", reply.metadata.response_code.low(), texts(&reply.answers).join(" "));
        assert_eq!(got.trim(), want, "{name}");
    }
}

#[tokio::test]
async fn a_collector_gets_the_queries_and_the_replies() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("tap.sock");
    let collector = UnixListener::bind(&socket).unwrap();
    let handler = handler(&format!(" dnstap {} full\n whoami", socket.display()));
    let query = query("a.example.", RecordType::A, DNSClass::IN);
    reply(&handler, &query, Transport::Udp).unwrap();
    let (mut stream, _) = collector.accept().await.unwrap();
    // ACCEPT, without a type of the content.
    stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]).await.unwrap();
    let mut received = Vec::new();
    let name = b"\x01a\x07example\0";
    while received.windows(name.len()).filter(|window| *window == name).count() < 2 {
        assert!(stream.read_buf(&mut received).await.unwrap() > 0, "closed");
    }
}

#[tokio::test]
async fn external_names_precede_those_of_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    let text = ". {\n hosts {\n  192.0.2.9 lb.cloud.example\n  fallthrough\n }\n kubernetes cluster.local\n \
                k8s_external out.cluster.local {\n  fallthrough\n }\n}\n";
    fs::write(&path, text).unwrap();
    let config = plugins::read(&path, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let options = config.read_options();
    let service = |name: &str, address: serde_json::Value| {
        let object = serde_json::json!({
            "spec": {"clusterIP": "10.96.0.1"}, "status": {"loadBalancer": {"ingress": [address]}}
        });
        let read = zone::service(&serde_json::from_value(object).unwrap(), &options);
        Change::Service(ServiceKey::new("shop", name).unwrap(), Some(Arc::new(read)))
    };
    let changes = [
        service("web", serde_json::json!({"ip": "192.0.2.1"})),
        service("lb", serde_json::json!({"hostname": "lb.cloud.example"})),
    ];
    let handler = handler_of_block(&config.servers[0], changes).0;
    for (name, want) in [
        ("web.shop.svc.cluster.local.", vec!["10.96.0.1"]),
        ("web.shop.out.cluster.local.", vec!["192.0.2.1"]),
        ("lb.shop.out.cluster.local.", vec!["lb.cloud.example.", "192.0.2.9"]),
        ("missing.shop.out.cluster.local.", vec![]),
    ] {
        let reply = reply(&handler, &query(name, RecordType::A, DNSClass::IN), Transport::Udp).unwrap();
        let data: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(data, want, "{name}");
    }
}

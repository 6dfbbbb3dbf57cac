use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use hickory_server::proto::{
    op::{MessageType, OpCode},
    rr::{
        Name, RData, Record,
        rdata::{A, CNAME, SRV},
    },
};

use super::*;
use crate::{
    corefile::{self, Source},
    observe::metrics::Transport,
};

/// The rules of a block with these lines.
fn rules(lines: &str) -> Vec<Rewrite> {
    let text = format!(". {{\n{lines}\n}}");
    let tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    let read = |statement| parse(statement).unwrap_or_else(|error| panic!("{error}\n{text}"));
    tree.blocks[0].directives.iter().map(read).collect()
}

fn problem(line: &str) -> String {
    let text = format!(". {{\n{line}\n}}");
    let tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
    parse(&tree.blocks[0].directives[0]).unwrap_err().to_string()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(name: &str) -> Query {
    Query::query(self::name(name), RecordType::A)
}

const SENDER: Sender<'_> = Sender {
    client: (IpAddr::V4(Ipv4Addr::new(10, 244, 7, 9)), 4242),
    server: (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53),
    transport: Transport::Udp,
    options: &|_| None,
};

/// The name that is resolved.
fn resolved(rules: &[Rewrite], asked: &str) -> String {
    match rewritten(rules, &query(asked), &SENDER) {
        None => "unchanged".to_owned(),
        Some(Ok(rewritten)) => rewritten.question.name().to_string(),
        Some(Err(InvalidName)) => "invalid".to_owned(),
    }
}

#[test]
fn names_are_replaced() {
    for (lines, asked, want) in [
        ("rewrite name a.example b.example", "A.Example.", "b.example."),
        ("rewrite name a.example b.example", "x.a.example.", "unchanged"),
        ("rewrite name suffix .schmoogle.com. .google.com.", "www.Schmoogle.com.", "www.google.com."),
        ("rewrite name suffix .schmoogle.com. .google.com.", "schmoogle.com.", "unchanged"),
        ("rewrite name suffix schmoogle.com google.com", "schmoogle.com.", "google.com."),
        // All but a regex end with a dot, so that whole labels match.
        ("rewrite name prefix a b", "a.example.", "b.example."),
        ("rewrite name prefix a b", "ab.example.", "unchanged"),
        ("rewrite name prefix a- b-", "a-b.example.", "unchanged"),
        ("rewrite name substring old new", "an.old.example.", "an.new.example."),
        ("rewrite name substring old new", "an.older.example.", "unchanged"),
        ("rewrite name substring old new", "an.cold.example.", "an.cnew.example."),
        (
            "rewrite name regex ^(.*)-(us|eu)\\.example\\.$ {1}.{2}.example",
            "web-eu.example.",
            "web.eu.example.",
        ),
        ("rewrite name regex ^(.*)-(us|eu)\\.example\\.$ {1}.{2}.example", "web-jp.example.", "unchanged"),
        ("rewrite continue name prefix a b\nrewrite name prefix b c", "a.example.", "c.example."),
        ("rewrite stop name prefix a b\nrewrite name prefix b c", "a.example.", "b.example."),
        // Two words are names, whatever they are.
        ("rewrite name suffix b.example", "suffix.", "b.example."),
        ("rewrite name prefix a b..c", "a.example.", "invalid"),
        ("rewrite name regex ^a\\. {0}.b", "a.", "invalid"),
    ] {
        assert_eq!(resolved(&rules(lines), asked), want, "{lines}: {asked}");
    }
}

#[test]
fn types_and_classes_are_replaced() {
    let all = rules("rewrite continue type any hinfo\nrewrite type MX AAAA\nrewrite class ch IN");
    for (qtype, class, want) in [
        (RecordType::ANY, DNSClass::IN, Some("HINFO IN")),
        (RecordType::MX, DNSClass::CH, Some("AAAA CH")),
        (RecordType::TXT, DNSClass::CH, Some("TXT IN")),
        // Continues with the rule for classes.
        (RecordType::ANY, DNSClass::CH, Some("HINFO IN")),
        (RecordType::A, DNSClass::IN, None),
    ] {
        let mut asked = Query::query(name("a.example."), qtype);
        asked.set_query_class(class);
        let got = rewritten(&all, &asked, &SENDER).map(|rewritten| {
            let question = rewritten.unwrap().question;
            format!("{} {}", question.query_type(), question.query_class())
        });
        assert_eq!(got.as_deref(), want, "{qtype} {class}");
    }
}

/// A response with an address of this TTL.
fn response(rcode: ResponseCode, ttl: Option<u32>) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.metadata.response_code = rcode;
    let address = |ttl| Record::from_rdata(name("a.example."), ttl, RData::A(A([10, 0, 0, 1].into())));
    message.answers.extend(ttl.map(address));
    message.authorities.extend(ttl.map(address));
    message
}

#[test]
fn ttls_are_moved_into_a_range() {
    for (lines, before, want) in [
        ("rewrite ttl a.example. 15", 300, 15),
        ("rewrite ttl a.example. 30-300", 10, 30),
        ("rewrite ttl a.example. 30-300", 100, 100),
        ("rewrite ttl a.example. 30-300", 1000, 300),
        ("rewrite ttl a.example. -30", 1000, 30),
        ("rewrite ttl a.example. 30-", 1000, 1000),
        ("rewrite ttl a.example. 30-", 5, 30),
        ("rewrite ttl suffix example 7", 1, 7),
        ("rewrite ttl prefix a 7", 1, 7),
        ("rewrite ttl substring a.ex 7", 1, 1),
        ("rewrite ttl regex ^a.*\\.$ 7", 1, 7),
        ("rewrite ttl b.example 7", 1, 1),
        // The last rule comes first.
        ("rewrite continue ttl a.example 60-\nrewrite ttl a.example 10", 1, 60),
        // The name is the rewritten one.
        ("rewrite continue name a.example b.example\nrewrite ttl b.example 9", 1, 9),
    ] {
        let mut response = response(ResponseCode::NoError, Some(before));
        if let Some(rewritten) = rewritten(&rules(lines), &query("a.example."), &SENDER) {
            rewritten.unwrap().restore(&mut response);
        }
        assert_eq!((response.answers[0].ttl, response.authorities[0].ttl), (want, want), "{lines}");
    }
}

#[test]
fn response_codes_are_replaced() {
    use ResponseCode::{NXDomain, NoError, Refused, ServFail};
    for (lines, before, want) in [
        ("rewrite rcode a.example SERVFAIL NOERROR", ServFail, NoError),
        ("rewrite rcode a.example SERVFAIL NOERROR", NXDomain, NXDomain),
        ("rewrite rcode regex (.*)\\.example\\. 2 3", ServFail, NXDomain),
        ("rewrite rcode suffix .example. nxdomain 5", NXDomain, Refused),
        ("rewrite rcode b.example SERVFAIL NOERROR", ServFail, ServFail),
    ] {
        for ttl in [None, Some(5)] {
            let mut response = response(before, ttl);
            if let Some(rewritten) = rewritten(&rules(lines), &query("a.example."), &SENDER) {
                rewritten.unwrap().restore(&mut response);
            }
            assert_eq!(response.metadata.response_code, want, "{lines}");
        }
    }
}

#[test]
fn targets_of_cnames_are_replaced() {
    let cname =
        |owner: &str, target: &str| Record::from_rdata(name(owner), 5, RData::CNAME(CNAME(name(target))));
    for (lines, want) in [
        ("rewrite cname exact b.cdn.example.net c.other", Some("a. c.other.")),
        ("rewrite cname suffix .cdn.example.net. .other.", Some("a. b.other.")),
        ("rewrite cname prefix b. c.", Some("a. c.cdn.example.net.")),
        ("rewrite cname substring cdn mirror", Some("a. b.mirror.example.net.")),
        ("rewrite cname regex (.*)\\.cdn\\.example\\.net\\. {1}.other.cdn.com.", Some("a. b.other.cdn.com.")),
        ("rewrite cname x.example y.example", None),
        // The last rule first.
        (
            "rewrite continue cname prefix b. c.\nrewrite cname suffix .net. .org.",
            Some("a. b.cdn.example.org."),
        ),
    ] {
        let rewritten = rewritten(&rules(lines), &query("a."), &SENDER).unwrap().unwrap();
        let mut answers = vec![cname("a.", "B.cdn.example.net."), cname("b.cdn.example.net.", "d.")];
        let target = rewritten.retarget(&mut answers);
        let texts: Vec<String> =
            answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
        let got = target.is_some().then(|| texts.join(";"));
        assert_eq!(got.as_deref(), want, "{lines}");
    }
}

#[test]
fn mistakes_are_refused() {
    for (line, want) in [
        ("rewrite type A", "`rewrite type FROM TO`"),
        ("rewrite type A BOGUS", "`BOGUS` is no type"),
        ("rewrite class CH XX", "`XX` is no class"),
        ("rewrite ttl a.example", "is to be written `rewrite [continue|stop] ttl"),
        ("rewrite ttl a.example -", "`-` is no TTL"),
        ("rewrite ttl a.example 30-20", "`30-20` is no TTL"),
        ("rewrite ttl a.example x", "`x` is no TTL"),
        ("rewrite ttl a.example 1-2-3", "`1-2-3` is no TTL"),
        ("rewrite ttl regex ( 30", "`(` is no regular expression"),
        ("rewrite rcode a.example SERVFAIL", "is to be written `rewrite [continue|stop] rcode"),
        ("rewrite rcode a.example SERVFAIL 24", "`24` is no response code"),
        ("rewrite answer name a b", "`answer` follows the names"),
        ("rewrite size 1 2", "`size` cannot be rewritten"),
        ("rewrite edns0", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 nsid", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 nsid set x", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 cookie set", "write `local`, `nsid` or `subnet`"),
        ("rewrite edns0 local add 1 x", "write `set`, `append`, `replace` or `unset`"),
        ("rewrite edns0 local set 1", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 local set revert", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 local unset 1 x", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 local set 65536 x", "`65536` is no code"),
        ("rewrite edns0 local set 017 x", "`017` is no code"),
        ("rewrite edns0 local set 0x x", "`0x` is no code"),
        ("rewrite edns0 local set 1 0x1", "`0x1` is not hexadecimal"),
        ("rewrite edns0 local set 1 0xgg", "`0xgg` is not hexadecimal"),
        ("rewrite edns0 local set 1 {metadata/label}", "`{metadata/label}` is not known here"),
        ("rewrite edns0 subnet set 24", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite edns0 subnet set 33 56", "from 0 to 32"),
        ("rewrite edns0 subnet set 24 129", "from 0 to 128"),
        ("rewrite edns0 subnet unset 24 56", "is to be written `rewrite [continue|stop] edns0"),
        ("rewrite cname a.example", "is to be written `rewrite [continue|stop] cname"),
        ("rewrite cname regex (a) {2}", "`{2}` has no group"),
        ("rewrite name suffix a b answer auto answer name c d", "exclude each other"),
        ("rewrite stop", "is to be written"),
    ] {
        let got = problem(line);
        assert!(got.contains(want), "{line}: {got}");
    }
}

fn with_answers(records: Vec<Record>) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.answers = records;
    message
}

#[test]
fn answers_are_restored_to_the_original_name() {
    let rules = rules(
        "rewrite name suffix .outer .svc answer name ^(.*)\\.svc\\.$ {1}.outer answer value ^(.*)\\.svc\\.$ {1}.value",
    );
    let rewritten = rewritten(&rules, &query("Web.outer."), &SENDER).unwrap().unwrap();
    let cname =
        |owner: &str, target: &str| Record::from_rdata(name(owner), 5, RData::CNAME(CNAME(name(target))));
    let mut response = with_answers(vec![cname("web.svc.", "x.svc."), cname("x.svc.", "y.elsewhere.")]);
    rewritten.restore(&mut response);
    let got: Vec<String> =
        response.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(got, ["Web.outer. x.value.", "x.outer. y.elsewhere."]);
}

#[test]
fn rules_restore_the_names_that_they_rewrote() {
    let srv = |owner: &str, target: &str| {
        Record::from_rdata(name(owner), 5, RData::SRV(SRV::new(0, 1, 80, name(target))))
    };
    let exact = "rewrite name red.example blue.example";
    let suffix = "rewrite name suffix .outer .svc answer auto";
    for (case, lines, asked, before, want) in [
        ("exact", exact, "red.example.", ("blue.example.", "x.blue.example."), "red.example. x.red.example."),
        (
            "no label",
            exact,
            "red.example.",
            ("blue.example.", "xblue.example."),
            "red.example. xblue.example.",
        ),
        ("suffix", suffix, "web.outer.", ("web.svc.", "db.svc."), "web.outer. db.outer."),
        ("elsewhere", suffix, "web.outer.", ("web.other.", "db.other."), "web.other. db.other."),
        (
            "not back",
            "rewrite name suffix .outer .svc",
            "web.outer.",
            ("web.svc.", "db.svc."),
            "web.outer. db.svc.",
        ),
        (
            "regex",
            "rewrite name regex ^(.*)-(.*)\\.$ {1}.{2}. answer auto",
            "a-b.",
            ("a.b.", "x.a.b."),
            "a-b. x.a-b.",
        ),
        (
            "two rules",
            "rewrite continue name prefix a b answer auto\nrewrite name suffix .outer .svc answer auto",
            "a.web.outer.",
            ("b.web.svc.", "b.web.svc."),
            "a.web.outer. a.web.outer.",
        ),
    ] {
        let rewritten =
            rewritten(&rules(lines), &Query::query(name(asked), RecordType::SRV), &SENDER).unwrap().unwrap();
        let mut response = with_answers(vec![srv(before.0, before.1)]);
        rewritten.restore(&mut response);
        let RData::SRV(SRV { target, .. }) = &response.answers[0].data else { panic!("{case}") };
        assert_eq!(format!("{} {target}", response.answers[0].name), want, "{case}");
    }
}

#[test]
fn options_of_queries_are_rewritten() {
    // The client sends the option 1 with `own`.
    for (lines, want) in [
        ("edns0 local set 0xffee 0x61626364", "65518 61626364"),
        ("edns0 local set 65518 abcd", "65518 61626364"),
        ("edns0 LOCAL Set 2 abcd revert", "2 61626364"),
        ("edns0 local set 2 0x", "2 "),
        ("edns0 local append 2 x", "2 78"),
        ("edns0 local append 1 x", "unchanged"),
        ("edns0 local set 1 x", "1 78"),
        ("edns0 local replace 1 x", "1 78"),
        ("edns0 local replace 2 x", "unchanged"),
        ("edns0 local unset 1", ""),
        ("edns0 local unset 2", "unchanged"),
        ("edns0 nsid set", "3 "),
        ("edns0 nsid unset", "unchanged"),
        ("edns0 subnet set 24 56", "8 000118000af407"),
        ("edns0 subnet set 20 56", "8 000114000af400"),
        ("edns0 subnet set 0 0", "8 00010000"),
        ("edns0 subnet append 32 56", "8 000120000af40709"),
        ("edns0 subnet replace 24 56", "unchanged"),
        ("edns0 local set 2 {qname}", "2 612e6578616d706c652e"),
        ("edns0 local set 2 {qtype}", "2 0001"),
        ("edns0 local set 2 {client_ip}", "2 0af40709"),
        ("edns0 local set 2 {client_port}", "2 1092"),
        ("edns0 local set 2 {protocol}", "2 756470"),
        ("edns0 local set 2 {server_ip}", "2 0a60000a"),
        ("edns0 local set 2 {server_port}", "2 0035"),
        // A rule that does not match lets the next one apply, whatever it says.
        ("edns0 local replace 2 x\nrewrite edns0 local set 4 y", "4 79"),
        ("edns0 local set 2 x\nrewrite edns0 local set 4 y", "2 78"),
        ("continue edns0 local set 2 x\nrewrite edns0 local set 4 y", "2 78,4 79"),
        ("continue edns0 local set 2 x\nrewrite edns0 local append 2 y", "2 78"),
        ("continue edns0 local unset 1\nrewrite edns0 local append 1 y", "1 79"),
        ("continue name a.example b.example\nrewrite edns0 local set 2 {qname}", "2 622e6578616d706c652e"),
    ] {
        let rules = rules(&format!("rewrite {lines}"));
        let options = |code: u16| (code == 1).then(|| b"own".to_vec());
        let sender = Sender { options: &options, ..SENDER };
        let got =
            rewritten(&rules, &query("a.example."), &sender).map_or("unchanged".to_owned(), |rewritten| {
                let hex = |data: &[u8]| data.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
                let rewritten = rewritten.unwrap();
                let shown = rewritten.options.iter().map(|(code, data)| format!("{code} {}", hex(data)));
                shown.collect::<Vec<_>>().join(",")
            });
        assert_eq!(got, want, "{lines}");
    }
    let rules = rules("rewrite edns0 subnet set 24 60");
    let sender = Sender { client: ("fd00:1:2:fff4::9".parse().unwrap(), 1), ..SENDER };
    let rewritten = rewritten(&rules, &query("a.example."), &sender).unwrap().unwrap();
    let want = [0, 2, 60, 0, 0xfd, 0, 0, 1, 0, 2, 0xff, 0xf0];
    assert_eq!(rewritten.options.iter().next(), Some((8, &want[..])));
}

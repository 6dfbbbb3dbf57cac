use std::{fs, path::Path};

use hickory_server::proto::{
    op::Query,
    rr::{Name, Record, RecordType},
};

use super::*;
use crate::corefile::{self, Source};

const ZONE: &str = "\
$ORIGIN example.org.
$TTL 1h
@   IN SOA ns hostmaster (
        7      ; serial
        2h 30m 1w 300 )
    IN NS ns
    NS ns.elsewhere.net.
    MX 10 mail
    MX 20 mail
ns  A 192.0.2.1
    AAAA 2001:db8::1
mail 60 IN A 192.0.2.2
www CNAME web
web IN 30 A 192.0.2.3
out CNAME www.example.net.
broken CNAME missing
ring CNAME ring2
ring2 CNAME ring
deep.below.it TXT \"a b\" c\\;d
*.wild A 192.0.2.4
*.wild MX 5 mail
b.wild TXT x
x.ent.wild TXT x
alias.wild CNAME any.wild
sub NS ns.sub
    NS ns
    DS 1 8 2 00FF
ns.sub A 192.0.2.5
tree DNAME forest
a.forest A 192.0.2.6
_http._tcp SRV 0 5 80 web
odd TYPE65400 \\# 2 abcd
mail RP root ns
web HTTPS 1 svc alpn=\"h2,h3\" port=443
empty TYPE65400 \\# 0
other.example.net. A 192.0.2.9
";

fn statement(line: &str) -> Statement {
    let text = format!("example.org {{\n{line}\n}}");
    let mut tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    tree.blocks.remove(0).directives.remove(0)
}

fn zones() -> Zones {
    Zones(vec![Name::from_ascii("example.org.").unwrap().into()])
}

fn start(path: &Path, options: &str) -> KeptZones<Served> {
    let line = format!("file {} {{\n{options}\n}}", path.display());
    let file = read(&statement(&line), &zones()).unwrap_or_else(|error| panic!("{error}"));
    KeptZones::start(&[file], |file| &file.zones, Served::start)
}

fn texts(records: &[Record]) -> String {
    let text = |record: &Record| {
        let owner = record.name.to_string();
        let owner = owner.strip_suffix("example.org.").unwrap_or(&owner).trim_end_matches('.').to_owned();
        format!("{owner} {} {}", record.record_type(), record.data)
    };
    records.iter().map(text).collect::<Vec<_>>().join(", ")
}

const NS: &str = " NS ns.example.org.,  NS ns.elsewhere.net.";
const SOA: &str = " SOA ns.example.org. hostmaster.example.org. 7 7200 1800 604800 300";
const GLUE: &str = "ns A 192.0.2.1, ns AAAA 2001:db8::1";

/// A name below the zone with its type, and the answer: rcode, AA, and the records of each section.
type Case = (&'static str, RecordType, u8, bool, &'static str, &'static str, &'static str);

const ANSWERS: &[Case] = &[
    ("web", RecordType::A, 0, true, "web A 192.0.2.3", NS, ""),
    ("WEB", RecordType::A, 0, true, "WEB A 192.0.2.3", NS, ""),
    ("web", RecordType::AAAA, 0, true, "", SOA, ""),
    ("none", RecordType::A, 3, true, "", SOA, ""),
    ("", RecordType::SOA, 0, true, SOA, NS, ""),
    ("", RecordType::NS, 0, true, NS, "", GLUE),
    (
        "",
        RecordType::MX,
        0,
        true,
        " MX 10 mail.example.org.,  MX 20 mail.example.org.",
        NS,
        "mail A 192.0.2.2",
    ),
    ("www", RecordType::A, 0, true, "www CNAME web.example.org., web A 192.0.2.3", NS, ""),
    ("www", RecordType::CNAME, 0, true, "www CNAME web.example.org.", NS, ""),
    ("www", RecordType::AAAA, 0, true, "www CNAME web.example.org.", SOA, ""),
    ("out", RecordType::A, 0, true, "out CNAME www.example.net.", "", ""),
    ("broken", RecordType::A, 3, true, "broken CNAME missing.example.org.", SOA, ""),
    ("ring", RecordType::A, 2, true, "", "", ""),
    ("below.it", RecordType::A, 0, true, "", SOA, ""),
    ("it", RecordType::A, 0, true, "", SOA, ""),
    ("x.it", RecordType::A, 3, true, "", SOA, ""),
    ("deep.below.it", RecordType::TXT, 0, true, "deep.below.it TXT a bc;d", NS, ""),
    // Wildcards (RFC 4592).
    ("a.wild", RecordType::A, 0, true, "a.wild A 192.0.2.4", NS, ""),
    ("a.a.wild", RecordType::A, 0, true, "a.a.wild A 192.0.2.4", NS, ""),
    ("a.wild", RecordType::MX, 0, true, "a.wild MX 5 mail.example.org.", NS, "mail A 192.0.2.2"),
    ("a.wild", RecordType::AAAA, 0, true, "", SOA, ""),
    ("wild", RecordType::A, 0, true, "", SOA, ""),
    ("b.wild", RecordType::A, 0, true, "", SOA, ""),
    ("a.b.wild", RecordType::A, 3, true, "", SOA, ""),
    ("a.ent.wild", RecordType::A, 3, true, "", SOA, ""),
    (
        "alias.wild",
        RecordType::A,
        0,
        true,
        "alias.wild CNAME any.wild.example.org., any.wild A 192.0.2.4",
        NS,
        "",
    ),
    // Delegations: not authoritative, with glue.
    (
        "sub",
        RecordType::A,
        0,
        false,
        "",
        "sub NS ns.sub.example.org., sub NS ns.example.org.",
        "ns.sub A 192.0.2.5",
    ),
    (
        "x.sub",
        RecordType::MX,
        0,
        false,
        "",
        "sub NS ns.sub.example.org., sub NS ns.example.org.",
        "ns.sub A 192.0.2.5",
    ),
    (
        "ns.sub",
        RecordType::A,
        0,
        false,
        "",
        "sub NS ns.sub.example.org., sub NS ns.example.org.",
        "ns.sub A 192.0.2.5",
    ),
    // DNAME (RFC 6672).
    ("tree", RecordType::A, 0, true, "", SOA, ""),
    ("b.tree", RecordType::A, 3, true, "*CNAME b.forest.example.org.", SOA, ""),
    ("b.tree", RecordType::CNAME, 0, true, "*CNAME b.forest.example.org.", "", ""),
    ("a.tree", RecordType::A, 0, true, "*CNAME a.forest.example.org., a.forest A 192.0.2.6", NS, ""),
    // Names in data of other types are relative to the origin, too.
    ("web", RecordType::HTTPS, 0, true, "web HTTPS 1 svc.example.org. alpn=h2,h3, port=443", NS, ""),
    (
        "mail",
        RecordType::Unknown(17),
        0,
        true,
        "mail Unknown BHJvb3QHZXhhbXBsZQNvcmcAAm5zB2V4YW1wbGUDb3JnAA==",
        NS,
        "",
    ),
    ("_http._tcp", RecordType::SRV, 0, true, "_http._tcp SRV 0 5 80 web.example.org.", NS, "web A 192.0.2.3"),
];

#[tokio::test]
async fn names_are_answered_as_in_rfc_1034() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.example.org");
    fs::write(&path, ZONE).unwrap();
    let plugin = start(&path, "");
    for (name, qtype, rcode, aa, answers, authorities, additionals) in ANSWERS.iter().copied() {
        let whole = if name.is_empty() { "example.org.".to_owned() } else { format!("{name}.example.org.") };
        let question = Query::query(Name::from_ascii(&whole).unwrap(), qtype);
        let reply = plugin.answer(&question).unwrap();
        assert_eq!((reply.rcode.low(), reply.authoritative), (rcode, aa), "{name} {qtype}");
        let got = texts(&reply.answers);
        match answers.strip_prefix('*') {
            Some(tail) => assert!(got.starts_with("tree DNAME") && got.ends_with(tail), "{name}: {got}"),
            None => assert_eq!(got, answers, "{name} {qtype}"),
        }
        assert_eq!(texts(&reply.authorities), authorities, "{name} {qtype}");
        assert_eq!(texts(&reply.additionals), additionals, "{name} {qtype}");
    }
    let absent = Query::query(Name::from_ascii("none.example.org.").unwrap(), RecordType::A);
    let soa = &plugin.answer(&absent).unwrap().authorities[0];
    assert_eq!(soa.ttl, 300, "the lower one of its TTL and MINIMUM (RFC 2308, section 3)");
    let elsewhere = Query::query(Name::from_ascii("other.example.net.").unwrap(), RecordType::A);
    assert!(plugin.answer(&elsewhere).is_none());
    let odd = Query::query(Name::from_ascii("odd.example.org.").unwrap(), RecordType::Unknown(65_400));
    assert_eq!(plugin.answer(&odd).unwrap().answers.len(), 1);
}

#[tokio::test]
async fn a_missing_name_may_fall_through() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    fs::write(&path, ZONE).unwrap();
    let asked = |name: &str| Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
    for (options, name, is_answered) in [
        ("", "none.example.org.", true),
        ("fallthrough", "none.example.org.", false),
        ("fallthrough", "www.example.org.", true),
        ("fallthrough", "it.example.org.", true),
        ("fallthrough x.example.org", "none.example.org.", true),
        ("fallthrough x.example.org", "none.x.example.org.", false),
    ] {
        let plugin = start(&path, options);
        assert_eq!(plugin.answer(&asked(name)).is_some(), is_answered, "{options}: {name}");
    }
}

#[tokio::test]
async fn a_file_is_read_again_when_its_serial_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let plugin = start(&path, "reload 10ms");
    let asked = Query::query(Name::from_ascii("a.example.org.").unwrap(), RecordType::A);
    let answer = || {
        let reply = plugin.answer(&asked).unwrap();
        format!("{} {}", reply.rcode.low(), texts(&reply.answers))
    };
    assert_eq!(answer(), "2 ", "there is no file yet");
    let write = |serial: u32, address: u8| {
        let text = format!("@ SOA ns c {serial} 1 1 1 1\n@ NS ns\na A 10.0.0.{address}\n");
        let new = directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    let shows = async |want: &str| {
        while answer() != want {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    write(1, 1);
    shows("0 a A 10.0.0.1").await;
    // The same serial, and an invalid file: the zone stays.
    write(1, 2);
    plugin.0[0].load();
    assert_eq!(answer(), "0 a A 10.0.0.1");
    fs::write(&path, "x").unwrap();
    plugin.0[0].load();
    assert_eq!(answer(), "0 a A 10.0.0.1");
    write(2, 3);
    shows("0 a A 10.0.0.3").await;
}

#[test]
fn files_with_mistakes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let head = "@ SOA ns c 1 1 1 1 1\n";
    for (text, want) in [
        ("a A 10.0.0.1\n".to_owned(), "there is no SOA record of example.org."),
        (format!("{head}@ SOA ns c 2 1 1 1 1\n"), "there are several SOA records"),
        (format!("{head}a A 10.0.0.300\n"), "db:2: the data is not valid"),
        (format!("{head}a A\n"), "db:2: the data is not valid"),
        (format!("{head}a BOGUS x\n"), "db:2: there is no such type"),
        (format!("{head}a\n"), "db:2: a record has no type"),
        (format!("{head}a CH A 10.0.0.1\n"), "db:2: only the class IN"),
        (format!("{head}a TXT \"x\n"), "db:2: a quote is never closed"),
        (format!("{head}a TXT ( x\n"), "db:2: a ( is never closed"),
        (" A 10.0.0.1\n".to_owned(), "db:1: the first record has no owner"),
        (format!("{head}$MAKE 1-9 a$ A 10.0.0.$\n"), "db:2: there is no such directive"),
        (format!("{head}$GENERATE\n"), "db:2: $GENERATE takes a range and a record"),
        (format!("{head}$GENERATE 9-1 a$ A 10.0.0.$\n"), "db:2: the range ends before it starts"),
        (format!("{head}$GENERATE 1-9\n"), "db:2: a record has no type"),
        (format!("{head}$GENERATE 250-260 a$ A 10.0.0.$\n"), "db:2: the data is not valid"),
        (format!("{head}$GENERATE 1-9 a${{0 A 10.0.0.$\n"), "db:2: a ${ is never closed"),
        (format!("{head}$INCLUDE db\n"), "db:2: files include each other too deeply"),
        (format!("{head}$INCLUDE nothing\n"), "cannot read"),
        (format!("{head}$TTL x\n"), "db:2: $TTL takes a time"),
        (format!("{head}@ NSEC3PARAM 1 0 151 -\n"), "NSEC3 takes 151 iterations"),
        (format!("{head}a RRSIG A 13 2 60 20260101 20250101000000\n"), "db:2: the data is not valid"),
        (format!("{head}{}.a A 10.0.0.1\n", "x".repeat(64)), "db:2: the owner is no name"),
    ] {
        fs::write(&path, &text).unwrap();
        let line = format!("file {} {{\nreload 0\n}}", path.display());
        let error = read(&statement(&line), &zones()).unwrap_err().to_string();
        assert!(error.contains("Corefile:2: ") && error.contains(want), "{text}: {error}");
    }
    for (line, want) in [
        ("file", "is to be written `file FILE [ZONES...]`"),
        ("file /nonexistent/db {\nreload 0\n}", "cannot read /nonexistent/db"),
        ("file /nonexistent/db {\nserial 1\n}", "`serial` is no option of `file`"),
    ] {
        let error = read(&statement(line), &zones()).unwrap_err().to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
    assert!(read(&statement("file /nonexistent/db"), &zones()).is_ok(), "it may appear later");
}

#[test]
fn records_are_generated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let text = "@ SOA ns c 1 1 1 1 1\n$ORIGIN x\n$GENERATE 8-10/2 a${0,3} 60 IN A 10.0.$.${1}\n\
                $GENERATE 1-2 $ MX $ host-$.example.net.\n TXT last\n";
    fs::write(&path, text).unwrap();
    let zone = parse(&path, &zones().0[0]).unwrap();
    let shown = |record: &Record| format!("{} {} {}", record.name, record.ttl, record.data);
    let records: Vec<String> = zone.records().map(shown).collect();
    assert_eq!(
        records,
        [
            "1.x.example.org. 60 1 host-1.example.net.",
            "2.x.example.org. 60 2 host-2.example.net.",
            "2.x.example.org. 60 last",
            "a008.x.example.org. 60 10.0.8.9",
            "a010.x.example.org. 60 10.0.10.11",
        ]
    );
}

#[test]
fn files_are_included() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    fs::write(directory.path().join("more"), "a A 10.0.0.1\n$ORIGIN y\nb A 10.0.0.2\n").unwrap();
    fs::write(&path, "@ SOA ns c 1 1 1 1 1\n$INCLUDE more\nc A 10.0.0.3\n$INCLUDE more x\n").unwrap();
    let zone = parse(&path, &zones().0[0]).unwrap();
    let names: Vec<String> = zone.records().map(|record| record.name.to_string()).collect();
    assert_eq!(
        names,
        ["a.example.org.", "c.example.org.", "a.x.example.org.", "b.y.x.example.org.", "b.y.example.org."]
    );
}

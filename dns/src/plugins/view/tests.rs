use std::net::IpAddr;

use hickory_server::proto::rr::{DNSClass, RecordType};

use super::*;
use crate::{cluster::name::Name, observe::metrics::Transport};

fn is_true(expression: &str, name: &str, client: &str) -> bool {
    let name = Name::from_text(name).unwrap_or_else(Name::root).to_query();
    let asked = Asked {
        name: &name,
        qtype: RecordType::AAAA,
        class: DNSClass::IN,
        transport: Transport::Udp,
        client: client.parse::<IpAddr>().unwrap(),
        port: 4242,
        server: "10.96.0.10".parse().unwrap(),
        server_port: 53,
        id: 7,
        size: 40,
        dnssec_ok: true,
        payload: Some(1232),
    };
    let parsed = Expression::parse(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
    View { name: "v".to_owned(), expressions: vec![parsed] }.serves(&asked)
}

#[test]
fn expressions_are_evaluated_as_in_coredns() {
    for (expression, want) in [
        ("incidr(client_ip(), '127.0.0.0/24')", true),
        ("incidr(client_ip(), '192.168.0.0/16')", false),
        ("incidr(client_ip(), '2001:0DB8::/32')", false),
        ("incidr('2001:db8::1', '2001:0DB8::/32')", true),
        ("type() in ['A', 'AAAA']", true),
        ("type() not in ['A', 'AAAA']", false),
        ("not (type() in ['A'])", true),
        ("name() matches '^abc\\\\..*\\\\.example\\\\.com\\\\.$'", true),
        ("name() matches `^abc\\..*\\.example\\.com\\.$`", true),
        ("name() matches '^abd'", false),
        ("(type() == 'A' && name() == 'example.com.') || client_ip() == '127.0.0.1'", true),
        ("type() == 'A' && name() == 'example.com.' or client_ip() == '1.2.3.4'", false),
        ("name() endsWith '.example.com.' and not (name() startsWith 'x')", true),
        ("name() contains \"x.y\"", true),
        ("class() == 'IN' && proto() == 'udp' && port() == '4242' && server_port() == '53'", true),
        ("id() == 7 && opcode() == 0 && do() && size() < 41 && size() >= 40 && bufsize() == 1232", true),
        ("server_ip() == '10.96.0.10' && incidr(server_ip(), '10.96.0.0/12')", true),
        ("server_ip() == '10.96.0.11'", false),
        ("!do()", false),
        ("1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && -1 < 0 && 7 % 4 == 3", true),
        ("metadata('view/name') == ''", true),
        ("upper(lower(type())) == 'AAAA' && len(name()) == 20 && len([1, 2]) == 2", true),
        ("type() == 'A' ? false : true", true),
        ("'a' + 'b' == 'ab' && 'a' < 'b'", true),
        ("true", true),
        ("1 / 0 == 1", false),
        // An evaluation that fails is false, and so is its opposite.
        ("incidr(name(), '10.0.0.0/8')", false),
        ("!incidr(name(), '10.0.0.0/8')", false),
        ("true || incidr(name(), '10.0.0.0/8')", true),
    ] {
        assert_eq!(is_true(expression, "ABC.x.y.example.com", "127.0.0.1"), want, "{expression}");
    }
    assert!(is_true("incidr(client_ip(), 'fd00::/8') && name() == '.'", ".", "fd00::1"));
}

#[test]
fn mistakes_are_found_when_an_expression_is_read() {
    let deep = "(".repeat(100) + "true" + &")".repeat(100);
    let negated = "!".repeat(100) + "true";
    for (expression, want) in [
        ("", "ends too early"),
        ("type()", "neither true nor false"),
        ("type() == 1", "does not apply"),
        ("type() in ['A', 1]", "a list is of texts or of numbers"),
        ("type() in 'A'", "does not apply"),
        ("name() matches '('", "no regular expression"),
        ("name() matches name()", "takes a regular expression in quotes"),
        ("name( == 'a'", "nothing before `==`"),
        ("name() == 'a", "never closed"),
        ("name() == 'a' 'b'", "one word too many"),
        ("name == 'a'", "no function with its parentheses"),
        ("nam() == 'a'", "there is no function `nam`"),
        ("name('x') == 'a'", "no function of these arguments"),
        ("incidr(client_ip(), '10.0.0.0/99')", "is no network"),
        ("incidr(client_ip())", "no function of these arguments"),
        ("server_ip(1) == '10.0.0.1'", "no function of these arguments"),
        ("name() = 'b'", "`=` means nothing"),
        ("do() && 1", "does not apply"),
        ("do() ? 1 : 'a'", "two of one kind"),
        ("name() == '\\q'", "escapes nothing"),
        ("99999999999999999999 == 1", "too large"),
        ("name() == 'a' # 1", "means nothing"),
        (&deep, "nested too deeply"),
        (&negated, "nested too deeply"),
    ] {
        let problem = Expression::parse(expression).unwrap_err();
        assert!(problem.contains(want), "{expression}: {problem}");
    }
}

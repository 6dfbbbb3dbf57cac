use std::path::Path;

use super::*;
use crate::{
    cluster::name::domain,
    corefile::{self, Source},
};

fn setting(text: &str) -> Result<Transfer, CorefileError> {
    let text = format!("example.org {{\n transfer {text}\n}}");
    let tree = corefile::read(Source::text(Path::new("Corefile"), &text), &|_| None);
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    read(&tree.blocks[0].directives[0], &Zones(vec![domain("example.org").unwrap()]))
}

#[test]
fn secondaries_are_read() {
    for (text, zone, admitted, refused, servers) in [
        ("{\n to *\n}", "a.example.org", "192.0.2.1", "", ""),
        (
            "{\n to 192.0.2.1 fd00::1\n}",
            "example.org",
            "192.0.2.1 fd00::1",
            "192.0.2.2",
            "192.0.2.1:53 [fd00::1]:53",
        ),
        (
            "{\n to 192.0.2.1:54\n to [fd00::1]:55 *\n}",
            "example.org",
            "192.0.2.9",
            "",
            "192.0.2.1:54 [fd00::1]:55",
        ),
        (
            "a.example {\n to 192.0.2.0/28 dns://192.0.2.99\n}",
            "a.example",
            "192.0.2.15",
            "192.0.2.16",
            "192.0.2.99:53",
        ),
        ("a.example {\n to *\n}", "example.org", "", "192.0.2.1", ""),
    ] {
        let setting = setting(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let zone = domain(zone).unwrap();
        let admits = |client: &str| admits(std::slice::from_ref(&setting), &zone, client.parse().unwrap());
        assert!(admitted.split_whitespace().all(admits), "{text}");
        assert!(!refused.split_whitespace().any(admits), "{text}");
        let got: Vec<String> = setting.servers().map(|server| server.to_string()).collect();
        assert_eq!(got.join(" "), servers, "{text}");
    }
    for (text, line, want) in [
        ("", 2, "nobody may transfer"),
        ("a.example {\n}", 2, "nobody may transfer"),
        ("{\n to\n}", 3, "`to ADDRESS|NETWORK|*...`"),
        ("{\n to ns.example\n}", 3, "`ns.example` is neither an address"),
        ("{\n to 192.0.2.0/33\n}", 3, "`192.0.2.0/33` is neither an address"),
        ("{\n from 192.0.2.1\n}", 3, "`from` is no option of `transfer`"),
    ] {
        let error = setting(text).unwrap_err().to_string();
        assert!(error.contains(&format!(":{line}: ")) && error.contains(want), "{text}: {error}");
    }
}

#[test]
fn the_longest_zone_decides() {
    let settings =
        ["example {\n to *\n}", "a.example {\n to 192.0.2.1\n}"].map(|text| setting(text).unwrap());
    for (zone, want) in [("example", true), ("b.example", true), ("a.example", false), ("x.a.example", false)]
    {
        assert_eq!(admits(&settings, &domain(zone).unwrap(), "192.0.2.2".parse().unwrap()), want, "{zone}");
    }
}

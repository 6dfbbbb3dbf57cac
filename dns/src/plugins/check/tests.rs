use std::{fs, path::Path};

use super::*;
use crate::plugins::unsupported;

/// `LINE VERDICT TEXT | REASON` of each line.
fn checked(text: &str) -> Vec<String> {
    let lines = check(Source::text(Path::new("Corefile"), text), &|_| None);
    let show = |line: CheckedLine| {
        let number = line.line.map_or_else(|| "-".to_owned(), |number| number.to_string());
        format!("{number} {} {} | {}", line.verdict.name(), line.text, line.reason)
    };
    lines.into_iter().map(show).collect()
}

#[test]
fn every_line_has_a_verdict() {
    let got = checked(
        "# comment\n. {\n errors {\n  stacktrace\n }\n forward . 10.0.0.1 {\n  max_fails 1\n  prefer_udp\n }\n \
         cache 30\n}\n",
    );
    let want = [
        "2 done . | ",
        "3 done errors | ",
        "4 ignored stacktrace | a panic is logged with its place in any case",
        "6 done forward . 10.0.0.1 | ",
        "7 done max_fails 1 | ",
    ];
    assert_eq!(got[..5], want, "{got:?}");
    assert!(got[5].starts_with("8 ignored prefer_udp | "), "{got:?}");
    assert_eq!(got[6..], ["10 done cache 30 | "]);
}

#[test]
fn all_problems_are_reported() {
    for (text, want) in [
        // Several directives, several options of one directive, several blocks.
        (
            "tls://. {\n route53 x\n forward . 10.0.0.1 {\n  bogus 1\n  max_fails 1\n  expire soon\n }\n frwd\n}\n\
             b {\n cache {\n  prefetch x\n }\n}\nb {\n}\n",
            "1 refused;2 refused;3 done;4 refused;5 done;6 refused;8 refused;10 done;11 done;12 refused;15 refused",
        ),
        // The options of a refused directive are not read.
        (
            ". {\n forward . dns..google {\n  max_fails 1\n }\n nonsense {\n  a b\n }\n}",
            "1 done;2 refused;3 unchecked;5 refused;6 unchecked",
        ),
        // Syntax: reading goes on after it.
        (
            ". {\n import nothing\n bogus\n}\n}\na {\n any }\n",
            "1 done;2 refused;3 refused;5 refused;6 done;7 refused",
        ),
        (". {\n bogus\n forward . 10.0.0.1 {\n  max_fails 1\n", "1 done;2 refused;3 refused;4 unchecked"),
        (". {\n any\n bogus \"\n}", "3 refused"),
        (". {\n any\n any\n}", "1 done;2 done;3 refused"),
        // An option that is refused is not missed.
        (". {\n template IN A {\n  answer {{ .Remote }}\n }\n}", "1 done;2 done;3 refused"),
        (". {\n forward . 10.0.0.1 { max_fails x }\n}", "1 done;2 refused"),
        ("", "- refused"),
    ] {
        let lines = checked(text);
        let short = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        assert_eq!(lines.iter().map(short).collect::<Vec<_>>().join(";"), want, "{text}\n{lines:#?}");
        let has_reason = |line: &String| line.contains(" done ") || !line.ends_with("| ");
        assert!(lines.iter().all(has_reason), "{lines:?}");
    }
}

/// The least form of each directive that is done, behind its name.
const FORMS: &[(&str, &str)] = &[
    ("acl", "{\n block\n}"),
    ("alternate", "NXDOMAIN . 10.0.0.2"),
    ("auto", "{\n directory /nonexistent\n}"),
    ("bind", "127.0.0.1"),
    ("dnstap", "/tmp/dnstap.sock"),
    ("file", "/nonexistent/db example.org"),
    ("forward", ". 10.0.0.1"),
    ("header", "{\n response set aa\n}"),
    ("hosts", "/nonexistent/hosts"),
    ("k8s_external", "example.org\nkubernetes cluster.local"),
    ("kubernetes", "cluster.local"),
    ("autopath", "/dev/null"),
    ("rewrite", "name a.example b.example"),
    ("secondary", "example.org {\n transfer from 10.0.0.1\n}"),
    ("template", "IN A {\n answer \"{{ .Name }} 5 IN A 10.0.0.1\"\n}"),
    ("tls", "cert.pem key.pem"),
    ("transfer", "example.org {\n to *\n}"),
    ("view", "name {\n expr true\n}"),
];

#[test]
fn every_directive_is_taken_in_its_least_form() {
    for directive in crate::plugins::DIRECTIVES {
        let form = FORMS.iter().find(|(name, _)| *name == directive.name).map_or("", |(_, form)| *form);
        let lines = checked(&format!(". {{\n{} {form}\n}}\n", directive.name));
        let is_taken = |line: &String| line.contains(" done ") || line.contains(" ignored ");
        assert!(lines.iter().all(is_taken), "{lines:#?}");
    }
    for (name, _) in unsupported::UNSUPPORTED.iter().chain(unsupported::EXTERNAL) {
        let lines = checked(&format!(". {{\n{name} x\n}}\n"));
        let want = format!("2 refused {name} x | the directive `{name}` is not supported; ");
        assert!(lines[1].starts_with(&want), "{lines:#?}");
    }
}

/// CoreDNS does not start with them.
#[test]
fn unknown_functions_are_named_with_their_line() {
    for (text, want) in [
        ("view v {\n  expr foo()\n }", "4 refused expr foo() | there is no function `foo`; there are name,"),
        (
            "view v {\n  expr trim(name()) == 'a'\n }",
            "4 refused expr trim(name()) == 'a' | there is no function `trim`",
        ),
        (
            "view v {\n  expr len() == 1\n }",
            "4 refused expr len() == 1 | `len` is no function of these arguments",
        ),
        (
            "view v {\n  expr type(1) == 'A'\n }",
            "4 refused expr type(1) == 'A' | `type` is no function of these",
        ),
        (
            "template IN A {\n  answer \"{{ foo .Name }} A 10.0.0.1\"\n }",
            "4 refused answer {{ foo .Name }} A 10.0.0.1 | `foo .Name` cannot be filled in; there are .Name,",
        ),
        (
            "template IN A {\n  additional \"{{ .Name | upper }} A 10.0.0.1\"\n }",
            "4 refused additional {{ .Name | upper }} A 10.0.0.1 | `.Name | upper` cannot be filled in",
        ),
    ] {
        let lines = checked(&format!(". {{\n any\n {text}\n}}"));
        assert!(lines.iter().any(|line| line.starts_with(want)), "{text}\n{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.contains(" refused ")).count(), 1, "{text}\n{lines:#?}");
    }
}

#[test]
fn a_refusal_carries_its_remedy() {
    let got = checked(". {\n route53 x\n}");
    assert_eq!(
        got[1],
        "2 refused route53 x | the directive `route53` is not supported; forward the zone to a server that has it"
    );
}

#[test]
fn imported_lines_are_listed_with_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("Corefile", "(one) {\n any\n}\n. {\n import one\n import *.override\n}\nb {\n import one\n}\n");
    write("a.override", "bogus\nlog\n");
    let path = directory.path().join("Corefile");
    let lines = check(Source::file(&path), &|_| None);
    let short = |line: &CheckedLine| {
        let file = Path::new(&line.file).file_name().unwrap().to_string_lossy().into_owned();
        format!("{file}:{} {}", line.line.unwrap(), line.verdict.name())
    };
    let got: Vec<String> = lines.iter().map(short).collect();
    assert_eq!(
        got,
        [
            "Corefile:2 done",
            "Corefile:4 done",
            "Corefile:8 done",
            "a.override:1 refused",
            "a.override:2 done"
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let lines = check(Source::file(Path::new("/nonexistent/Corefile")), &|_| None);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].verdict == Verdict::Refused && lines[0].line.is_none(), "{lines:?}");
}

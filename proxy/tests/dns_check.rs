//! `portreeve dns check`: what the built binary prints, and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

/// The exit code, stdout and stderr of `portreeve dns check`.
fn check(directory: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    let found = command.current_dir(directory).args(["dns", "check"]).args(args).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (found.status.code(), text(found.stdout), text(found.stderr))
}

#[test]
fn a_corefile_is_checked_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("good", ". {\n any\n errors {\n  stacktrace\n }\n}\n");
    write("bad", ". {\n any\n route53 x\n bogus\n}\n");
    write("map", "kind: ConfigMap\ndata:\n  Corefile: |\n    . {\n     bogus\n    }\n");

    let (code, table, stderr) = check(directory.path(), &["good"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{table}");
    assert!(
        table.starts_with("good:\n") && table.contains("ignored") && table.contains("-> a panic"),
        "{table}"
    );

    let (code, table, stderr) = check(directory.path(), &["bad"]);
    assert_eq!(code, Some(1), "{table}");
    assert_eq!(table.matches("refused").count(), 2, "{table}");
    assert!(stderr.contains("2 lines of the Corefile are refused"), "{stderr}");

    let (code, printed, _) = check(directory.path(), &["good", "-o", "json"]);
    let lines: Vec<Value> = serde_json::from_str(&printed).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(lines[1], json!({"file": "good", "line": 2, "text": "any", "verdict": "done", "reason": ""}));

    let (code, table, stderr) = check(directory.path(), &["--from-configmap", "map"]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("map#Corefile") && stderr.contains("one line"), "{table}{stderr}");

    for args in [&[][..], &["good", "--from-configmap", "map"], &["good", "-o", "xml"]] {
        let (code, ..) = check(directory.path(), args);
        assert_eq!(code, Some(2), "{args:?}");
    }
    assert_eq!(check(directory.path(), &["missing"]).0, Some(1));
}

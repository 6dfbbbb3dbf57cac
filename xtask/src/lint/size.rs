//! Size limits of files and functions.

use proc_macro2::{Delimiter, TokenTree};

use super::{
    finding::Finding,
    source::{Source, is_group, is_ident, is_punct, line},
};

const FILE_LINES: usize = 1000;
const BODY_LINES: usize = 80;

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines >= FILE_LINES {
        findings.push(
            source.finding(FILE_LINES, format!("the file has {lines} lines; under {FILE_LINES} is the rule")),
        );
    }
    source.each_run(&mut |run| {
        for (name, at, body) in functions(run) {
            if body > BODY_LINES {
                let problem = format!("the body of `{name}` has {body} lines; {BODY_LINES} is the most");
                findings.push(source.finding(at, problem));
            }
        }
    });
    findings
}

/// Name, line and body length of the functions among sibling tokens.
fn functions(run: &[TokenTree]) -> Vec<(String, usize, usize)> {
    let starts = run.iter().enumerate().filter(|(_, token)| is_ident(Some(token), "fn"));
    starts.filter_map(|(at, _)| function(run.get(at + 1..)?)).collect()
}

/// `run` starts after `fn`. A type (`fn(u8)`) has no name, a declaration ends with `;` before any body.
fn function(run: &[TokenTree]) -> Option<(String, usize, usize)> {
    let name = run.first().filter(|token| matches!(token, TokenTree::Ident(_)))?;
    let signature = run.iter().take_while(|token| !is_punct(Some(token), ';'));
    let body = signature.into_iter().find(|token| is_group(Some(token), Delimiter::Brace))?;
    let inside = body.span().end().line.saturating_sub(line(body) + 1);
    Some((name.to_string(), line(name), inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(lines: usize) -> String {
        format!("{{\n{}}}", "    x();\n".repeat(lines))
    }

    #[test]
    fn long_bodies_and_files_are_found() {
        let cases: &[(&str, String, &[usize])] = &[
            ("at the limit", format!("fn f() {}", body(80)), &[]),
            ("above", format!("fn f() {}", body(81)), &[1]),
            (
                "a method in an impl in a mod",
                format!("mod m {{\nimpl T {{\nfn f() {}\n}}\n}}", body(81)),
                &[3],
            ),
            ("a long signature is no body", format!("fn f(\n{}) {}", "a: u8,\n".repeat(90), body(2)), &[]),
            (
                "declarations have none",
                format!("trait T {{ fn f(); fn g(); }} static S: u8 = {};", body(90)),
                &[],
            ),
            ("nor have types", format!("type F = fn(u8); const C: u8 = {};", body(90)), &[]),
            ("the second only", format!("fn f() {}\nfn g() {}", body(1), body(81)), &[4]),
            ("strings are not code", format!("const S: &str = \"fn f() {}\";", body(90)), &[]),
            ("a file of 999 lines", "// x\n".repeat(999), &[]),
            ("a file of 1000 lines", "// x\n".repeat(1000), &[1000]),
        ];
        for (name, text, want) in cases {
            let source = Source::parse("x.rs", text).unwrap();
            let lines: Vec<usize> = check(&source).iter().map(|finding| finding.line).collect();
            assert_eq!(lines, *want, "{name}");
        }
    }
}

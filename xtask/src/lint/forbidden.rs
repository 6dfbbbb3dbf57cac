//! Code that is refused: unfinished work and ignored tests.

use proc_macro2::{Delimiter, TokenTree};

use super::{
    finding::Finding,
    source::{Source, is_group, is_ident, is_punct, line},
};

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    source.each_run(&mut |run| {
        for (at, token) in run.iter().enumerate() {
            findings.extend(forbidden(run, at).map(|problem| source.finding(line(token), problem)));
        }
    });
    findings
}

fn forbidden(run: &[TokenTree], at: usize) -> Option<String> {
    let next = run.get(at + 1);
    for name in ["todo", "unimplemented"] {
        if is_ident(run.get(at), name) && is_punct(next, '!') {
            return Some(format!("`{name}!` panics: finish the code, or return an error"));
        }
    }
    let is_attribute = is_punct(run.get(at), '#') && is_group(next, Delimiter::Bracket);
    let ignores = is_attribute && matches!(next, Some(TokenTree::Group(group)) if names_ignore(group));
    ignores.then(|| "an ignored test proves nothing: assert the present behaviour, with a note".to_owned())
}

/// `#[ignore]`, `#[ignore = ".."]`, and behind a `cfg_attr`.
fn names_ignore(group: &proc_macro2::Group) -> bool {
    let run: Vec<TokenTree> = group.stream().into_iter().collect();
    if is_ident(run.first(), "cfg_attr") {
        return matches!(run.get(1), Some(TokenTree::Group(inside)) if inside.stream().into_iter().any(|token| is_ident(Some(&token), "ignore")));
    }
    is_ident(run.first(), "ignore")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_and_ignored_tests_are_found() {
        let cases: &[(&str, &[usize])] = &[
            ("fn f() { todo!() }", &[1]),
            ("fn f() {\n    unimplemented!(\"later\")\n}", &[2]),
            ("#[test]\n#[ignore]\nfn f() {}", &[2]),
            ("#[test]\n#[ignore = \"slow\"]\nfn f() {}", &[2]),
            ("#[cfg_attr(not(root), ignore)]\nfn f() {}", &[1]),
            ("// todo!()\nconst S: &str = \"#[ignore] todo!()\";", &[]),
            ("fn todo() {} fn f() { todo(); let ignore = 1; }", &[]),
            ("#[expect(unused, reason = \"ignore\")]\nfn f() {}", &[]),
        ];
        for (text, want) in cases {
            let source = Source::parse("x.rs", text).unwrap();
            let lines: Vec<usize> = check(&source).iter().map(|finding| finding.line).collect();
            assert_eq!(lines, *want, "{text}");
        }
    }
}

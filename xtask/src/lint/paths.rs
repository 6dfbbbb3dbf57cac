//! The paths that a file names: `a::b` in code, and each leaf of a `use` tree.

use proc_macro2::{Delimiter, TokenTree};

use super::source::{is_group, is_ident, is_punct};

/// Words beside a path that are never part of one.
const KEYWORDS: &[&str] = &[
    "as", "dyn", "else", "extern", "for", "if", "impl", "in", "match", "mut", "pub", "return", "use", "while",
];

#[derive(Clone)]
pub struct Path {
    pub line: usize,
    pub words: Vec<String>,
    /// The name that a `use` declares for the path; `None` for a path in code and for a glob.
    pub alias: Option<String>,
    /// Whether the path stands in a `pub use`.
    pub is_exported: bool,
}

impl Path {
    pub fn starts_with(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(mine, word)| mine == word)
    }
}

/// The paths among sibling tokens. A lone word is a path only where it starts a `use` or `extern crate`: elsewhere it
/// may be a variable.
pub fn paths_in(run: &[TokenTree]) -> Vec<Path> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < run.len() {
        let is_use = at > 0 && is_ident(run.get(at - 1), "use");
        let is_extern_crate = at > 0 && is_ident(run.get(at - 1), "crate");
        let (mut found, next) = path_at(run, at, &[]);
        found.retain(|path| is_use || is_extern_crate || path.words.len() > 1);
        for path in &mut found {
            path.alias = path.alias.take().filter(|_| is_use);
            path.is_exported = is_use && is_visible(&run[..at - 1]);
        }
        paths.append(&mut found);
        at = next.max(at + 1);
    }
    paths
}

/// Whether the tokens before an item end with its visibility: `pub` or `pub(..)`.
fn is_visible(before: &[TokenTree]) -> bool {
    let mut backwards = before.iter().rev();
    let last = backwards.next();
    let is_restricted = is_group(last, Delimiter::Parenthesis) && is_ident(backwards.next(), "pub");
    is_restricted || is_ident(last, "pub")
}

/// The paths that start with the token at `at`, below `prefix`, and where the next one may start.
fn path_at(run: &[TokenTree], mut at: usize, prefix: &[String]) -> (Vec<Path>, usize) {
    let mut words = prefix.to_vec();
    let mut line = None;
    if matches!(run.get(at), Some(TokenTree::Ident(word)) if KEYWORDS.iter().any(|keyword| word == keyword)) {
        return (Vec::new(), at + 1);
    }
    if is_separator(run, at) {
        at += 2;
    }
    while let Some(TokenTree::Ident(word)) = run.get(at) {
        words.push(word.to_string());
        line = line.or(Some(word.span().start().line));
        at += 1;
        if !is_separator(run, at) {
            break;
        }
        at += 2;
        if is_group(run.get(at), Delimiter::Brace) {
            return (leaves(&run[at], &words), at + 1);
        }
    }
    let alias = alias_at(run, at, &mut words);
    let path = line.map(|line| Path { line, words, alias, is_exported: false });
    (path.into_iter().collect(), at)
}

/// The name declared by a `use` of `words`, which end at `at`; `a::{self}` loses its `self`.
fn alias_at(run: &[TokenTree], at: usize, words: &mut Vec<String>) -> Option<String> {
    if words.len() > 1 && words.last().is_some_and(|word| word == "self") {
        words.pop();
    }
    if is_punct(run.get(at), '*') {
        return None;
    }
    if is_ident(run.get(at), "as") {
        return run.get(at + 1).map(TokenTree::to_string);
    }
    words.last().cloned()
}

fn is_separator(run: &[TokenTree], at: usize) -> bool {
    is_punct(run.get(at), ':') && is_punct(run.get(at + 1), ':')
}

/// The paths in the braces of a `use` tree.
fn leaves(group: &TokenTree, prefix: &[String]) -> Vec<Path> {
    let TokenTree::Group(group) = group else { return Vec::new() };
    let run: Vec<TokenTree> = group.stream().into_iter().collect();
    let branches = run.split(|token| is_punct(Some(token), ','));
    branches.flat_map(|branch| path_at(branch, 0, prefix).0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_the_names_they_declare_are_read() {
        let cases: &[(&str, &[&str])] = &[
            ("use a::b;", &["a::b as b"]),
            (
                "pub use a::{b as c, d::{self, e}, f::*};",
                &["pub a::b as c", "pub a::d as d", "pub a::d::e as e", "pub a::f"],
            ),
            ("pub(super) use a::b;", &["pub a::b as b"]),
            ("let x = a::b as c;", &["a::b"]),
            ("let a = b;", &[]),
            ("use a;", &["a as a"]),
        ];
        for (text, want) in cases {
            let run: Vec<TokenTree> = text.parse::<proc_macro2::TokenStream>().unwrap().into_iter().collect();
            let found: Vec<String> = paths_in(&run).iter().map(shown).collect();
            assert_eq!(found, *want, "{text}");
        }
    }

    fn shown(path: &Path) -> String {
        let visibility = if path.is_exported { "pub " } else { "" };
        let alias = path.alias.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        format!("{visibility}{}{alias}", path.words.join("::"))
    }
}

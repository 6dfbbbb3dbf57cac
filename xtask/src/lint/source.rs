//! A Rust file as tokens: comments and strings never match a rule.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{finding::Finding, text::Text};

pub struct Source {
    /// Relative to the workspace's root, with `/`.
    pub file: String,
    pub text: String,
    pub tokens: TokenStream,
}

impl Source {
    pub fn parse(file: &str, text: &str) -> Result<Source> {
        let tokens = text.parse().map_err(|error: proc_macro2::LexError| {
            anyhow!("{file}:{}: not Rust: {error}", error.span().start().line)
        })?;
        Ok(Source { file: file.to_owned(), text: text.to_owned(), tokens })
    }

    pub fn finding(&self, line: usize, problem: impl Into<String>) -> Finding {
        Finding { file: self.file.clone(), line, problem: problem.into() }
    }

    /// The file without test modules, which may use any module.
    pub fn shipped(&self) -> Source {
        let is_tests = self.file.ends_with("/tests.rs") || self.file.contains("/tests/");
        let tokens = if is_tests { TokenStream::new() } else { without_tests(self.tokens.clone()) };
        Source { file: self.file.clone(), text: self.text.clone(), tokens }
    }

    /// Calls `visit` with every run of sibling tokens: the file's, then those inside every bracket.
    pub fn each_run(&self, visit: &mut impl FnMut(&[TokenTree])) {
        each_run(self.tokens.clone(), visit);
    }
}

fn each_run(tokens: TokenStream, visit: &mut impl FnMut(&[TokenTree])) {
    let run: Vec<TokenTree> = tokens.into_iter().collect();
    visit(&run);
    for token in run {
        if let TokenTree::Group(group) = token {
            each_run(group.stream(), visit);
        }
    }
}

/// Removes each `#[cfg(test)] mod name { .. }`.
pub fn without_tests(tokens: TokenStream) -> TokenStream {
    let run: Vec<TokenTree> = tokens.into_iter().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < run.len() {
        if starts_test_module(&run[at..]) {
            at += 5;
        } else {
            kept.push(run[at].clone());
            at += 1;
        }
    }
    kept.into_iter().collect()
}

fn starts_test_module(run: &[TokenTree]) -> bool {
    let is_cfg_test = || run.get(1).is_some_and(|group| group.to_string().replace(' ', "") == "[cfg(test)]");
    is_punct(run.first(), '#')
        && is_ident(run.get(2), "mod")
        && is_group(run.get(4), Delimiter::Brace)
        && is_cfg_test()
}

pub fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

pub fn is_ident(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == word)
}

pub fn is_punct(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

pub fn is_group(token: Option<&TokenTree>, delimiter: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == delimiter)
}

/// Every Rust file among `texts`.
pub fn parse_all(texts: &[Text]) -> Result<Vec<Source>> {
    let rust = texts.iter().filter(|text| text.file.ends_with(".rs"));
    rust.map(|text| Source::parse(&text.file, &text.text)).collect()
}

//! A Rust file as tokens, so that comments and strings never match a rule.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Finding;

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

    pub fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { file: self.file.clone(), line, what: what.into() }
    }

    /// Without test modules, which may know whom they like.
    pub fn shipped(&self) -> Source {
        let is_tests = self.file.ends_with("/tests.rs") || self.file.contains("/tests/");
        let tokens = if is_tests { TokenStream::new() } else { without_tests(self.tokens.clone()) };
        Source { file: self.file.clone(), text: self.text.clone(), tokens }
    }

    /// Calls `visit` with every run of sibling tokens: the file itself, then the inside of every bracket.
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

/// Leaves out each `#[cfg(test)] mod name { .. }`.
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

/// Every Rust file of the workspace, in order of name.
pub fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    files.iter().map(|file| read(root, file)).collect()
}

fn read(root: &Path, file: &Path) -> Result<Source> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let relative = file.strip_prefix(root).unwrap_or(file);
    Source::parse(&relative.to_string_lossy(), &text)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

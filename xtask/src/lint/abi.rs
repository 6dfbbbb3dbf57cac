//! A change of the ABI requires a new `ABI_VERSION`.
//!
//! `FINGERPRINT` beside the ABI's files holds the version and a hash of their tokens: comments, formatting and tests
//! may change freely, any other change needs a new `ABI_VERSION` and `cargo xtask lint --bless`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{
    finding::Finding,
    source::{self, Source, is_ident, is_punct, line},
    text,
};

const FILES: [&str; 2] = ["proxy-ebpf/src/abi/", "proxy-ebpf/src/abi.rs"];
const FINGERPRINT: &str = "proxy-ebpf/src/abi/FINGERPRINT";

#[derive(Debug, PartialEq)]
struct Fingerprint {
    version: u64,
    hash: u64,
}

/// The ABI in the sources.
struct Abi {
    current: Fingerprint,
    /// File and line of `ABI_VERSION`.
    file: String,
    line: usize,
}

pub fn check(root: &Path, sources: &[Source]) -> Result<Vec<Finding>> {
    let Some(abi) = Abi::of(sources)? else { return Ok(Vec::new()) };
    let recorded = Fingerprint::read(root)?;
    let problem = mismatch(&abi.current, recorded.as_ref());
    Ok(problem.map(|problem| Finding { file: abi.file, line: abi.line, problem }).into_iter().collect())
}

/// Writes the fingerprint. Errors: the ABI changed without a new version, and not only in its names.
pub fn bless(root: &Path, same_layout: bool) -> Result<String> {
    let abi = Abi::of(&source::parse_all(&text::read_all(root, &[".rs"])?)?)?
        .context("there is no ABI under proxy-ebpf/src/abi yet")?;
    let version = abi.current.version;
    match Fingerprint::read(root)? {
        Some(recorded) if recorded == abi.current => {
            return Ok(format!("{FINGERPRINT} already holds ABI version {version}"));
        }
        Some(recorded) if recorded.version > version || (recorded.version == version && !same_layout) => {
            bail!(
                "the ABI changed, and its version is still {version} ({FINGERPRINT} holds version {}): raise ABI_VERSION \
             in {} first, or pass --same-layout if the content of no map changed",
                recorded.version,
                abi.file
            )
        }
        Some(_) | None => {}
    }
    let file = root.join(FINGERPRINT);
    fs::write(&file, abi.current.text()).with_context(|| format!("writing {}", file.display()))?;
    Ok(format!("{FINGERPRINT} now holds ABI version {version}"))
}

/// The problem with a recorded fingerprint, if any.
fn mismatch(current: &Fingerprint, recorded: Option<&Fingerprint>) -> Option<String> {
    let Some(recorded) = recorded else {
        return Some(format!("{FINGERPRINT} is missing: run `cargo xtask lint --bless`"));
    };
    if current.version == recorded.version && current.hash != recorded.hash {
        return Some(format!(
            "the ABI changed and ABI_VERSION is still {}: raise it, then run `cargo xtask lint --bless`",
            current.version
        ));
    }
    (current != recorded).then(|| {
        format!(
            "ABI_VERSION is {} and {FINGERPRINT} holds {}: run `cargo xtask lint --bless`",
            current.version, recorded.version
        )
    })
}

impl Abi {
    fn of(sources: &[Source]) -> Result<Option<Abi>> {
        let ours: Vec<&Source> = sources
            .iter()
            .filter(|source| FILES.iter().any(|prefix| source.file.starts_with(prefix)))
            .collect();
        if ours.is_empty() {
            return Ok(None);
        }
        let (file, line, version) = ours
            .iter()
            .find_map(|source| version_in(source).map(|(line, version)| (source.file.clone(), line, version)))
            .context("no file under proxy-ebpf/src/abi declares `const ABI_VERSION: .. = <number>`")?;
        let hash =
            ours.iter().fold(FNV_START, |hash, source| fnv(hash, &without_docs(source.shipped().tokens)));
        Ok(Some(Abi { current: Fingerprint { version, hash }, file, line }))
    }
}

impl Fingerprint {
    fn read(root: &Path) -> Result<Option<Fingerprint>> {
        let file = root.join(FINGERPRINT);
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Fingerprint::parse(&text)
            .map(Some)
            .with_context(|| format!("{FINGERPRINT} is not `<version> <hash>`: {text:?}"))
    }

    fn parse(text: &str) -> Option<Fingerprint> {
        let (version, hash) = text.trim().split_once(' ')?;
        Some(Fingerprint { version: version.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
    }

    fn text(&self) -> String {
        format!("{} {:016x}\n", self.version, self.hash)
    }
}

/// Line and value of `const ABI_VERSION: T = N`.
fn version_in(source: &Source) -> Option<(usize, u64)> {
    let run: Vec<TokenTree> = source.tokens.clone().into_iter().collect();
    let at = run
        .windows(2)
        .position(|two| is_ident(two.first(), "const") && is_ident(two.get(1), "ABI_VERSION"))?;
    let equals = at + run[at..].iter().position(|token| is_punct(Some(token), '='))?;
    let literal = run.get(equals + 1)?.to_string();
    let digits = literal.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((line(&run[at]), digits.parse().ok()?))
}

/// The tokens as text, without documentation.
fn without_docs(tokens: TokenStream) -> String {
    let run: Vec<TokenTree> = tokens.into_iter().collect();
    let mut words = String::new();
    let mut at = 0;
    while at < run.len() {
        if let Some(length) = length_of_doc(&run[at..]) {
            at += length;
            continue;
        }
        match &run[at] {
            TokenTree::Group(group) => {
                let (open, close) = brackets(group.delimiter());
                words.push_str(open);
                words.push_str(&without_docs(group.stream()));
                words.push_str(close);
            }
            token @ (TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_)) => {
                words.push_str(&token.to_string())
            }
        }
        words.push(' ');
        at += 1;
    }
    words
}

/// Length of `#[doc ..]` or `#![doc ..]`, the form in which the lexer returns documentation comments.
fn length_of_doc(run: &[TokenTree]) -> Option<usize> {
    let inner = usize::from(is_punct(run.get(1), '!'));
    let attribute = is_punct(run.first(), '#').then(|| run.get(1 + inner))??;
    attribute_starts_with(attribute, "doc").then_some(2 + inner)
}

fn attribute_starts_with(token: &TokenTree, word: &str) -> bool {
    let TokenTree::Group(group) = token else { return false };
    group.delimiter() == Delimiter::Bracket && is_ident(group.stream().into_iter().next().as_ref(), word)
}

fn brackets(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a. The hash is checked in, and the standard library's may differ between releases.
fn fnv(start: u64, text: &str) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "pub const ABI_VERSION: u32 = 3;\npub struct S { pub a: u32 }\n";

    fn abi(text: &str) -> Abi {
        Abi::of(&[Source::parse("proxy-ebpf/src/abi/mod.rs", text).unwrap()]).unwrap().unwrap()
    }

    #[test]
    fn only_code_changes_the_fingerprint() {
        let cases = [
            ("comments", format!("//! Types.\n{BASE}// more\n/* and more */"), true),
            ("documentation", BASE.replace("pub a", "/// Counts.\n#[doc = \"x\"] pub a"), true),
            ("formatting", BASE.replace(' ', "\n  "), true),
            ("tests", format!("{BASE}#[cfg(test)] mod tests {{ fn f() {{}} }}"), true),
            ("a field's type", BASE.replace("a: u32", "a: u64"), false),
            ("a new field", BASE.replace("a: u32", "a: u32, b: u8"), false),
            ("a new attribute", BASE.replace("pub struct", "#[repr(C)] pub struct"), false),
            ("a new constant", format!("{BASE}const X: u8 = 1;"), false),
            ("code after tests", format!("{BASE}#[cfg(test)] mod tests {{}} const X: u8 = 1;"), false),
        ];
        for (name, text, same) in cases {
            assert_eq!(abi(&text).current == abi(BASE).current, same, "{name}");
        }
    }

    #[test]
    fn a_change_requires_a_version_and_a_version_requires_bless() {
        let recorded = Fingerprint { version: 3, hash: 7 };
        let cases = [
            (Fingerprint { version: 3, hash: 7 }, Some(&recorded), None),
            (Fingerprint { version: 3, hash: 8 }, Some(&recorded), Some("ABI_VERSION is still 3")),
            (Fingerprint { version: 4, hash: 8 }, Some(&recorded), Some("ABI_VERSION is 4")),
            (Fingerprint { version: 4, hash: 7 }, Some(&recorded), Some("ABI_VERSION is 4")),
            (Fingerprint { version: 3, hash: 7 }, None, Some("is missing")),
        ];
        for (current, recorded, want) in cases {
            let got = mismatch(&current, recorded);
            match want {
                None => assert_eq!(got, None, "{current:?}"),
                Some(want) => {
                    assert!(got.as_ref().is_some_and(|got| got.contains(want)), "{current:?}: {got:?}")
                }
            }
        }
    }

    #[test]
    fn versions_and_fingerprints_are_read() {
        for (text, want) in [
            ("pub const ABI_VERSION: u32 = 12;", Some((1, 12))),
            ("\npub const ABI_VERSION: u32 = 12u32;", Some((2, 12))),
            ("pub const OTHER: u32 = 12;", None),
            ("// const ABI_VERSION: u32 = 12;", None),
        ] {
            assert_eq!(version_in(&Source::parse("x.rs", text).unwrap()), want, "{text}");
        }
        let fingerprint = Fingerprint { version: 12, hash: 0xab };
        assert_eq!(Fingerprint::parse(&fingerprint.text()), Some(fingerprint));
        assert_eq!(Fingerprint::parse("12"), None);
    }
}

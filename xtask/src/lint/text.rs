//! Text files of the repository, word by word.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A file as words: identifiers of code, words of prose.
pub struct Text {
    /// Relative to the workspace's root, with `/`.
    pub file: String,
    pub text: String,
}

/// A word and its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Word<'a> {
    pub line: usize,
    pub word: &'a str,
    /// Whether nothing but spaces, line breaks and comment marks separate it from the word before.
    pub continues: bool,
}

impl Text {
    pub fn words(&self) -> Vec<Word<'_>> {
        let mut words = Vec::new();
        let mut gap_continues = false;
        for (index, line) in self.text.lines().enumerate() {
            let mut rest = line;
            while let Some(start) = rest.find(is_of_word) {
                gap_continues &= is_blank(&rest[..start]);
                let word = &rest[start..];
                let (word, after) = word.split_at(word.find(|c| !is_of_word(c)).unwrap_or(word.len()));
                words.push(Word { line: index + 1, word, continues: gap_continues });
                (rest, gap_continues) = (after, true);
            }
            gap_continues &= is_blank(rest);
        }
        words
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_blank(gap: &str) -> bool {
    gap.chars().all(|c| c.is_whitespace() || "/!*#>".contains(c))
}

/// The files of the workspace whose names end with one of `endings`, in order of name.
pub fn read_all(root: &Path, endings: &[&str]) -> Result<Vec<Text>> {
    let mut files = Vec::new();
    collect(root, endings, &mut files)?;
    files.sort();
    files.iter().map(|file| read(root, file)).collect()
}

fn read(root: &Path, file: &Path) -> Result<Text> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let relative = file.strip_prefix(root).unwrap_or(file);
    Ok(Text { file: relative.to_string_lossy().into_owned(), text })
}

fn collect(directory: &Path, endings: &[&str], files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, endings, files)?;
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, word and whether it continues.
    type Found = (usize, &'static str, bool);

    #[test]
    fn words_have_lines_and_know_whether_they_continue() {
        let cases: &[(&str, &[Found])] = &[
            ("a slow path", &[(1, "a", false), (1, "slow", true), (1, "path", true)]),
            ("slow, path", &[(1, "slow", false), (1, "path", false)]),
            ("/// slow\n    /// path_2", &[(1, "slow", false), (2, "path_2", true)]),
            ("slow.\n\npath", &[(1, "slow", false), (3, "path", false)]),
            ("a::b", &[(1, "a", false), (1, "b", false)]),
            ("", &[]),
        ];
        for (text, want) in cases {
            let text = Text { file: "x.md".to_owned(), text: (*text).to_owned() };
            let words: Vec<_> =
                text.words().iter().map(|word| (word.line, word.word, word.continues)).collect();
            assert_eq!(words, *want, "{}", text.text);
        }
    }
}

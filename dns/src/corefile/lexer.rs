//! Words and lines.

use std::sync::Arc;

use super::CorefileError;

/// A word and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub text: String,
    /// Whether the word was quoted; a quoted brace is an ordinary word.
    pub quoted: bool,
    pub file: Arc<str>,
    pub line: usize,
}

impl Word {
    pub(crate) fn is(&self, symbol: &str) -> bool {
        !self.quoted && self.text == symbol
    }

    pub(crate) fn refuse(&self, problem: impl Into<String>) -> CorefileError {
        CorefileError::Refused { file: self.file.to_string(), line: self.line, problem: problem.into() }
    }
}

/// The words of each non-empty line, with `{$NAME}` and `{%NAME%}` expanded.
pub(crate) fn lines(
    text: &str,
    file: &Arc<str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Vec<Word>>, CorefileError> {
    let mut lexer = Lexer { rest: text.trim_start_matches('\u{feff}'), line: 1, file };
    let mut lines = vec![Vec::new()];
    while let Some(step) = lexer.step()? {
        match step {
            Step::NewLine => lines.push(Vec::new()),
            Step::Word(mut word) => {
                word.text = filled(&word.text, env);
                // An empty variable leaves no word.
                let is_there = word.quoted || !word.text.is_empty();
                lines.last_mut().into_iter().for_each(|line| line.extend(is_there.then(|| word.clone())));
            }
        }
    }
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    file: &'a Arc<str>,
}

enum Step {
    Word(Word),
    NewLine,
}

impl Lexer<'_> {
    fn step(&mut self) -> Result<Option<Step>, CorefileError> {
        // As in CoreDNS, the space of any language separates: an editor or a web page may have put in a no-break one.
        self.rest = self.rest.trim_start_matches(|next: char| next.is_whitespace() && next != '\n');
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        match first {
            '\n' => {
                self.take(1);
                self.line += 1;
                Ok(Some(Step::NewLine))
            }
            '#' => {
                self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
                self.step()
            }
            '"' => self.quoted().map(|word| Some(Step::Word(word))),
            _ => {
                let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                let text = self.take(end).to_owned();
                Ok(Some(Step::Word(self.word(text, false, self.line))))
            }
        }
    }

    /// A backslash is kept, for regular expressions, except before a quote.
    fn quoted(&mut self) -> Result<Word, CorefileError> {
        let start = self.line;
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1).peekable();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.take(at + 1);
                    return Ok(self.word(text, true, start));
                }
                '\\' if characters.peek().is_some_and(|(_, next)| *next == '"') => {
                    text.push('"');
                    characters.next();
                }
                _ => {
                    self.line += usize::from(character == '\n');
                    text.push(character);
                }
            }
        }
        Err(self.word(text, true, start).refuse("a quote begins here and never ends; close it with \""))
    }

    fn take(&mut self, length: usize) -> &str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn word(&self, text: String, quoted: bool, line: usize) -> Word {
        Word { text, quoted, file: Arc::clone(self.file), line }
    }
}

/// Expands variables, but not in the value of one.
fn filled(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        match variable(from) {
            Some((name, length)) => {
                out.push_str(&env(name).unwrap_or_default());
                rest = &from[length..];
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out + rest
}

/// The variable name at the start, and the length of its reference.
fn variable(text: &str) -> Option<(&str, usize)> {
    let (inside, close) = match text.strip_prefix("{$") {
        Some(inside) => (inside, "}"),
        None => (text.strip_prefix("{%")?, "%}"),
    };
    let end = inside.find(close)?;
    Some((&inside[..end], 2 + end + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split() {
        let env = |name: &str| (name == "NAME").then(|| "a value".to_owned());
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("a b\tc\r\nd", &["1:a", "1:b", "1:c", "2:d"]),
            ("a # comment { \"\n# another\n b#c", &["1:a", "3:b#c"]),
            (r#"a "b c" "" d"e"#, &["1:a", "1:b c", "1:", "1:d\"e"]),
            (r#""say \"yes\" to \d""#, &[r#"1:say "yes" to \d"#]),
            ("\"two\nlines\" b\nc", &["1:two\nlines", "2:b", "3:c"]),
            ("{$NAME}:{%NAME%} {$OTHER} {x {$", &["1:a value:a value", "1:{x", "1:{$"]),
            ("\u{feff}. {\n}", &["1:.", "1:{", "2:}"]),
            ("a\u{a0}b\u{c}c\u{2003}\u{b}\n\u{85}d", &["1:a", "1:b", "1:c", "2:d"]),
        ];
        for (text, want) in cases {
            let lines = lines(text, &"f".into(), &env).unwrap();
            let got: Vec<String> =
                lines.iter().flatten().map(|word| format!("{}:{}", word.line, word.text)).collect();
            assert_eq!(got, *want, "{text:?}");
        }
        let error = lines("a\n b \"c", &"f".into(), &env).unwrap_err();
        assert!(error.to_string().starts_with("f:2: "), "{error}");
    }
}

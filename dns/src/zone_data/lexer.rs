//! Entries of a master file (RFC 1035, section 5.1): words, with comments removed and parentheses joined.

/// A word and whether it was quoted. Escapes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub quoted: bool,
    /// Whether it follows the word before without a blank, as in `key="value"`.
    pub is_joined: bool,
}

/// The words of a record or a directive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of its first word.
    pub line: usize,
    /// Whether the line begins with a blank: the record has the owner of the one before.
    pub is_indented: bool,
    pub words: Vec<Word>,
}

/// The line and the problem.
pub(super) type Problem = (usize, &'static str);

/// Limit of the words of an entry.
const MAX_WORDS: usize = 4096;

/// The entries of a text.
pub(super) struct Lexer<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text.trim_start_matches('\u{feff}').chars().peekable(), line: 1 }
    }

    /// The next entry that has words. `None`: the end of the text.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, Problem> {
        loop {
            let is_indented = self.rest.peek().is_some_and(|next| is_blank(*next));
            let words = self.words()?;
            match (words, self.rest.peek()) {
                ((line, words), _) if !words.is_empty() => {
                    return Ok(Some(Entry { line, is_indented, words }));
                }
                (_, None) => return Ok(None),
                _ => {}
            }
        }
    }

    /// The words up to the end of the line, or of the last line if parentheses are open. Returns the line of the first.
    fn words(&mut self) -> Result<(usize, Vec<Word>), Problem> {
        let (mut words, mut first, mut depth) = (Vec::new(), self.line, 0_usize);
        let mut is_joined = false;
        while let Some(next) = self.rest.peek().copied() {
            let follows = std::mem::take(&mut is_joined);
            match next {
                '\n' => {
                    self.take();
                    if depth == 0 {
                        return Ok((first, words));
                    }
                }
                ';' => while self.rest.next_if(|next| *next != '\n').is_some() {},
                '(' => {
                    self.take();
                    depth += 1;
                }
                ')' => {
                    self.take();
                    depth = depth.checked_sub(1).ok_or((self.line, "this ) closes nothing"))?;
                }
                next if is_blank(next) => self.take(),
                _ => {
                    if words.is_empty() {
                        first = self.line;
                    }
                    words.push(Word { is_joined: follows, ..self.word()? });
                    is_joined = true;
                    if words.len() > MAX_WORDS {
                        return Err((self.line, "too many words in one record"));
                    }
                }
            }
        }
        if depth > 0 { Err((first, "a ( is never closed")) } else { Ok((first, words)) }
    }

    fn word(&mut self) -> Result<Word, Problem> {
        let quoted = self.rest.next_if_eq(&'"').is_some();
        let mut text = String::new();
        loop {
            match self.rest.peek().copied() {
                Some('"') if quoted => {
                    self.take();
                    return Ok(Word { text, quoted, is_joined: false });
                }
                None | Some('\n') if quoted => return Err((self.line, "a quote is never closed")),
                None => return Ok(Word { text, quoted, is_joined: false }),
                Some(next) if !quoted && (is_blank(next) || matches!(next, '\n' | ';' | '(' | ')' | '"')) => {
                    return Ok(Word { text, quoted, is_joined: false });
                }
                Some('\\') => {
                    self.take();
                    let escaped = self.rest.next_if(|next| *next != '\n');
                    text.extend(['\\', escaped.ok_or((self.line, "a \\ escapes nothing"))?]);
                }
                Some(next) => {
                    text.push(next);
                    self.take();
                }
            }
        }
    }

    fn take(&mut self) {
        self.line += usize::from(self.rest.next() == Some('\n'));
    }
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Result<Vec<String>, Problem> {
        let mut lexer = Lexer::new(text);
        let mut entries = Vec::new();
        while let Some(Entry { line, is_indented, words }) = lexer.next_entry()? {
            let words: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
            entries.push(format!("{line}{} {}", if is_indented { ">" } else { ":" }, words.join("|")));
        }
        Ok(entries)
    }

    #[test]
    fn entries_are_lines_or_parentheses() {
        for (text, want) in [
            ("", &[][..]),
            ("a b\n\n; comment\n c d ; e\n", &["1: a|b", "4> c|d"]),
            ("a ( b ; c\n\n d ) e\nf", &["1: a|b|d|e", "4: f"]),
            ("a \"b ; (c\" d", &["1: a|b ; (c|d"]),
            ("a \"b\\\"c\" \\; \\(\r\n", &["1: a|b\\\"c|\\;|\\("]),
            ("  \n \t\n", &[]),
        ] {
            assert_eq!(entries(text).unwrap(), want, "{text:?}");
        }
        for (text, line) in [("a (\nb", 1), ("\na \"b\nc", 2), ("a )", 1), ("a \\", 1)] {
            assert_eq!(entries(text).unwrap_err().0, line, "{text:?}");
        }
    }
}

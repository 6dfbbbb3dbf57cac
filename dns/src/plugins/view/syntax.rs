//! Tokens of an expression.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Text(String),
    Number(i64),
    /// A name, or an operator that is a word.
    Word(String),
    Symbol(&'static str),
}

/// The longest first.
const SYMBOLS: [&str; 21] = [
    "||", "&&", "==", "!=", "<=", ">=", "!", "<", ">", "(", ")", "[", "]", ",", "?", ":", "+", "-", "*", "/",
    "%",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let token = if matches!(first, '\'' | '"' | '`') {
            literal(&mut rest, first)?
        } else if first.is_ascii_digit() {
            let digits = split(&mut rest, |next| next.is_ascii_digit());
            Token::Number(digits.parse().map_err(|_| format!("the number {digits} is too large"))?)
        } else if first.is_ascii_alphabetic() || first == '_' {
            Token::Word(split(&mut rest, |next| next.is_ascii_alphanumeric() || next == '_').to_owned())
        } else {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or_else(|| format!("`{first}` means nothing in an expression"))?;
            rest = &rest[symbol.len()..];
            Token::Symbol(symbol)
        };
        tokens.push(token);
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn split<'t>(rest: &mut &'t str, belongs: impl Fn(char) -> bool) -> &'t str {
    let end = rest.find(|next| !belongs(next)).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

/// A text in quotes; in backquotes it has no escapes.
fn literal(rest: &mut &str, quote: char) -> Result<Token, String> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == quote {
            *rest = &rest[at + quote.len_utf8()..];
            return Ok(Token::Text(text));
        }
        if character != '\\' || quote == '`' {
            text.push(character);
            continue;
        }
        let escaped = match characters.next() {
            Some((_, 'n')) => '\n',
            Some((_, 't')) => '\t',
            Some((_, escaped @ ('\\' | '\'' | '"'))) => escaped,
            _ => return Err(format!("a \\ in {rest} escapes nothing; write \\\\ for one in the text")),
        };
        text.push(escaped);
    }
    Err(format!("the quote of {rest} is never closed"))
}

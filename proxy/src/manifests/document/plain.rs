//! Fast path: a parser for the subset of YAML in which most Kubernetes manifests are written (block style, one scalar per
//! line, small flow collections). It is about twenty times faster than the full parser.
//!
//! It returns `None` for anything outside of the subset; then the full parser (slow path) reads the document. Only the
//! full parser reports errors. For the subset both return the same tree; a property test compares them.

use std::borrow::Cow;

use crate::k8s::tree::Tree;

const MAX_DEPTH: u32 = 64;

type Field<'a> = (Cow<'a, str>, Tree<'a>);

pub fn read(text: &str) -> Option<Tree<'_>> {
    let lines = lines(text)?;
    let indent = lines.first()?.indent;
    let mut reader = Reader { lines, next: 0 };
    let tree = reader.block(indent, 0)?;
    (reader.next == reader.lines.len()).then_some(tree)
}

#[derive(Clone, Copy)]
struct Line<'a> {
    indent: usize,
    content: &'a str,
}

/// The lines that are not empty or comments. Returns `None` for an indented first line: it may belong to the marker before
/// it.
fn lines(text: &str) -> Option<Vec<Line<'_>>> {
    let mut lines = Vec::new();
    for (n, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        let content = content.trim_end_matches(' ');
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if content.starts_with('%') || (n == 0 && indent > 0) || !content.bytes().all(is_printable) {
            return None;
        }
        lines.push(Line { indent, content });
    }
    Some(lines)
}

/// Whether a byte is printable ASCII. Tabs, control and non-ASCII characters are outside of the subset.
fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<Line<'a>> {
        self.lines.get(self.next).copied()
    }

    fn block(&mut self, indent: usize, depth: u32) -> Option<Tree<'a>> {
        if depth == MAX_DEPTH {
            return None;
        }
        let content = self.peek()?.content;
        if after_dash(content).is_some() {
            self.list(indent, depth)
        } else if key(content).is_some() {
            self.map(indent, depth)
        } else {
            self.scalar_line(indent)
        }
    }

    fn list(&mut self, indent: usize, depth: u32) -> Option<Tree<'a>> {
        let mut elements = Vec::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent) {
            let Some(rest) = after_dash(line.content) else { break };
            elements.push(self.element(line, rest, depth)?);
        }
        self.no_deeper_than(indent)?;
        Some(Tree::List(elements))
    }

    /// A list element. The text after the dash is a block of its own, indented by the dash.
    fn element(&mut self, line: Line<'a>, rest: &'a str, depth: u32) -> Option<Tree<'a>> {
        if rest.is_empty() || rest.starts_with('#') {
            self.next += 1;
            return match self.peek() {
                Some(below) if below.indent > line.indent => self.block(below.indent, depth + 1),
                _ => Some(Tree::Null),
            };
        }
        let indent = line.indent + line.content.len() - rest.len();
        self.lines[self.next] = Line { indent, content: rest };
        self.block(indent, depth + 1)
    }

    fn map(&mut self, indent: usize, depth: u32) -> Option<Tree<'a>> {
        let mut fields: Vec<Field<'a>> = Vec::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent) {
            if after_dash(line.content).is_some() {
                break;
            }
            let (name, rest) = key(line.content)?;
            if fields.iter().any(|(other, _)| other == name) {
                return None;
            }
            let value = self.value(indent, rest, depth)?;
            fields.push((name.into(), value));
        }
        self.no_deeper_than(indent)?;
        Some(Tree::Map(fields))
    }

    fn value(&mut self, indent: usize, rest: &'a str, depth: u32) -> Option<Tree<'a>> {
        self.next += 1;
        if !rest.is_empty() && !rest.starts_with('#') {
            let value = scalar(rest)?;
            self.no_deeper_than(indent)?;
            return Some(value);
        }
        match self.peek() {
            Some(below) if below.indent > indent => self.block(below.indent, depth + 1),
            // A list may have the indentation of its key.
            Some(below) if below.indent == indent && after_dash(below.content).is_some() => {
                self.list(indent, depth + 1)
            }
            _ => Some(Tree::Null),
        }
    }

    fn scalar_line(&mut self, indent: usize) -> Option<Tree<'a>> {
        let value = scalar(self.peek()?.content)?;
        self.next += 1;
        // A second line would continue the scalar.
        self.peek().is_none_or(|line| line.indent < indent).then_some(value)
    }

    /// Returns `None` if the next line is deeper: it would continue a scalar, or be an error.
    fn no_deeper_than(&self, indent: usize) -> Option<()> {
        self.peek().is_none_or(|line| line.indent <= indent).then_some(())
    }
}

fn after_dash(content: &str) -> Option<&str> {
    let rest = content.strip_prefix('-')?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim_start_matches(' '))
}

/// Splits a plain key from the text after its colon.
fn key(content: &str) -> Option<(&str, &str)> {
    let end = content.bytes().position(|byte| !is_name_byte(byte))?;
    let (name, rest) = content.split_at(end);
    let rest = rest.strip_prefix(':')?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    is_surely_text(name).then(|| (name, rest.trim_start_matches(' ')))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-')
}

/// Reads the rest of a line: a scalar or a flow collection, and an optional comment.
fn scalar(text: &str) -> Option<Tree<'_>> {
    match text.as_bytes().first()? {
        b'[' | b'{' | b'"' | b'\'' => {
            let (value, rest) = flow(text, 0)?;
            let rest_is_comment = rest.is_empty() || rest.trim_start_matches(' ').starts_with('#');
            (rest_is_comment && (rest.is_empty() || rest.starts_with(' '))).then_some(value)
        }
        _ => {
            let text = text.find(" #").map_or(text, |comment| &text[..comment]).trim_end_matches(' ');
            let is_key_like = text.contains(": ") || text.ends_with(':');
            if is_key_like { None } else { plain(text) }
        }
    }
}

fn plain(text: &str) -> Option<Tree<'_>> {
    match text {
        "true" => return Some(Tree::Bool(true)),
        "false" => return Some(Tree::Bool(false)),
        "null" => return Some(Tree::Null),
        _ => {}
    }
    if is_surely_text(text) { Some(Tree::Text(text.into())) } else { integer(text).map(Tree::Int) }
}

/// Reads a decimal integer. Other notations differ between versions of YAML.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_ordinary = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if is_ordinary || text == "0" { text.parse().ok() } else { None }
}

/// Whether a scalar is a string in every version of YAML: not a number, boolean or null.
fn is_surely_text(text: &str) -> bool {
    const WORDS: [&str; 12] =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"];
    match text.as_bytes().first() {
        Some(first) if first.is_ascii_alphabetic() => {
            text.len() > 8 || !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        }
        Some(b'/') => true,
        // IP addresses and CIDRs, which are not numbers in any version.
        Some(first) if first.is_ascii_digit() => {
            let is_dotted = text.bytes().filter(|byte| *byte == b'.').count() >= 2;
            let is_network = text.contains('/') || text.contains("::");
            text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'/'))
                && (is_dotted || is_network)
        }
        _ => false,
    }
}

/// Reads a flow collection, a quoted scalar, or a plain scalar in a collection. Also returns the text after it.
fn flow(text: &str, depth: u32) -> Option<(Tree<'_>, &str)> {
    if depth == MAX_DEPTH {
        return None;
    }
    match text.as_bytes().first()? {
        b'[' => flow_list(&text[1..], depth),
        b'{' => flow_map(&text[1..], depth),
        quote @ (b'"' | b'\'') => quoted(&text[1..], char::from(*quote)),
        _ => {
            let end = text.bytes().position(|byte| !is_name_byte(byte)).unwrap_or(text.len());
            let (value, rest) = text.split_at(end);
            let ends = rest.trim_start_matches(' ').starts_with([',', ']', '}']);
            if ends { Some((plain(value)?, rest)) } else { None }
        }
    }
}

/// Reads a quoted scalar without escapes, whose rules depend on the kind of quote.
fn quoted(text: &str, quote: char) -> Option<(Tree<'_>, &str)> {
    let (value, rest) = text.split_once(quote)?;
    let is_simple = !value.contains('\\') && !rest.starts_with(quote);
    is_simple.then(|| (Tree::Text(value.into()), rest))
}

fn flow_list(mut text: &str, depth: u32) -> Option<(Tree<'_>, &str)> {
    let mut elements = Vec::new();
    loop {
        text = text.trim_start_matches(' ');
        if let Some(rest) = text.strip_prefix(']') {
            return Some((Tree::List(elements), rest));
        }
        let (element, rest) = flow(text, depth + 1)?;
        elements.push(element);
        text = separator(rest, ']')?;
    }
}

fn flow_map(mut text: &str, depth: u32) -> Option<(Tree<'_>, &str)> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    loop {
        text = text.trim_start_matches(' ');
        if let Some(rest) = text.strip_prefix('}') {
            return Some((Tree::Map(fields), rest));
        }
        let end = text.bytes().position(|byte| !is_name_byte(byte))?;
        let (name, rest) = text.split_at(end);
        let rest = rest.strip_prefix(": ")?;
        if !is_surely_text(name) || fields.iter().any(|(other, _)| other == name) {
            return None;
        }
        let (value, rest) = flow(rest.trim_start_matches(' '), depth + 1)?;
        fields.push((name.into(), value));
        text = separator(rest, '}')?;
    }
}

/// Skips a comma. Returns `None` unless a comma or the closing bracket follows.
fn separator(text: &str, closing: char) -> Option<&str> {
    let text = text.trim_start_matches(' ');
    text.strip_prefix(',').or_else(|| text.starts_with(closing).then_some(text))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::{prelude::*, test_runner::TestRunner};

    use super::*;

    const SERVICE: &str = "\
# a comment
apiVersion: v1
kind: Service
metadata:
  name: web   # another
  namespace: shop
  labels: {app: web, tier: 'front end'}
  annotations: {}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, \"fd00::1\"]
  ipFamilies:
  - IPv4
  - IPv6
  publishNotReadyAddresses: false
  selector:
  ports:
    - name: http
      port: 80
      nodePort: 30080
    -
      name: \"https\"
      port: 443
  loadBalancerSourceRanges:
  - 203.0.113.0/24
  - - nested
status: {}
";

    #[test]
    fn ordinary_objects_are_read() {
        let tree = read(SERVICE).expect("it is in the subset");
        assert_eq!(tree, serde_saphyr::from_str(SERVICE).unwrap());
        assert_eq!(tree.get("spec").and_then(|spec| spec.text("clusterIP")), Some("10.96.0.10"));
    }

    #[test]
    fn anything_else_is_left_to_the_full_parser() {
        for text in [
            "",
            "# nothing",
            "a: |\n  b",
            "a: >\n  b",
            "a: &x b",
            "a: *x",
            "a: !!str b",
            "? a\n: b",
            "a: b\n  c",
            "- a\n b",
            "a: b: c",
            "a: 'it''s'",
            "a: \"\\n\"",
            "a: 010",
            "a: 0x1f",
            "a: 1.5",
            "a: 1e3",
            "a: yes",
            "a: ~",
            "a: .inf",
            "a: +1",
            "a: 1:30",
            "a: 1_000",
            "a: 99999999999999999999",
            "a: b\na: c",
            "{a: b, a: c}",
            "a:\tb",
            "\ta: b",
            "%YAML 1.2\n---\na: b",
            "a: [b, c",
            "a: [b\n, c]",
            "a: {b}",
            "a: ä",
            "  a: b\n c: d",
            "yes: a",
            "1: a",
            "<<: a",
            "a: b #c\n  d",
            "a: @b",
            "a: `b`",
            "a: b]:",
            "a: - b",
            "a: {b:c}",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    /// Tokens from which lines are generated, common and special ones.
    const PIECES: [&str; 64] = [
        "a:",
        "b:",
        "name:",
        "- ",
        "-",
        "-b",
        "a",
        "http",
        "80",
        "0",
        "-1",
        "00",
        "1.5",
        "10.0.0.1",
        "10.0.0.0/8",
        "fd00::1",
        "2001:db8::1",
        "::1",
        "true",
        "false",
        "null",
        "~",
        "yes",
        "N",
        "on",
        "'x'",
        "\"y\"",
        "''",
        "\"",
        "'",
        "[a, b]",
        "[]",
        "{}",
        "{a: b}",
        "{a: [1, 'x'], b: {}}",
        "[",
        "]",
        "{",
        "}",
        ",",
        "#",
        " #c",
        "# c",
        ":",
        ": ",
        "|",
        ">",
        "&x",
        "*x",
        "!t",
        "?",
        "%",
        "@",
        "e5",
        "1e5",
        "0x10",
        "0o7",
        "1_0",
        "1:30",
        ".5",
        "/x",
        "\\",
        "--",
        "_",
    ];

    fn line() -> impl Strategy<Value = String> {
        let pieces = prop::collection::vec((prop::sample::select(PIECES.to_vec()), any::<bool>()), 0..5);
        (0_usize..5, pieces).prop_map(|(indent, pieces)| {
            let mut line = " ".repeat(indent);
            for (piece, spaced) in pieces {
                line += piece;
                line += if spaced { " " } else { "" };
            }
            line
        })
    }

    /// Lines that are mostly valid, to reach nested structures.
    fn valid_line() -> impl Strategy<Value = String> {
        let indent = prop::sample::select(vec![0, 0, 2, 2, 4, 6]);
        let dash = prop::sample::select(vec!["", "", "- ", "- - "]);
        let name = prop::sample::select(vec!["a:", "b:", "c.d/e:", "x-y:", "f:", "g:", ""]);
        let value = prop::sample::select(PIECES.to_vec());
        (indent, dash, name, value, any::<bool>()).prop_map(|(indent, dash, name, value, has_value)| {
            let value = if has_value { value } else { "" };
            format!("{}{dash}{name} {value}", " ".repeat(indent))
        })
    }

    /// Complete structures in block style, as tools write them.
    fn structured() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(PIECES.to_vec()).prop_map(|piece| vec![piece.to_owned()]);
        let tree = leaf.prop_recursive(4, 24, 4, |inner| {
            let list = prop::collection::vec(inner.clone(), 1..4).prop_map(|elements| {
                elements.into_iter().flat_map(|lines| indented("- ", &lines)).collect::<Vec<_>>()
            });
            let map = prop::collection::vec((inner, any::<bool>()), 1..4).prop_map(|values| {
                let names = ["a:", "b.c/d:", "e-f:", "g:"];
                let fields = names.iter().zip(values);
                fields.flat_map(|(name, (lines, deeper))| field(name, &lines, deeper)).collect::<Vec<_>>()
            });
            prop_oneof![list, map]
        });
        tree.prop_map(|lines| lines.join("\n"))
    }

    fn indented(first: &str, lines: &[String]) -> Vec<String> {
        let prefix = |n: usize| if n == 0 { first.to_owned() } else { " ".repeat(first.len()) };
        lines.iter().enumerate().map(|(n, line)| format!("{}{line}", prefix(n))).collect()
    }

    fn field(name: &str, lines: &[String], deeper: bool) -> Vec<String> {
        if lines.len() == 1
            && !lines[0].ends_with(':')
            && !lines[0].starts_with("- ")
            && !lines[0].contains(": ")
        {
            return vec![format!("{name} {}", lines[0])];
        }
        let is_list = lines[0].starts_with("- ");
        let indent = if is_list && !deeper { "" } else { "  " };
        let below = lines.iter().map(|line| format!("{indent}{line}"));
        std::iter::once(name.to_owned()).chain(below).collect()
    }

    /// The result is `None` or that of the full parser. (Also passed with 400,000 cases, too slow for every run.)
    #[test]
    fn it_agrees_with_the_full_parser() {
        let random = prop::collection::vec(line(), 1..8);
        let valid = prop::collection::vec(valid_line(), 1..12);
        let parsed = Cell::new(0);
        let check = |(random, valid, structured): (Vec<String>, Vec<String>, String)| {
            for text in [random.join("\n"), valid.join("\n"), structured] {
                let Some(tree) = read(&text) else { continue };
                parsed.set(parsed.get() + 1);
                let full: Result<Tree<'_>, _> = serde_saphyr::from_str(&text);
                prop_assert_eq!(Some(tree), full.ok(), "{}", text);
            }
            Ok(())
        };
        TestRunner::new(ProptestConfig::with_cases(4096)).run(&(random, valid, structured()), check).unwrap();
        assert!(parsed.get() > 400, "only {} of 12288 texts were parsed", parsed.get());
    }
}

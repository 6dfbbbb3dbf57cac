//! YAML files of several documents, and the parser's messages.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    pub text: &'a str,
    /// Line number of its first line in the file.
    pub line: usize,
}

/// Splits a file into documents before parsing, so that an invalid document does not affect the others. The split is
/// exact: YAML allows `---` at the start of a line only between documents.
pub fn split(text: &str) -> impl Iterator<Item = Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    documents(Some(Document { text, line: 1 }))
}

fn documents(mut rest: Option<Document<'_>>) -> impl Iterator<Item = Document<'_>> {
    std::iter::from_fn(move || {
        let current = rest?;
        let (document, following) = split_once(current);
        rest = following;
        Some(document)
    })
    .filter(|document| !is_blank(document.text))
}

/// The first document of a file, as a parser reads it that stops there, and the documents after it. The text of the first
/// one includes everything before it, so that line numbers are those of the file.
pub fn first(text: &str) -> (&str, impl Iterator<Item = Document<'_>>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut document, mut following) = split_once(Document { text, line: 1 });
    // Comments before the first marker are no document.
    if let Some(rest) = following.filter(|_| is_blank(document.text)) {
        (document, following) = split_once(rest);
    }
    let end = document.text.as_ptr().addr() - text.as_ptr().addr() + document.text.len();
    (&text[..end], documents(following))
}

/// Splits at the next marker. The rest of the marker's line belongs to the following document.
fn split_once(from: Document<'_>) -> (Document<'_>, Option<Document<'_>>) {
    let mut start = 0;
    for (line, text) in (from.line..).zip(from.text.split_inclusive('\n')) {
        let end = start + text.len();
        if let Some(rest) = len_after_marker(text) {
            let following = &from.text[end - rest..];
            let document = Document { text: &from.text[..start], ..from };
            return (document, Some(Document { text: following, line }));
        }
        start = end;
    }
    (from, None)
}

/// Returns the number of bytes after `---` or `...`, or `None` if the line is not a marker.
fn len_after_marker(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    let is_marker = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    is_marker.then_some(rest.len())
}

/// Whether a text holds only comments and directives.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let trimmed = line.trim();
        trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%')
    })
}

/// The parser's message in words for the author of the file, without the file's text. Only the first line of it.
pub fn message(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    message.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_into_documents() {
        for (text, want) in [
            ("", vec![]),
            ("a: b", vec![(1, "a: b")]),
            ("---\na: b\n---\nc: d\n", vec![(1, "\na: b\n"), (3, "\nc: d\n")]),
            ("# one\n---\n---\n\n--- # two\na: b", vec![(5, " # two\na: b")]),
            ("%YAML 1.2\n---\r\na: b\r\n...\r\n", vec![(2, "\r\na: b\r\n")]),
            ("a: ---\nb: |\n  ---\n---c: d\n", vec![(1, "a: ---\nb: |\n  ---\n---c: d\n")]),
            ("\u{feff}a: b\n---", vec![(1, "a: b\n")]),
        ] {
            let got: Vec<_> = split(text).map(|document| (document.line, document.text)).collect();
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn the_first_document_ends_at_the_second_marker() {
        for (text, want, others) in [
            ("", "", vec![]),
            ("a: b\n", "a: b\n", vec![]),
            ("a: b\n---\n", "a: b\n", vec![]),
            ("# one\n---\na: b\n---\n# two\n", "# one\n---\na: b\n", vec![]),
            ("a: b\n---\nc: d\n---\ne: f\n", "a: b\n", vec![2, 4]),
            ("\u{feff}a: b\n...\nc: d\n", "a: b\n", vec![2]),
            ("---\n---\na: b\n", "---\n", vec![2]),
        ] {
            let (first, rest) = first(text);
            let rest: Vec<_> = rest.map(|document| document.line).collect();
            assert_eq!((first, rest), (want, others), "{text:?}");
        }
    }
}

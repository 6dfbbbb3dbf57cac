//! `-o jsonpath=TEMPLATE`, in kubectl's syntax: text, with expressions in braces. `{.items[*].service}` is the service of
//! each row; `{"\n"}` is a line break. The paths are RFC 9535's, without `$`; its functions and `{range}` are not.

use std::str::FromStr;

use jsonpath_rust::{
    parser::{model::JpQuery, parse_json_path},
    query::js_path_process,
};
use serde_json::Value;

/// The value of `-o jsonpath=`.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Path(JpQuery),
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let end = end(behind).ok_or_else(|| format!("a brace of `{text}` is not closed"))?;
            parts.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            parts.push(part(behind[..end].trim())?);
            rest = &behind[end + 1..];
        }
        if parts.is_empty() {
            return Err(format!("`{text}` has no expression in braces, such as {{.items[*].service}}"));
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        Ok(Self(parts))
    }
}

/// The position of the brace that closes the expression, outside of strings.
fn end(expression: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (position, character) in expression.char_indices() {
        match (quote, character) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), other) if open == other => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '}') => return Some(position),
            _ => {}
        }
    }
    None
}

fn part(expression: &str) -> Result<Part, String> {
    if let Some(word) = ["range", "end"].into_iter().find(|word| is_word(expression, word)) {
        return Err(format!(
            "{{{word}}} of kubectl's templates is not supported: use -o json with jq, or -o custom-columns"
        ));
    }
    if let Some(text) = quoted(expression) {
        return Ok(Part::Text(text?));
    }
    let path = match expression.chars().next() {
        Some('$') => expression.to_owned(),
        Some('@') => expression.replacen('@', "$", 1),
        Some('.' | '[') => format!("${expression}"),
        _ => return Err(format!("`{{{expression}}}` is not a path such as {{.items[*].service}}")),
    };
    // kubectl: `{.}` is all of it.
    let path = if path == "$." { "$".to_owned() } else { path };
    let query =
        parse_json_path(&path).map_err(|_| format!("`{{{expression}}}` is not a JSONPath (RFC 9535)"))?;
    Ok(Part::Path(query))
}

fn is_word(expression: &str, word: &str) -> bool {
    expression.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// A text in quotes, with the escapes of JSON. `None`: it has no quotes.
fn quoted(expression: &str) -> Option<Result<String, String>> {
    let quote = expression.chars().next().filter(|first| ['"', '\''].contains(first))?;
    let inner = expression[1..].strip_suffix(quote).unwrap_or_default();
    let json = format!("\"{}\"", if quote == '\'' { inner.replace('"', "\\\"") } else { inner.to_owned() });
    Some(serde_json::from_str(&json).map_err(|_| format!("`{{{expression}}}` is not a text in quotes")))
}

impl Template {
    /// The text for a document. As in kubectl several values of a path are separated by a space, and a missing one is empty.
    pub fn text(&self, document: &Value) -> String {
        self.0.iter().map(|part| part.text(document)).collect()
    }
}

impl Part {
    fn text(&self, document: &Value) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Path(query) => {
                let found = js_path_process(query, document).unwrap_or_default();
                found.into_iter().map(|found| text(found.val())).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_kubectls() {
        let document = json!({"items": [
            {"metadata": {"name": "web"}, "port": 80, "policy": null, "backends": ["a", "b"]},
            {"metadata": {"name": "db"}, "port": 5432, "backends": []},
        ]});
        for (template, want) in [
            ("{.items[*].metadata.name}", "web db"),
            ("{ .items[*].metadata.name }", "web db"),
            ("{$.items[0].metadata.name}", "web"),
            ("{@.items[1].port}", "5432"),
            ("{.items[-1:].metadata.name}", "db"),
            ("{.items[0]['metadata'].name}", "web"),
            ("{..name}", "web db"),
            (r#"{.items[?(@.port==80)].metadata.name}{"\n"}"#, "web\n"),
            (r#"{.items[?(@.metadata.name=="db")].port}"#, "5432"),
            (r#"name: {.items[0].metadata.name}{"\t}"}port: {.items[0].port}."#, "name: web\t}port: 80."),
            ("{'a b'}{.items[0].port}", "a b80"),
            ("{.items[0].backends}", r#"["a","b"]"#),
            ("{.items[0].backends[*]}", "a b"),
            ("{.items[0].policy}{.items[0].none}{.none[*].name}", ""),
        ] {
            let parsed = template.parse::<Template>().unwrap_or_else(|error| panic!("{template}: {error}"));
            assert_eq!(parsed.text(&document), want, "{template}");
        }
        assert_eq!("{.}".parse::<Template>().unwrap().text(&json!([1])), "[1]");
    }

    #[test]
    fn other_templates_are_refused_by_name() {
        for (template, want) in [
            ("{range .items[*]}{.port}{end}", "{range} of kubectl's templates is not supported"),
            ("{.a}{end}", "{end} of kubectl's templates is not supported"),
            (".items[*].port", "has no expression in braces"),
            ("{.items", "is not closed"),
            ("{items}", "is not a path"),
            ("{.items[}", "is not a JSONPath"),
            (r#"{"a}"#, "is not closed"),
            ("{}", "is not a path"),
        ] {
            let refused = template.parse::<Template>().unwrap_err();
            assert!(refused.contains(want), "{template}: {refused}");
        }
    }
}

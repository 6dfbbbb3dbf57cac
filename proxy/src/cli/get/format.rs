//! Output formats, and fields of the JSON output.

use std::{cmp::Ordering, str::FromStr};

use serde_json::Value;

use super::json_path::Template;

/// The value of `--output`.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    Table,
    /// A table with all columns.
    Wide,
    Json,
    Yaml,
    /// One name per line.
    Name,
    /// Header and field of each column.
    Columns(Vec<(String, Field)>),
    JsonPath(Template),
}

/// A field of a row: `.external.backends[0]`, with or without the first dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(columns) = text.strip_prefix("custom-columns=") {
            return columns.split(',').map(column).collect::<Result<_, _>>().map(Self::Columns);
        }
        if let Some(template) = text.strip_prefix("jsonpath=") {
            return template.parse().map(Self::JsonPath);
        }
        match text {
            "table" => Ok(Self::Table),
            "wide" => Ok(Self::Wide),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            "name" => Ok(Self::Name),
            _ => Err(
                "one of table, wide, json, yaml, name, custom-columns=HEADER:.field,.., jsonpath=TEMPLATE"
                    .to_owned(),
            ),
        }
    }
}

fn column(text: &str) -> Result<(String, Field), String> {
    let (header, field) = text.split_once(':').ok_or_else(|| format!("`{text}` is not HEADER:.field"))?;
    Ok((header.to_owned(), field.parse()?))
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // kubectl accepts braces around it, as in its JSONPath.
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let invalid = || format!("`{text}` is not a field such as .service or .backends[0]");
        let mut steps = Vec::new();
        for part in inner.strip_prefix('.').unwrap_or(inner).split('.') {
            let mut indices = part.split('[');
            let key = indices.next().filter(|key| !key.is_empty()).ok_or_else(invalid)?;
            steps.push(Step::Key(key.to_owned()));
            for index in indices {
                let index = index.strip_suffix(']').and_then(|index| index.parse().ok());
                steps.push(Step::Index(index.ok_or_else(invalid)?));
            }
        }
        Ok(Self(steps))
    }
}

impl Field {
    /// `None`: the row has no such field.
    pub fn of<'a>(&self, row: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(row, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    /// The text of a cell; `<none>` as in kubectl.
    pub fn text(&self, row: &Value) -> String {
        match self.of(row) {
            None | Some(Value::Null) => "<none>".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// Numbers by value, all others as text; rows without the field come first.
    pub fn compare(&self, a: &Value, b: &Value) -> Ordering {
        match (self.of(a).and_then(Value::as_f64), self.of(b).and_then(Value::as_f64)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => self.of(a).map(|_| self.text(a)).cmp(&self.of(b).map(|_| self.text(b))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found() {
        let row =
            json!({"service": "shop/web", "external": {"backends": ["a", "b"]}, "affinity": null, "n": 7});
        for (field, want) in [
            (".service", Some("shop/web")),
            ("service", Some("shop/web")),
            ("{.external.backends[1]}", Some("b")),
            (".external.backends", Some(r#"["a","b"]"#)),
            (".external.backends[2]", Some("<none>")),
            (".affinity", Some("<none>")),
            (".n", Some("7")),
            (".none.of.these", Some("<none>")),
            ("", None),
            (".a..b", None),
            (".a[x]", None),
            (".a[0", None),
        ] {
            let got = field.parse::<Field>().ok().map(|field| field.text(&row));
            assert_eq!(got.as_deref(), want, "{field:?}");
        }
    }

    #[test]
    fn rows_are_sorted_by_number_or_text() {
        for (field, want) in [(".n", [3, 9, 10]), (".s", [10, 9, 3])] {
            let field: Field = field.parse().unwrap();
            let mut rows = [json!({"n": 10}), json!({"n": 9, "s": "a"}), json!({"n": 3, "s": "b"})];
            rows.sort_by(|a, b| field.compare(a, b));
            assert_eq!(rows.map(|row| row["n"].as_i64().unwrap()), want, "{field:?}");
        }
    }
}

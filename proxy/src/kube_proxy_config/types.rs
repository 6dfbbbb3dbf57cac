//! The types of the fields, checked before decoding: messages name the field, its value and the type in words.
//!
//! A field has the type of its default.

use serde_json::{Map, Value};

use super::{file::KubeProxyConfiguration, go_duration::GoDuration};

/// The list whose items may be of any type. Those of the others are strings.
const ANY_ITEMS: &str = "logging.vmodule";
/// The only map with keys of the author's choice.
const GATES: &str = "featureGates";
/// The only integer without a sign.
const UNSIGNED: &str = "logging.verbosity";
/// Characters of a value in a message.
const SHOWN: usize = 60;

/// Checks that every known field has a value of its type; others are not looked at. Returns the first fault.
pub fn check(value: &Value) -> Result<(), String> {
    // Without a value there is nothing to compare with, and decoding finds the faults.
    let defaults = serde_json::to_value(KubeProxyConfiguration::upstream_default()).unwrap_or_default();
    check_field("", value, &defaults)
}

fn check_field(field: &str, value: &Value, default: &Value) -> Result<(), String> {
    let (is_right, wanted) = match default {
        Value::Null => return Ok(()),
        Value::Bool(_) => (value.is_boolean(), "true or false"),
        Value::Number(number) if number.is_f64() => (value.is_number(), "a number"),
        Value::Number(_) if field == UNSIGNED => {
            (is_integer_within(value, 0, u32::MAX.into()), "an integer within 0 and 4294967295")
        }
        Value::Number(_) => (
            is_integer_within(value, i32::MIN.into(), i32::MAX.into()),
            "an integer within -2147483648 and 2147483647",
        ),
        Value::String(default) if GoDuration::parse(default).is_some() => (
            value.as_str().is_some_and(|text| GoDuration::parse(text).is_some()),
            "a duration such as 30s or 1h30m",
        ),
        Value::String(_) => (value.is_string(), "a string (values such as 1 and true need quotes)"),
        Value::Array(_) => return check_items(field, value),
        Value::Object(defaults) => return check_fields(field, value, defaults),
    };
    if is_right { Ok(()) } else { Err(fault(field, value, wanted)) }
}

fn is_integer_within(value: &Value, least: i64, most: i64) -> bool {
    value.as_i64().is_some_and(|number| (least..=most).contains(&number))
}

fn check_items(field: &str, value: &Value) -> Result<(), String> {
    let items = value.as_array().ok_or_else(|| fault(field, value, "a list"))?;
    if field == ANY_ITEMS {
        return Ok(());
    }
    let wrong = items.iter().enumerate().find(|(_, item)| !item.is_string());
    wrong.map_or(Ok(()), |(n, item)| Err(fault(&format!("{field}[{n}]"), item, "a string")))
}

fn check_fields(field: &str, value: &Value, defaults: &Map<String, Value>) -> Result<(), String> {
    let fields = value.as_object().ok_or_else(|| fault(field, value, "a map of fields"))?;
    fields.iter().try_for_each(|(name, value)| {
        let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        match defaults.get(name) {
            Some(default) => check_field(&path, value, default),
            None if field == GATES && !value.is_boolean() => Err(fault(&path, value, "true or false")),
            None => Ok(()),
        }
    })
}

fn fault(field: &str, value: &Value, wanted: &str) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    let what = match value {
        Value::Array(_) => "the list ",
        Value::Object(_) => "the map ",
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => "",
    };
    format!("{field}: {what}`{shown}` is not {wanted}")
}

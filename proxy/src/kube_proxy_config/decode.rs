//! From text to the file's fields. Strictly first; where only unknown or repeated fields stand in the way, once more
//! without them, and they are named.

use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::file::{API_VERSION, KIND, KubeProxyConfiguration};

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub config: KubeProxyConfiguration,
    /// What a strict reader would refuse, in words.
    pub remarks: Vec<String>,
}

/// YAML or JSON. Fields that say null say nothing.
pub fn decode(text: &str) -> Result<Decoded, String> {
    let mut remarks = Vec::new();
    let mut value = match parse(text, DuplicateKeyPolicy::Error) {
        Ok(value) => value,
        Err(strict) => {
            // Only a repeated field makes the difference between the two.
            let value = parse(text, DuplicateKeyPolicy::LastWins).map_err(|_| strict.clone())?;
            remarks.push(format!("{strict}; the last one counts"));
            value
        }
    };
    require_type(&value)?;
    drop_nulls(&mut value);
    let mut unknown = Vec::new();
    let config = serde_ignored::deserialize(value, |path| unknown.push(path.to_string()));
    let mut config: KubeProxyConfiguration = config.map_err(|error| error.to_string())?;
    remarks.extend(unknown.into_iter().map(|field| format!("unknown field `{field}` is ignored")));
    config.fill_in();
    Ok(Decoded { config, remarks })
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, String> {
    let options = serde_saphyr::options! { duplicate_keys: duplicate_keys };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let problem = error.without_snippet().to_string();
        problem.lines().next().unwrap_or_default().to_owned()
    })
}

fn require_type(value: &Value) -> Result<(), String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        (API_VERSION, KIND) => Ok(()),
        ("", _) => Err("apiVersion is missing".to_owned()),
        (_, "") => Err("kind is missing".to_owned()),
        (version, kind) => Err(format!("it is a {kind} of {version}, not a {KIND} of {API_VERSION}")),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

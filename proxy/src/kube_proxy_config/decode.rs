//! Decodes the text of a file: strictly first, then leniently. Unknown and duplicate fields are ignored with a warning, and
//! so are all YAML documents but the first, as in kube-proxy's decoder.

use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::{
    file::{API_VERSION, KIND, KubeProxyConfiguration},
    types,
};
use crate::yaml;

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub config: KubeProxyConfiguration,
    /// Faults that a strict decoder would refuse.
    pub warnings: Vec<String>,
}

/// Decodes YAML or JSON. Null fields are treated as absent.
pub fn decode(text: &str) -> Result<Decoded, String> {
    let (text, others) = yaml::first(text);
    let mut warnings: Vec<String> = others
        .map(|other| {
            format!("the YAML document at line {} is ignored, as kube-proxy reads the first one", other.line)
        })
        .collect();
    let mut value = match parse(text, DuplicateKeyPolicy::Error) {
        Ok(value) => value,
        Err(strict) => {
            // The lenient attempt succeeds only if duplicate fields are the sole fault.
            let value = parse(text, DuplicateKeyPolicy::LastWins).map_err(|_| strict.clone())?;
            warnings.push(format!("{strict}; the last one counts"));
            value
        }
    };
    require_type(&value)?;
    drop_nulls(&mut value);
    types::check(&value)?;
    let mut unknown = Vec::new();
    let config = serde_ignored::deserialize(value, |path| unknown.push(path.to_string()));
    let mut config: KubeProxyConfiguration = config.map_err(|_| "a field has a value of the wrong type")?;
    warnings.extend(unknown.into_iter().map(|field| format!("unknown field `{field}`")));
    config.set_defaults();
    Ok(Decoded { config, warnings })
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, String> {
    let options = serde_saphyr::options! { duplicate_keys: duplicate_keys };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| yaml::message(&error))
}

fn require_type(value: &Value) -> Result<(), String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        (API_VERSION, KIND) => Ok(()),
        ("", _) => Err("apiVersion is missing".to_owned()),
        (_, "") => Err("kind is missing".to_owned()),
        (version, kind) => Err(format!("kind {kind} of {version}, expected {KIND} of {API_VERSION}")),
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

//! The rows of a resource at one time, and their common interface.

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{footer::Footer, labels::ServicePort};
use crate::cli::output::Tone;

/// One row of the output.
pub trait Row: Serialize + DeserializeOwned {
    /// The name of the list in JSON and YAML.
    const LIST: &'static str;

    /// `None`: the row is of no Service.
    fn service(&self) -> Option<&ServicePort>;
    /// Unique among the rows.
    fn id(&self) -> String;
    /// The output of `-o name`. Rows may share it.
    fn name(&self) -> String;
    fn header(is_wide: bool) -> Vec<&'static str>;
    fn cells(&self, is_wide: bool) -> Vec<String>;
    /// The meaning of the cell below this header.
    fn tone(&self, _header: &str) -> Tone {
        Tone::Plain
    }
    /// Whether the row is unchanged except for elapsed time.
    fn is_unchanged(&self, earlier: &Self) -> bool;
}

/// The rows and footer at one time.
pub struct Listing<R> {
    pub rows: Vec<R>,
    pub footer: Footer,
}

impl<R: Row> Listing<R> {
    /// Reads the JSON of this listing, with the footer in the same object. Errors: it is of another version.
    pub fn parse(text: &str) -> Result<Self> {
        let mut value: Value = serde_json::from_str(text).context("it is no JSON")?;
        let rows = value.get_mut(R::LIST).map(Value::take).unwrap_or_default();
        let rows = serde_json::from_value(rows).with_context(|| format!("its {} cannot be read", R::LIST))?;
        Ok(Self { rows, footer: Footer::parse(value) })
    }
}

//! The rows of a resource at one time, and their common interface.

use serde::Serialize;

use super::footer::Footer;
use crate::cli::output::Tone;

/// One row of the output.
pub trait Row: Serialize {
    /// The name of the list in JSON and YAML.
    const LIST: &'static str;

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

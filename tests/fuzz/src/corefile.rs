//! Corefiles: syntax and all directives.

use std::path::Path;

use dns::{corefile::Source, plugins::check::check};

use crate::text;

pub fn run(octets: &[u8]) {
    // An import reads a file, or waits for a device.
    let Some(text) = text::read(octets).filter(|text| !text.contains("import")) else { return };
    check(Source::text(Path::new("/nonexistent/Corefile"), text), &|name| Some(format!("<{name}>")));
}

//! `docs/corefile.md` says what the registry of directives says.
//!
//! `UPDATE_EXPECT=1 cargo test -p dns --test reference` writes the page.

use std::{env, fs};

use dns::plugins::reference;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/corefile.md");

#[test]
fn the_page_lists_the_directives() {
    let want = reference::page();
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(PAGE, &want).unwrap();
    }
    let found = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        found == want,
        "docs/corefile.md is out of date; run UPDATE_EXPECT=1 cargo test -p dns --test reference"
    );
}

//! The reference of directives, `docs/corefile.md`.

use std::fmt::Write as _;

use super::{DIRECTIVES, Entry, unsupported};

const HEAD: &str = "\
# Directives of the Corefile

Each directive of CoreDNS 1.14.7 (its plugin.cfg) and each well-known external plugin is either done or refused with the
remedy; no directive is ignored silently. `portreeve dns check COREFILE` reports this for a file, line by line. Options
without effect are accepted, and logged at the start.

This page is generated: `UPDATE_EXPECT=1 cargo test -p dns --test reference` writes it.

## Done

`import`, snippets and `{$NAME}` are part of the syntax.

| directive | function | options | options without effect |
| --- | --- | --- | --- |
";

const EXTERNAL: &str = "
## External plugins, refused

| directive | remedy |
| --- | --- |
";

const REFUSED: &str = "
## Refused

| directive | remedy |
| --- | --- |
";

/// The page as Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut done: Vec<&Entry> = DIRECTIVES.iter().collect();
    done.sort_by_key(|directive| directive.name);
    for Entry { name, summary, options, ineffective_options, .. } in done {
        let options: Vec<String> = options.iter().map(|option| format!("`{option}`")).collect();
        let ineffective: Vec<String> =
            ineffective_options.iter().map(|(option, reason)| format!("`{option}`: {reason}")).collect();
        row(&mut page, &[&format!("`{name}`"), summary, &options.join(", "), &ineffective.join("; ")]);
    }
    for (head, directives) in [(REFUSED, unsupported::UNSUPPORTED), (EXTERNAL, unsupported::EXTERNAL)] {
        page += head;
        for (name, remedy) in directives {
            row(&mut page, &[&format!("`{name}`"), remedy]);
        }
    }
    page
}

fn row(page: &mut String, cells: &[&str]) {
    for cell in cells {
        // Writing to a string does not fail.
        let _ = write!(page, "| {}", cell.replace('|', "\\|"));
        if !cell.is_empty() {
            page.push(' ');
        }
    }
    page.push_str("|\n");
}

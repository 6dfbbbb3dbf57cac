//! Import circles: none between the rooms of a crate, and between its files none larger than today.
//!
//! A room is a top-level module of a crate with everything below it. An edge leads from a file to the file whose
//! item it names, through re-exports. A `mod` declaration, a module's re-export of its own children and code for
//! tests are no edges.

use std::collections::BTreeSet;

use super::{finding::Finding, source::Source};

mod graph;
mod modules;

use graph::Graph;
use modules::{Crate, Names};

/// The most files that import each other in one circle, by the crate's source directory; a crate that is not listed
/// may have no circle. A number may only shrink. `proxy`: a usage error of `get` is rendered with the root command.
const LARGEST_CIRCLES: &[(&str, usize)] = &[("proxy/src", 7)];

/// Modules that are divided into rooms of their own.
const DIVIDED: &[(&str, &[&str])] = &[("proxy/src", &["datapath"])];

/// An import between two rooms that does not count as long as the reason holds.
struct Allowed {
    /// The directory of the rooms.
    place: &'static str,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

const ALLOWED: &[Allowed] = &[];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    Crate::all(sources).iter().flat_map(|one| check_crate(one, ALLOWED, LARGEST_CIRCLES)).collect()
}

fn check_crate(one: &Crate<'_>, allowed: &[Allowed], limits: &[(&str, usize)]) -> Vec<Finding> {
    let imports = one.imports();
    let mut findings = check_rooms(one, &[], &imports, allowed);
    let divided = DIVIDED.iter().filter(|(source, _)| *source == one.source);
    findings.extend(divided.flat_map(|(_, module)| check_rooms(one, module, &imports, allowed)));
    findings.extend(check_files(one, &imports, limits));
    findings
}

/// An import between two rooms: the first of the files.
struct Import<'a> {
    from: &'a str,
    to: &'a str,
    names: &'a Names,
}

/// One finding for each group of rooms below `parent` that import each other: its shortest circle.
fn check_rooms(
    one: &Crate<'_>,
    parent: &[&str],
    imports: &Graph<Names>,
    allowed: &[Allowed],
) -> Vec<Finding> {
    let room_of = |file| room(one.module_of(file), parent);
    let mut rooms = Graph::new();
    for (from, to, names) in imports.iter() {
        if let (Some(source), Some(target)) = (room_of(from), room_of(to))
            && source != target
        {
            rooms.edge(&source, &target, || Import { from, to, names });
        }
    }
    let place = [&[one.source], parent].concat().join("/");
    let mut findings = Vec::new();
    for entry in allowed.iter().filter(|entry| entry.place == place) {
        if !is_in_circle(&rooms, entry) {
            let problem = format!(
                "the import from {} to {} closes no circle: remove it from ALLOWED in xtask/src/lint/circles.rs ({})",
                entry.from, entry.to, entry.reason
            );
            findings.push(Finding { file: place.clone(), line: 1, problem });
        }
    }
    for entry in allowed.iter().filter(|entry| entry.place == place) {
        rooms.remove(entry.from, entry.to);
    }
    findings.extend(rooms.components().iter().filter_map(|component| {
        let circle = rooms.shortest_circle(component);
        let edges: Vec<&Import<'_>> = circle.windows(2).filter_map(|two| rooms.get(two[0], two[1])).collect();
        let first = edges.first()?;
        let problem = format!("rooms import each other ({}): {}", circle.join(" -> "), shown(one, &edges));
        Some(Finding { file: first.from.to_owned(), line: first.names.line, problem })
    }));
    findings
}

fn is_in_circle(rooms: &Graph<Import<'_>>, entry: &Allowed) -> bool {
    let is_both = |component: &BTreeSet<&str>| component.contains(entry.from) && component.contains(entry.to);
    rooms.get(entry.from, entry.to).is_some() && rooms.components().iter().any(is_both)
}

fn check_files(one: &Crate<'_>, imports: &Graph<Names>, limits: &[(&str, usize)]) -> Option<Finding> {
    let components = imports.components();
    let largest = components.first()?;
    let limit = limits.iter().find(|(source, _)| *source == one.source).map_or(1, |(_, limit)| *limit);
    if largest.len() <= limit {
        return None;
    }
    let circle = imports.shortest_circle(largest);
    let edges: Vec<Import<'_>> = circle
        .windows(2)
        .filter_map(|two| Some(Import { from: two[0], to: two[1], names: imports.get(two[0], two[1])? }))
        .collect();
    let first = edges.first()?;
    let files: Vec<&str> = largest.iter().map(|file| short(one, file)).collect();
    let problem = format!(
        "{} files import each other, {limit} is the most ({}); the shortest circle: {}",
        files.len(),
        files.join(", "),
        shown(one, &edges.iter().collect::<Vec<_>>())
    );
    Some(Finding { file: first.from.to_owned(), line: first.names.line, problem })
}

/// The room of a module below `parent`; the parent's own file is a room too. `None` for a module elsewhere.
fn room(module: &[String], parent: &[&str]) -> Option<String> {
    let is_inside =
        module.len() >= parent.len() && module.iter().zip(parent).all(|(word, other)| word == other);
    let own = || parent.last().map_or("(root)", |name| name).to_owned();
    is_inside.then(|| module.get(parent.len()).cloned().unwrap_or_else(own))
}

fn shown(one: &Crate<'_>, edges: &[&Import<'_>]) -> String {
    const MOST_NAMES: usize = 4;
    let shown = edges.iter().map(|edge| {
        let mut names: Vec<&str> = edge.names.names.iter().map(String::as_str).take(MOST_NAMES).collect();
        if edge.names.names.len() > MOST_NAMES {
            names.push("..");
        }
        format!("{} -> {} ({})", short(one, edge.from), short(one, edge.to), names.join(", "))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn short<'f>(one: &Crate<'_>, file: &'f str) -> &'f str {
    file.strip_prefix(one.source).map_or(file, |rest| rest.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b; mod c;");

    /// Names and texts.
    type Files<'a> = &'a [(&'a str, &'a str)];

    fn findings(files: Files<'_>, allowed: &[Allowed], limits: &[(&str, usize)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(file, text)| Source::parse(&format!("proxy/src/{file}"), text).unwrap())
            .collect();
        let crates = Crate::all(&sources);
        check_crate(&crates[0], allowed, limits).iter().map(Finding::to_string).collect()
    }

    const ANY_SIZE: &[(&str, usize)] = &[("proxy/src", usize::MAX)];

    #[test]
    fn circles_of_rooms_are_shown_by_their_files() {
        let a = ("a.rs", "mod inner;");
        let inner = ("a/inner.rs", "\nuse crate::b::{B, C};");
        let cases: &[(&str, Files<'_>, &[&str])] = &[
            ("one direction", &[ROOT, a, inner, ("b.rs", "struct B;")], &[]),
            (
                "both directions",
                &[ROOT, a, inner, ("b.rs", "use crate::a::A;")],
                &[
                    "proxy/src/a/inner.rs:2: rooms import each other (a -> b -> a): a/inner.rs -> b.rs (B, C), b.rs -> a.rs (A)",
                ],
            ),
            (
                "three rooms",
                &[ROOT, a, inner, ("b.rs", "use crate::c::X;"), ("c.rs", "use crate::a::A;")],
                &[
                    "proxy/src/a/inner.rs:2: rooms import each other (a -> b -> c -> a): a/inner.rs -> b.rs (B, C), b.rs -> c.rs (X), c.rs -> a.rs (A)",
                ],
            ),
            (
                "a room and the root",
                &[("lib.rs", "mod b; struct R { b: b::B }"), ("b.rs", "use crate::R;")],
                &[
                    "proxy/src/lib.rs:1: rooms import each other ((root) -> b -> (root)): lib.rs -> b.rs (B), b.rs -> lib.rs (R)",
                ],
            ),
            (
                "within one room",
                &[ROOT, ("a.rs", "struct A(inner::I);"), ("a/inner.rs", "use super::A;")],
                &[],
            ),
            (
                "rooms of a divided module",
                &[
                    ("lib.rs", "mod datapath;"),
                    ("datapath.rs", "mod kernel; mod maps;"),
                    ("datapath/maps/x.rs", "use crate::datapath::kernel::K;"),
                    ("datapath/kernel.rs", "use super::maps::M;"),
                    ("datapath/maps.rs", ""),
                ],
                &[
                    "proxy/src/datapath/kernel.rs:1: rooms import each other (kernel -> maps -> kernel): datapath/kernel.rs -> datapath/maps.rs (M), datapath/maps/x.rs -> datapath/kernel.rs (K)",
                ],
            ),
        ];
        for (name, files, want) in cases {
            assert_eq!(findings(files, &[], ANY_SIZE), *want, "{name}");
        }
    }

    #[test]
    fn an_allowed_import_closes_a_circle_or_is_removed() {
        let a = ("a.rs", "use crate::b::B;");
        let allowed = || [Allowed { place: "proxy/src", from: "b", to: "a", reason: "until c exists" }];
        assert_eq!(findings(&[ROOT, a, ("b.rs", "use crate::a::A;")], &allowed(), ANY_SIZE), [""; 0]);
        assert_eq!(
            findings(&[ROOT, a, ("b.rs", "struct B;")], &allowed(), ANY_SIZE),
            ["proxy/src:1: the import from b to a closes no circle: remove it from ALLOWED in \
              xtask/src/lint/circles.rs (until c exists)"],
        );
    }

    #[test]
    fn a_circle_of_files_has_a_size_limit() {
        let files = [
            ("lib.rs", "mod a;"),
            ("a.rs", "mod b; mod c; struct A(b::B);"),
            ("a/b.rs", "use super::c::C;"),
            ("a/c.rs", "use super::A;"),
        ];
        assert_eq!(findings(&files, &[], &[("proxy/src", 3)]), [""; 0]);
        assert_eq!(
            findings(&files, &[], &[("proxy/src", 2)]),
            [
                "proxy/src/a.rs:1: 3 files import each other, 2 is the most (a.rs, a/b.rs, a/c.rs); the shortest circle: \
              a.rs -> a/b.rs (B), a/b.rs -> a/c.rs (C), a/c.rs -> a.rs (A)"
            ],
        );
        assert_eq!(findings(&files[..2], &[], &[]), [""; 0]);
    }
}

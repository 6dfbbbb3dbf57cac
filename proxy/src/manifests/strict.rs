//! Misspelt kinds and fields, for `plan`. The agent ignores them, as an API server without strict validation does.

use std::{fs, io, path::Path};

use serde_json::Value;

use super::{Manifests, file_name, files};
use crate::{
    k8s::{object::Kind, strict::unknown_fields},
    yaml,
};

/// A kind of which at most one letter in so many is wrong is a misspelt one.
const LETTERS_PER_MISTAKE: usize = 4;

/// Reports each misspelt kind and unknown field. A pipe was read already and is not checked.
pub fn check(path: &Path, manifests: &mut Manifests) -> io::Result<()> {
    for file in files(path)? {
        // Unreadable files are reported already.
        let Some(text) = fs::metadata(&file)
            .ok()
            .filter(fs::Metadata::is_file)
            .and_then(|_| fs::read_to_string(&file).ok())
        else {
            continue;
        };
        for document in yaml::split(&text) {
            let location = format!("{}:{}", file_name(&file), document.line);
            if let Ok(object) = serde_saphyr::from_str(document.text) {
                check_object(&object, &location, manifests);
            }
        }
    }
    Ok(())
}

fn check_object(object: &Value, location: &str, manifests: &mut Manifests) {
    let Some(kind) = object["kind"].as_str() else { return };
    if let Some(items) = object["items"].as_array() {
        for (n, item) in items.iter().enumerate() {
            check_object(item, &format!("{location} items[{n}]"), manifests);
        }
        return;
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let known = Kind::ALL.into_iter().find(|known| known.name() == kind);
    match known.filter(|known| object["apiVersion"].as_str() == Some(known.api_version())) {
        Some(known) => {
            for field in unknown_fields(known, object) {
                manifests.skip(format!("{location}: {kind} {name}"), format!("unknown field \"{field}\""));
            }
        }
        None if known.is_none() => {
            // A kind of another group is another kind, such as Job of batch/v1 beside Pod.
            let of_group =
                |known: &Kind| object["apiVersion"].as_str().is_none_or(|of| of == known.api_version());
            let is_meant = |known: &Kind| of_group(known) && is_misspelt(kind, known.name());
            if let Some(meant) = Kind::ALL.into_iter().find(is_meant) {
                let reason = format!("unknown kind \"{kind}\", did you mean {}?", meant.name());
                manifests.skip(format!("{location}: {kind} {name}"), reason);
            }
        }
        // The same kind in another group.
        None => {}
    }
}

fn is_misspelt(kind: &str, known: &str) -> bool {
    let limit = known.len() / LETTERS_PER_MISTAKE;
    kind.len().abs_diff(known.len()) <= limit && distance(kind, known) <= limit
}

/// The Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (n, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, other) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(letter != *other);
            diagonal = row[m + 1];
            row[m + 1] = substituted.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_kinds_and_fields_are_named() {
        for (text, want) in [
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}",
                None,
            ),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {prots: [{port: 80}]}",
                Some("f.yaml:1: Service web: unknown field \"spec.prots\""),
            ),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{prot: TCP, port: 80}]}",
                Some("f.yaml:1: Service web: unknown field \"spec.ports.0.prot\""),
            ),
            (
                "apiVersion: v1\nkind: Servce\nmetadata: {name: web}",
                Some("f.yaml:1: Servce web: unknown kind \"Servce\", did you mean Service?"),
            ),
            (
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlices\nmetadata: {name: web}",
                Some(
                    "f.yaml:1: EndpointSlices web: unknown kind \"EndpointSlices\", did you mean EndpointSlice?",
                ),
            ),
            ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {any: 1}", None),
            ("apiVersion: batch/v1\nkind: Job\nmetadata: {name: setup}\nspec: {any: 1}", None),
            ("apiVersion: v1\nkind: Job\nmetadata: {name: setup}\nspec: {any: 1}", None),
            ("apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {any: 1}", None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("f.yaml"), text).unwrap();
            let mut manifests = Manifests::default();
            check(dir.path(), &mut manifests).unwrap();
            let found: Vec<_> =
                manifests.skipped.iter().map(|skip| format!("{}: {}", skip.object, skip.reason)).collect();
            assert_eq!(found, Vec::from_iter(want.map(str::to_owned)), "{text}");
        }
    }
}

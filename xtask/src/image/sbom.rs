//! The packages in the image's program, as an SPDX document: those that cargo links for the target, without ones that only
//! tests or build scripts need.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cargo;

/// The package of the program.
const ROOT: &str = "proxy";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a crate of this workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` if it is linked; else `build` or `dev`.
    kind: Option<String>,
}

/// The state of the source that the program was built from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The commit's time, as `2026-01-01T00:00:00Z`.
    pub time: &'a str,
    /// Of the program, in hexadecimal.
    pub sha256: &'a str,
}

/// The document for the program of a target, such as `x86_64-unknown-linux-musl`.
pub fn document(target: &str, source: Source<'_>) -> Result<Value> {
    let mut command = cargo::cargo();
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform", target]);
    let output = command.output().context("starting cargo metadata")?;
    let metadata = serde_json::from_slice(&output.stdout).context("reading cargo's metadata")?;
    spdx(&metadata, source)
}

/// SPDX 2.3.
fn spdx(metadata: &Metadata, source: Source<'_>) -> Result<Value> {
    let root = metadata.packages.iter().find(|package| package.name == ROOT && package.source.is_none());
    let root = root.context("the workspace has no agent")?;
    let links = links(&metadata.resolve.nodes, &root.id);
    let linked = |package: &&Package| links.contains_key(package.id.as_str());
    let names: BTreeMap<&str, String> = metadata
        .packages
        .iter()
        .filter(linked)
        .map(|package| (package.id.as_str(), spdx_id(package)))
        .collect();
    let mut packages: Vec<&Package> = metadata.packages.iter().filter(linked).collect();
    packages.sort_by_key(|package| (&package.name, &package.version));
    let mut relationships = vec![related("SPDXRef-DOCUMENT", "DESCRIBES", &spdx_id(root))];
    for (package, needed) in &links {
        relationships
            .extend(needed.iter().map(|other| related(&names[package], "DEPENDS_ON", &names[other])));
    }
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("portreeve-{}", root.version),
        "documentNamespace": format!("urn:portreeve:sbom:{}:{}", root.version, source.sha256),
        "creationInfo": { "created": source.time, "creators": ["Tool: cargo xtask image"] },
        "packages": packages.into_iter().map(described).collect::<Vec<_>>(),
        "relationships": relationships,
    }))
}

/// For each package that is linked into the root: those that it links.
fn links<'m>(nodes: &'m [Node], root: &'m str) -> BTreeMap<&'m str, BTreeSet<&'m str>> {
    let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let (mut found, mut open) = (BTreeMap::new(), vec![root]);
    while let Some(id) = open.pop() {
        let is_linked = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|one| one.kind.is_none());
        let needed: BTreeSet<&str> = nodes
            .get(id)
            .into_iter()
            .flat_map(|node| &node.deps)
            .filter(is_linked)
            .map(|dependency| dependency.pkg.as_str())
            .collect();
        open.extend(needed.iter().filter(|id| !found.contains_key(*id)));
        found.insert(id, needed);
    }
    found
}

fn spdx_id(package: &Package) -> String {
    let text = format!("SPDXRef-{}-{}", package.name, package.version);
    // The identifier's alphabet; versions may have a `+`, names a `_`.
    text.chars().map(|one| if one.is_ascii_alphanumeric() || one == '.' { one } else { '-' }).collect()
}

fn described(package: &Package) -> Value {
    // A slash is cargo's older spelling of OR.
    let license = package.license.as_deref().map_or("NOASSERTION".to_owned(), |it| it.replace('/', " OR "));
    json!({
        "SPDXID": spdx_id(package),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": license,
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B")),
        }],
    })
}

fn related(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source<'_> = Source { time: "2026-01-01T00:00:00Z", sha256: "00ff" };

    fn metadata() -> Metadata {
        let package = |id: &str, name: &str, source: Option<&str>| json!({ "id": id, "name": name, "version": "1.0.0+a", "license": "MIT/Apache-2.0", "source": source });
        let on = |id: &str, kind: Option<&str>| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        serde_json::from_value(json!({
            "packages": [
                package("p", "proxy", None),
                package("a", "a_b", Some("registry+x")),
                package("b", "b", Some("registry+x")),
                package("t", "tempfile", Some("registry+x")),
                package("c", "cc", Some("registry+x")),
            ],
            "resolve": { "nodes": [
                { "id": "p", "deps": [on("a", None), on("t", Some("dev")), on("c", Some("build"))] },
                // A circle, as there may be with kinds that do not count.
                { "id": "a", "deps": [on("b", None), on("p", None)] },
                { "id": "b", "deps": [] },
                { "id": "t", "deps": [on("b", None)] },
                { "id": "c", "deps": [] },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn linked_packages_are_listed_with_their_licences_and_links() {
        let document = spdx(&metadata(), SOURCE).unwrap();
        let packages = document["packages"].as_array().unwrap();
        let names: Vec<_> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a_b", "b", "proxy"]);
        assert_eq!(packages[0]["licenseDeclared"], "MIT OR Apache-2.0");
        assert_eq!(packages[0]["externalRefs"][0]["referenceLocator"], "pkg:cargo/a_b@1.0.0%2Ba");
        let links: Vec<_> = document["relationships"]
            .as_array()
            .unwrap()
            .iter()
            .map(|link| {
                ["spdxElementId", "relationshipType", "relatedSpdxElement"]
                    .map(|key| link[key].as_str().unwrap())
            })
            .collect();
        let id = |name: &str| format!("SPDXRef-{name}-1.0.0-a");
        let (a, b, proxy) = (id("a-b"), id("b"), id("proxy"));
        assert_eq!(
            links,
            [
                ["SPDXRef-DOCUMENT", "DESCRIBES", &proxy],
                [&a, "DEPENDS_ON", &b],
                [&a, "DEPENDS_ON", &proxy],
                [&proxy, "DEPENDS_ON", &a],
            ]
        );
    }

    #[test]
    fn the_document_of_this_workspace_is_complete() {
        let document = document("x86_64-unknown-linux-musl", SOURCE).unwrap();
        let packages = document["packages"].as_array().unwrap();
        let has = |name: &str| packages.iter().any(|package| package["name"] == name);
        assert!(["proxy", "dns", "aya", "kube", "tokio"].into_iter().all(has), "{packages:?}");
        assert!(!["xtask", "tests", "tempfile", "windows-sys"].into_iter().any(has), "{packages:?}");
        let ids: BTreeSet<_> = packages.iter().map(|package| package["SPDXID"].as_str()).collect();
        assert_eq!(ids.len(), packages.len(), "identifiers are unique");
        assert_eq!(document["creationInfo"]["created"], SOURCE.time);
    }
}

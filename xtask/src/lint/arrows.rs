//! Dependencies between the modules of `proxy`, by the paths a file names: each path has its modules.

use super::{finding::Finding, paths::paths_in, source::Source};

/// A path that only some modules of `proxy/src` may name.
struct Arrow {
    /// The path and everything below it.
    path: &'static [&'static str],
    /// The modules of `proxy/src` that may not name it.
    scope: Scope,
    reason: &'static str,
}

enum Scope {
    AllBut(&'static [&'static str]),
    Only(&'static [&'static str]),
}

const PURE: Scope = Scope::Only(&["model", "index"]);
const NO_IO: &str = "model and index are pure and synchronous: no I/O, no clock";
const ARROWS: &[Arrow] = &[
    Arrow { path: &["aya"], scope: Scope::AllBut(&["datapath"]), reason: "only datapath knows aya" },
    Arrow { path: &["aya_log"], scope: Scope::AllBut(&["datapath"]), reason: "only datapath knows aya" },
    Arrow { path: &["kube"], scope: Scope::AllBut(&["k8s"]), reason: "only k8s knows kube types" },
    Arrow { path: &["k8s_openapi"], scope: Scope::AllBut(&["k8s"]), reason: "only k8s knows kube types" },
    Arrow { path: &["tokio"], scope: PURE, reason: NO_IO },
    Arrow { path: &["nix"], scope: PURE, reason: NO_IO },
    Arrow { path: &["libc"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "fs"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "env"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "io"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "process"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "thread"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "net", "TcpListener"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "net", "TcpStream"], scope: PURE, reason: NO_IO },
    Arrow { path: &["std", "net", "UdpSocket"], scope: PURE, reason: NO_IO },
    Arrow { path: &["Instant", "now"], scope: PURE, reason: NO_IO },
    Arrow { path: &["SystemTime", "now"], scope: PURE, reason: NO_IO },
    Arrow { path: &["crate", "k8s"], scope: Scope::Only(&["model"]), reason: "model knows no other module" },
    Arrow {
        path: &["crate", "datapath"],
        scope: PURE,
        reason: "model and index know nothing of the datapath",
    },
];

pub fn check(source: &Source) -> Vec<Finding> {
    let Some(module) = module_of(&source.file) else { return Vec::new() };
    let arrows: Vec<&Arrow> = ARROWS.iter().filter(|arrow| arrow.scope.covers(module)).collect();
    let mut findings = Vec::new();
    source.shipped().each_run(&mut |run| {
        for path in paths_in(run) {
            let broken = arrows.iter().filter(|arrow| path.starts_with(arrow.path));
            findings.extend(broken.map(|arrow| {
                source
                    .finding(path.line, format!("{module} names {}: {}", arrow.path.join("::"), arrow.reason))
            }));
        }
    });
    findings.dedup();
    findings
}

/// The module of `proxy/src` that a file belongs to: `datapath/maps.rs` and `datapath.rs` are `datapath`.
fn module_of(file: &str) -> Option<&str> {
    let inside = file.strip_prefix("proxy/src/")?;
    Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs"))
}

impl Scope {
    fn covers(&self, module: &str) -> bool {
        match self {
            Scope::AllBut(modules) => !modules.contains(&module),
            Scope::Only(modules) => modules.contains(&module),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_hold_by_module_and_path() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("proxy/src/datapath/load.rs", "use aya::Ebpf;", &[]),
            ("proxy/src/datapath.rs", "use aya::Ebpf;", &[]),
            ("proxy/src/run.rs", "\nuse aya::Ebpf;", &["2: run names aya: only datapath knows aya"]),
            (
                "proxy/src/run.rs",
                "use {std::fs, aya::maps::Array};",
                &["1: run names aya: only datapath knows aya"],
            ),
            ("proxy/src/run.rs", "extern crate aya;", &["1: run names aya: only datapath knows aya"]),
            ("proxy/src/run.rs", "use aya;", &["1: run names aya: only datapath knows aya"]),
            (
                "proxy/src/run.rs",
                "fn f(e: &mut ::aya::Ebpf) {}",
                &["1: run names aya: only datapath knows aya"],
            ),
            (
                "proxy/src/run.rs",
                "fn f() { g(\"aya::x\"); /* aya::x */ let aya = 1; let papaya = aya; }",
                &[],
            ),
            ("proxy/src/run.rs", "use crate::datapath::aya_twin;", &[]),
            ("proxy/src/k8s/service.rs", "use k8s_openapi::api::core::v1::Service;", &[]),
            (
                "proxy/src/manifests/read.rs",
                "fn f() -> kube::Error { g() }",
                &["1: manifests names kube: only k8s knows kube types"],
            ),
            ("proxy/src/cli/cleanup.rs", "struct C { kube: bool, kube_proxy: bool }", &[]),
            (
                "proxy/src/model/policy.rs",
                "use std::{\n  fmt,\n  net::{IpAddr, TcpStream},\n};",
                &[
                    "3: model names std::net::TcpStream: model and index are pure and synchronous: no I/O, no clock",
                ],
            ),
            ("proxy/src/model/address.rs", "use std::net::IpAddr; fn f(now: std::time::Instant) {}", &[]),
            (
                "proxy/src/index/joined.rs",
                "fn f() { let now = Instant::now(); }",
                &["1: index names Instant::now: model and index are pure and synchronous: no I/O, no clock"],
            ),
            ("proxy/src/run.rs", "fn f() { let now = Instant::now(); std::fs::read(\"x\"); }", &[]),
            ("proxy/src/index/mod.rs", "#[cfg(test)]\nmod tests { use k8s_openapi::Resource; }", &[]),
            ("proxy/src/index/tests.rs", "use k8s_openapi::Resource;", &[]),
            (
                "proxy/src/index/mod.rs",
                "#[cfg(test)]\nmod tests {}\nuse kube::{Api, Client};",
                &["3: index names kube: only k8s knows kube types"],
            ),
            ("tests/src/lab/node.rs", "use aya::Ebpf; use kube::Client;", &[]),
        ];
        for (file, text, want) in cases {
            let source = Source::parse(file, text).unwrap();
            let found: Vec<String> = check(&source)
                .iter()
                .map(|finding| format!("{}: {}", finding.line, finding.problem))
                .collect();
            assert_eq!(found, *want, "{file}: {text}");
        }
    }
}

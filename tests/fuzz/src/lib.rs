//! Fuzz targets: one function of octets for each parser of input that others control. A target must neither panic nor
//! work without bound, whatever the octets.
//!
//! `cargo test` runs each on its seeds; `cargo xtask fuzz` runs them guided by coverage.

mod config;
mod corefile;
mod dns;
mod manifests;
mod netlink;
mod objects;
mod text;

/// A target and its name, which is also that of its directory below `seeds`.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: [Target; 6] = [
    Target { name: "objects", run: objects::run },
    Target { name: "config", run: config::run },
    Target { name: "manifests", run: manifests::run },
    Target { name: "corefile", run: corefile::run },
    Target { name: "dns", run: dns::run },
    Target { name: "netlink", run: netlink::run },
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::TARGETS;

    /// Each seed, and what is left when its end or an octet of it is missing.
    #[test]
    fn seeds_pass() {
        for target in TARGETS {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
            let seeds: Vec<_> =
                fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in seeds {
                let octets = fs::read(&seed).unwrap();
                (target.run)(&octets);
                let step = octets.len().div_ceil(64).max(1);
                for at in (0..octets.len()).step_by(step) {
                    (target.run)(&octets[..at]);
                    (target.run)(&[&octets[..at], &octets[at + 1..]].concat());
                }
            }
        }
    }
}

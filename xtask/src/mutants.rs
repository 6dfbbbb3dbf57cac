//! `cargo xtask mutants`: mutation tests. The comparison with the model must detect each mutant of the programs.
//!
//! A mutant is one replacement in the source of `proxy-ebpf`, made in a copy of the workspace, so that no mutant can
//! reach a program in use.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{
    cargo::{self, workspace_root},
    needs,
    setup::{self, Note},
};

/// Runs mutation tests: the comparison with the model must detect faulty programs. Needs root.
///
/// Exits with 1 if a mutant survives.
#[derive(Args)]
pub struct Mutants {
    /// Flows per mutant, unless it is detected earlier
    #[arg(long, default_value_t = 20_000)]
    cases: u64,
    /// Only mutants with this in their names
    #[arg(value_name = "NAME")]
    only: Option<String>,
}

struct Mutant {
    name: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const MUTANTS: [Mutant; 14] = [
    Mutant {
        name: "wrong-scope",
        file: "lb/client.rs",
        right: "if self.origin == OUTSIDE { Scope::External } else { Scope::Internal }",
        wrong: "if self.origin == POD { Scope::External } else { Scope::Internal }",
    },
    Mutant {
        name: "missing-masquerade",
        file: "ct/create.rs",
        right: ".with(FlowFlags::MASQUERADE, by_policy || is_hairpin)",
        wrong: ".with(FlowFlags::MASQUERADE, is_hairpin)",
    },
    Mutant {
        name: "missing-hairpin",
        file: "ct/create.rs",
        right: ".with(FlowFlags::MASQUERADE, by_policy || is_hairpin)",
        wrong: ".with(FlowFlags::MASQUERADE, by_policy)",
    },
    Mutant {
        name: "source-ranges-ignored",
        file: "lb/client.rs",
        right: "(!F::is_in_source_ranges(descriptor.source_ranges, self.address))",
        wrong: "(descriptor.source_ranges == u32::MAX)",
    },
    Mutant {
        name: "stale-generation-accepted",
        file: "lb/backend.rs",
        right: "let is_stale = entry.generation ^ reference.generation;",
        wrong: "let is_stale = u32::from(entry.generation < reference.generation);",
    },
    Mutant {
        name: "one-byte-of-the-checksum",
        file: "packet/rewrite.rs",
        right: "ctx.l4_csum_replace(checksum, 0, by_ports, mangled)",
        wrong: "ctx.l4_csum_replace(checksum, 0, by_ports ^ 0x100, mangled)",
    },
    Mutant {
        name: "last-word-of-ipv6-unsummed",
        file: "packet/header.rs",
        right: "difference(c, g) + difference(d, h)",
        wrong: "difference(c, g) + difference(d, d | h & 0)",
    },
    Mutant {
        name: "dying-flows-established",
        file: "abi/flow_state.rs",
        right: "self.bits() & (Self::ALIVE | Self::DYING) == Self::ALIVE",
        wrong: "self.bits() & Self::ALIVE == Self::ALIVE",
    },
    Mutant {
        name: "errors-untranslated",
        file: "packet/header.rs",
        right: "matches!(kind, 3 | 11 | 12)",
        wrong: "matches!(kind, 3 | 11 | 12) && kind > 12",
    },
    Mutant {
        name: "quoted-ports-untranslated",
        file: "packet/icmp.rs",
        right: "ctx.store(packet.quoted(), &[to.destination_port, to.source_port], 0)",
        wrong: "ctx.store(packet.quoted(), &[to.destination_port, to.destination_port], 0)",
    },
    Mutant {
        name: "fragments-of-another-port",
        file: "packet/fragment.rs",
        right: "let ports = [a, b, c, d];",
        wrong: "let ports = [b, a, c, d];",
    },
    Mutant {
        name: "direct-datagrams-renamed",
        file: "ct/create.rs",
        right: "return scratch.client.is_at_first_hop();",
        wrong: "return false;",
    },
    Mutant {
        name: "port-taken-twice",
        file: "ct/insert.rs",
        right: "code => Inserted(code).duplicate().unwrap_or(NO_SLOT),",
        wrong: "_ => slot,",
    },
    Mutant {
        name: "another-flow-in-the-slot",
        file: "ct/create.rs",
        right: "flow.state.tag() == scratch.judged && flow.delete()",
        wrong: "flow.delete()",
    },
];

impl Mutant {
    fn file_in(&self, root: &Path) -> PathBuf {
        root.join("proxy-ebpf/src").join(self.file)
    }

    /// The faulty source. Errors: the source does not have the original text exactly once.
    fn applied_to(&self, source: &str) -> Result<String> {
        let matches = source.matches(self.right).count();
        ensure!(matches == 1, "{}: {} has {matches} matches for it", self.name, self.file);
        Ok(source.replace(self.right, self.wrong))
    }
}

impl Mutants {
    pub fn run(self) -> Result<ExitCode> {
        let missing = needs::missing();
        if !missing.is_empty() {
            bail!("the comparison cannot run here; it needs {}", missing.join(", and "));
        }
        setup::ensure()?;
        let only = self.only.unwrap_or_default();
        let survivors = survivors(self.cases, |mutant| mutant.name.contains(&only))?;
        Ok(if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Returns `false` if a mutant survives.
pub fn check(cases: u64) -> Result<bool> {
    Ok(survivors(cases, |_| true)? == 0)
}

/// The number of mutants that were not detected.
fn survivors(cases: u64, is_wanted: impl Fn(&Mutant) -> bool) -> Result<usize> {
    let comparison = comparison()?;
    let copy = Copy::create()?;
    let mut survivors = 0;
    for mutant in MUTANTS.iter().filter(|mutant| is_wanted(mutant)) {
        let object = copy.build(mutant)?;
        let outcome = compare(&comparison, &object, cases)?;
        println!("{:<28}{outcome}", mutant.name);
        survivors += usize::from(outcome == SURVIVED);
    }
    Ok(survivors)
}

const SURVIVED: &str = "NOT CAUGHT";

/// The difference that revealed a mutant, or `SURVIVED`.
fn compare(comparison: &Path, object: &Path, cases: u64) -> Result<String> {
    let run = |cases: u64| -> Result<Output> {
        let mut command = Command::new(comparison);
        command.arg("--object").arg(object).args(["--of-each", "0", "--cases", &cases.to_string()]);
        command.output().context("starting the comparison")
    };
    let loads = run(0)?;
    ensure!(
        loads.status.success(),
        "the mutant does not load: {}",
        String::from_utf8_lossy(&loads.stderr).trim()
    );
    let compared = run(cases)?;
    if compared.status.success() {
        return Ok(SURVIVED.to_owned());
    }
    let message = String::from_utf8_lossy(&compared.stderr);
    let difference: Vec<_> = message.trim().rsplit(": ").take(2).collect();
    Ok(format!("caught: {}", difference.into_iter().rev().collect::<Vec<_>>().join(": ")))
}

fn comparison() -> Result<PathBuf> {
    let mut command = cargo::cargo();
    command.args(["build", "--quiet", "--package", "tests", "--bins"]);
    ensure!(command.status().context("starting cargo")?.success(), "the comparison does not compile");
    Ok(cargo::target().join("debug/fuzz-dataplane"))
}

/// A copy of the workspace, in which mutants are built.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn create() -> Result<Self> {
        let root = cargo::target().join("mutants");
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        for part in ["Cargo.toml", "Cargo.lock", "proxy", "proxy-ebpf", "dns", "tests", "xtask"] {
            copy(&workspace_root().join(part), &root.join(part))?;
        }
        Ok(Self { root })
    }

    /// Builds the object of a mutant and restores the source.
    fn build(&self, mutant: &Mutant) -> Result<PathBuf> {
        let file = mutant.file_in(&self.root);
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        fs::write(&file, mutant.applied_to(&text)?)?;
        let built = self.compile();
        fs::write(&file, text)?;
        built.with_context(|| format!("the mutant {} does not compile", mutant.name))
    }

    /// Builds with aya-build's options.
    fn compile(&self) -> Result<PathBuf> {
        const TARGET: &str = "bpfel-unknown-none";
        let note = Note::read()?;
        let mut path = vec![note.path.clone()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let flags = [
            format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
        ];
        let mut command = note.cargo();
        command.args(["build", "--quiet", "--package", "proxy-ebpf", "--bins", "--release"]);
        command.args(["-Z", "build-std=core", "--target", TARGET]);
        command.current_dir(self.root.join("proxy-ebpf"));
        command.env("PATH", env::join_paths(path)?);
        command.env("RUSTC_BOOTSTRAP", "1");
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        let directory = self.root.join("target");
        command.env("CARGO_TARGET_DIR", &directory).env_remove("RUSTC").env_remove("RUSTC_WORKSPACE_WRAPPER");
        let output = command.output().context("starting cargo")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(directory.join(TARGET).join("release/proxy-ebpf"))
    }
}

/// Copies the files that differ, so that cargo rebuilds no others.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_matches_the_source_once() {
        for mutant in &MUTANTS {
            let file = mutant.file_in(workspace_root());
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", mutant.name));
            assert_ne!(mutant.applied_to(&text).unwrap(), text, "{}", mutant.name);
        }
    }
}

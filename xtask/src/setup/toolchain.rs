//! The Rust toolchain of the eBPF programs: recent enough, and with the standard library's source.
//!
//! `aya-build` calls `rustup run NAME cargo` if rustup is on PATH and the cargo on PATH otherwise, so the candidates
//! depend on rustup. `next` chooses a remedy from a survey of the machine; each remedy is followed by a new survey and
//! tried once.

use std::{fmt, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{
    apt,
    machine::{output, which},
};
use crate::{cargo::workspace_root, progress::Step};

/// The name under which Debian's toolchain is linked into rustup.
pub const LINKED: &str = "portreeve-debian";
/// The name in the note without rustup; unused.
const WITHOUT_RUSTUP: &str = "cargo-of-path";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// `rust-version` of the workspace.
const OLDEST: (u32, u32) = (1, 95);
const SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

#[derive(Clone, Debug, PartialEq)]
pub struct Toolchain {
    pub name: String,
    pub compiler: Compiler,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Compiler {
    release: (u32, u32),
    pub llvm: u32,
    has_source: bool,
}

/// The toolchains of this machine.
#[derive(Clone, Debug, Default)]
struct Survey {
    has_rustup: bool,
    /// Named by `rust-toolchain.toml`, from rustup.
    pinned: Option<Compiler>,
    /// Debian's, linked into rustup.
    linked: Option<Compiler>,
    /// From PATH; used without rustup only.
    on_path: Option<Compiler>,
    debian: Option<Compiler>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Remedy {
    InstallPinned,
    AddSource,
    InstallDebian,
    LinkDebian,
}

#[derive(Debug, PartialEq)]
enum Next {
    Use(Toolchain),
    Do(Remedy),
    GiveUp,
}

pub fn find_or_get() -> Result<Toolchain> {
    let pinned = pinned_name()?;
    let mut tried: Vec<Attempt> = Vec::new();
    loop {
        let survey = Survey::take(&pinned);
        let remedies: Vec<Remedy> = tried.iter().map(|attempt| attempt.remedy).collect();
        match next(&survey, &pinned, &remedies) {
            Next::Use(toolchain) => return Ok(toolchain),
            Next::Do(remedy) => {
                if let Some(error) = tried.last().and_then(|attempt| attempt.error.as_ref()) {
                    eprintln!("  failed: {}", error.lines().next().unwrap_or_default());
                }
                tried.push(Attempt {
                    remedy,
                    error: remedy.apply(&pinned).err().map(|error| format!("{error:#}")),
                });
            }
            Next::GiveUp => bail!(give_up(&survey, &pinned, &tried)),
        }
    }
}

/// A remedy that was tried, with its error.
struct Attempt {
    remedy: Remedy,
    error: Option<String>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.error.as_deref().unwrap_or("it succeeded, but did not help");
        write!(f, "tried {}: {error}", self.remedy.describe())
    }
}

/// The next step, in order of preference. An existing link shows that rustup could not install a toolchain, so it
/// precedes another download.
fn next(survey: &Survey, pinned: &str, tried: &[Remedy]) -> Next {
    let usable = |compiler: &Option<Compiler>| compiler.clone().filter(Compiler::is_usable);
    let found = if survey.has_rustup {
        let pinned = usable(&survey.pinned).map(|compiler| (pinned, compiler));
        pinned.or_else(|| usable(&survey.linked).map(|compiler| (LINKED, compiler)))
    } else {
        usable(&survey.on_path).map(|compiler| (WITHOUT_RUSTUP, compiler))
    };
    if let Some((name, compiler)) = found {
        return Next::Use(Toolchain { name: name.to_owned(), compiler });
    }
    let debian = usable(&survey.debian).is_some();
    let remedies = [
        (Remedy::InstallPinned, survey.has_rustup && survey.pinned.is_none()),
        (Remedy::AddSource, survey.has_rustup && survey.pinned.is_some()),
        (Remedy::LinkDebian, survey.has_rustup && debian),
        (Remedy::InstallDebian, !debian),
    ];
    remedies
        .into_iter()
        .find(|(remedy, applies)| *applies && !tried.contains(remedy))
        .map_or(Next::GiveUp, |(remedy, _)| Next::Do(remedy))
}

impl Survey {
    fn take(pinned: &str) -> Survey {
        if which("rustup").is_none() {
            let on_path = Compiler::probe(&["rustc"]);
            let debian = Compiler::probe(&[DEBIAN_RUSTC]);
            return Survey { on_path, debian, ..Survey::default() };
        }
        let pinned = Compiler::probe(&["rustup", "run", pinned, "rustc"]);
        let mut survey = Survey { has_rustup: true, pinned, ..Survey::default() };
        if !survey.pinned.as_ref().is_some_and(Compiler::is_usable) {
            survey.linked = Compiler::probe(&["rustup", "run", LINKED, "rustc"]);
            survey.debian = Compiler::probe(&[DEBIAN_RUSTC]);
        }
        survey
    }
}

impl Compiler {
    fn is_usable(&self) -> bool {
        self.has_source && self.release >= OLDEST
    }

    /// Queries the compiler of a command line.
    fn probe(rustc: &[&str]) -> Option<Compiler> {
        let (program, arguments) = rustc.split_first()?;
        let query = |options: &[&str]| output(Command::new(program).args(arguments).args(options));
        let version = query(&["-vV"])?;
        let sysroot = query(&["--print", "sysroot"])?;
        Compiler::parse(&version, Path::new(sysroot.trim()).join(SOURCE).is_file())
    }

    fn parse(version: &str, has_source: bool) -> Option<Compiler> {
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
        let mut release = field("release: ")?.split('.').map(str::parse);
        let release = (release.next()?.ok()?, release.next()?.ok()?);
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        Some(Compiler { release, llvm, has_source })
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.release;
        let source = if self.has_source { "with" } else { "without" };
        write!(f, "Rust {major}.{minor} {source} the standard library's source")
    }
}

impl Remedy {
    fn apply(self, pinned: &str) -> Result<()> {
        match self {
            Remedy::InstallPinned => rustup(
                &format!("installing Rust {pinned}"),
                &[
                    "toolchain",
                    "install",
                    pinned,
                    "--no-self-update",
                    "--component",
                    "rust-src",
                    "clippy",
                    "rustfmt",
                ],
            ),
            Remedy::AddSource => rustup(
                "adding the standard library's source",
                &["component", "add", "rust-src", "--toolchain", pinned],
            ),
            Remedy::LinkDebian => {
                rustup("linking Debian's Rust into rustup", &["toolchain", "link", LINKED, "/usr"])
            }
            Remedy::InstallDebian => apt::install(&DEBIAN_PACKAGES.map(String::from)),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Remedy::InstallPinned => "rustup toolchain install",
            Remedy::AddSource => "rustup component add rust-src",
            Remedy::LinkDebian => "rustup toolchain link to /usr",
            Remedy::InstallDebian => "Debian's packages",
        }
    }
}

fn rustup(name: &str, arguments: &[&str]) -> Result<()> {
    let step = Step::start(name);
    let mut command = Command::new("rustup");
    command.args(arguments);
    step.run(command)?;
    step.done();
    Ok(())
}

/// The toolchain that `rust-toolchain.toml` names.
pub fn pinned_name() -> Result<String> {
    let file = workspace_root().join("rust-toolchain.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let channel = text.lines().find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'));
    Ok(channel.with_context(|| format!("{} pins no channel", file.display()))?.to_owned())
}

fn give_up(survey: &Survey, pinned: &str, tried: &[Attempt]) -> String {
    let (major, minor) = OLDEST;
    let mut lines = vec![format!(
        "the eBPF programs need Rust {major}.{minor} or newer with the standard library's source, and none was found."
    )];
    let places = [
        (format!("rustup's {pinned}"), &survey.pinned),
        (format!("rustup's {LINKED}"), &survey.linked),
        ("rustc of PATH".to_owned(), &survey.on_path),
        (DEBIAN_RUSTC.to_owned(), &survey.debian),
    ];
    for (place, compiler) in places {
        lines.extend(compiler.as_ref().map(|compiler| format!("  {place} is {compiler}")));
    }
    lines.extend(tried.iter().map(|attempt| format!("  {attempt}")));
    lines.push("Any one of these solves it:".to_owned());
    if survey.has_rustup {
        lines.push(format!("  rustup component add rust-src --toolchain {pinned}"));
    } else {
        lines.push("  install Rust with rustup, then run this again".to_owned());
    }
    lines.push(format!("  {}", apt::command_by_hand(&DEBIAN_PACKAGES.map(String::from))));
    if !survey.has_rustup && survey.debian.as_ref().is_some_and(Compiler::is_usable) {
        lines.push(format!("  put the directory of {DEBIAN_RUSTC} first in PATH"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINNED: &str = "1.95.0";

    fn compiler(minor: u32, has_source: bool) -> Option<Compiler> {
        Some(Compiler { release: (1, minor), llvm: 22, has_source })
    }

    fn used(name: &str, compiler: Option<Compiler>) -> Next {
        Next::Use(Toolchain { name: name.to_owned(), compiler: compiler.expect("the case names one") })
    }

    #[test]
    fn the_preferred_toolchain_or_remedy_is_chosen() {
        struct Case {
            name: &'static str,
            survey: Survey,
            tried: &'static [Remedy],
            want: Next,
        }
        let rustup = Survey { has_rustup: true, ..Survey::default() };
        let plain = Survey::default();
        let cases = [
            Case {
                name: "pinned with source",
                survey: Survey { pinned: compiler(95, true), ..rustup.clone() },
                tried: &[],
                want: used(PINNED, compiler(95, true)),
            },
            Case {
                name: "pinned without source: rustup first",
                survey: Survey { pinned: compiler(95, false), debian: compiler(96, true), ..rustup.clone() },
                tried: &[],
                want: Next::Do(Remedy::AddSource),
            },
            Case {
                name: "rustup fails: an installed Debian toolchain is linked",
                survey: Survey { pinned: compiler(95, false), debian: compiler(96, true), ..rustup.clone() },
                tried: &[Remedy::AddSource],
                want: Next::Do(Remedy::LinkDebian),
            },
            Case {
                name: "rustup fails: Debian's toolchain is installed",
                survey: Survey { pinned: compiler(95, false), ..rustup.clone() },
                tried: &[Remedy::AddSource],
                want: Next::Do(Remedy::InstallDebian),
            },
            Case {
                name: "a link from an earlier run needs no download",
                survey: Survey { pinned: compiler(95, false), linked: compiler(96, true), ..rustup.clone() },
                tried: &[],
                want: used(LINKED, compiler(96, true)),
            },
            Case {
                name: "the pinned toolchain is missing",
                survey: rustup.clone(),
                tried: &[],
                want: Next::Do(Remedy::InstallPinned),
            },
            Case {
                name: "Debian's toolchain is too old",
                survey: Survey { debian: compiler(63, true), ..rustup.clone() },
                tried: &[Remedy::InstallPinned, Remedy::InstallDebian],
                want: Next::GiveUp,
            },
            Case {
                name: "without rustup, PATH's",
                survey: Survey { on_path: compiler(96, true), ..plain.clone() },
                tried: &[],
                want: used(WITHOUT_RUSTUP, compiler(96, true)),
            },
            Case {
                name: "without rustup and source, packages",
                survey: Survey { on_path: compiler(96, false), debian: compiler(96, false), ..plain.clone() },
                tried: &[],
                want: Next::Do(Remedy::InstallDebian),
            },
            Case {
                name: "without rustup, Debian's is present but PATH has another",
                survey: Survey { on_path: compiler(90, false), debian: compiler(96, true), ..plain.clone() },
                tried: &[],
                want: Next::GiveUp,
            },
        ];
        for case in cases {
            assert_eq!(next(&case.survey, PINNED, case.tried), case.want, "{}", case.name);
        }
    }

    #[test]
    fn every_sequence_of_failing_remedies_ends() {
        let mut tried = Vec::new();
        let survey = Survey { has_rustup: true, pinned: compiler(95, false), ..Survey::default() };
        while let Next::Do(remedy) = next(&survey, PINNED, &tried) {
            assert!(!tried.contains(&remedy), "{remedy:?} was chosen twice");
            tried.push(remedy);
        }
        assert_eq!(tried, [Remedy::AddSource, Remedy::InstallDebian]);
    }

    #[test]
    fn versions_are_read_from_rustc() {
        let cases = [
            ("rustc 1.95.0 (5980 2026-04-14)\nrelease: 1.95.0\nLLVM version: 22.1.2\n", compiler(95, true)),
            ("release: 1.97.0-nightly\nLLVM version: 22.1\n", compiler(97, true)),
            ("release: 1.95.0\n", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(Compiler::parse(text, true), want, "{text:?}");
        }
    }

    #[test]
    fn the_final_error_lists_toolchains_attempts_and_solutions() {
        let survey = Survey { on_path: compiler(90, true), debian: compiler(96, true), ..Survey::default() };
        let attempt = Attempt { remedy: Remedy::InstallDebian, error: Some("no network".into()) };
        let text = give_up(&survey, PINNED, &[attempt]);
        for want in ["Rust 1.90 with", "tried Debian's packages: no network", "rust-web-src", "first in PATH"]
        {
            assert!(text.contains(want), "{want:?} is missing in:\n{text}");
        }
    }
}

//! Which files of a kernel's modules are needed, and in which order they go in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Ready to be loaded.
#[derive(Debug, PartialEq)]
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// These modules, each after those that it needs itself. What is built into the kernel is left out.
pub fn with_what_they_need(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut choice = Choice { files: files(directory)?, built_in: built_in(directory)?, ..Choice::default() };
    for name in wanted {
        choice.take(name)?;
    }
    Ok(choice.taken)
}

#[derive(Default)]
struct Choice {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    seen: BTreeSet<String>,
    taken: Vec<Module>,
}

impl Choice {
    fn take(&mut self, name: &str) -> Result<()> {
        if self.built_in.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let file = self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let bytes = content(file)?;
        for needed in needs(&bytes) {
            self.take(&needed).with_context(|| format!("{name} needs {needed}"))?;
        }
        self.taken.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// Every module below a directory, by its name.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.append(&mut self::files(&path)?);
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(files)
}

fn built_in(directory: &Path) -> Result<BTreeSet<String>> {
    let list = directory.join("modules.builtin");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    Ok(text.lines().filter_map(|line| name_of(Path::new(line))).collect())
}

/// Files may have hyphens where the module has underscores.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, ending) = file.split_once('.')?;
    matches!(ending, "ko" | "ko.xz").then(|| name.replace('-', "_"))
}

fn content(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|ending| ending != "xz") {
        return fs::read(file).with_context(|| format!("reading {}", file.display()));
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output();
    let output = output.context("starting xz, which Debian's package xz-utils has")?;
    ensure!(output.status.success(), "xz cannot read {}", file.display());
    Ok(output.stdout)
}

/// `depends=a,b` among the strings that describe a module, each of which ends with a zero.
fn needs(module: &[u8]) -> Vec<String> {
    let list = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(list.unwrap_or_default());
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let cases: [(&[u8], &[&str]); 4] = [
            (b"\x7fELF\0license=GPL\0depends=llc,stp\0name=bridge\0", &["llc", "stp"]),
            (b"depends=nf-conntrack\0", &["nf_conntrack"]),
            (b"\0depends=\0", &[]),
            (b"softdepends=x\0", &[]),
        ];
        for (module, want) in cases {
            assert_eq!(needs(module), want, "{:?}", String::from_utf8_lossy(module));
        }
    }

    #[test]
    fn what_is_needed_goes_in_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("modules.builtin", "kernel/net/ipv6/ipv6.ko\n");
        write("kernel/net/bridge.ko", "\0depends=llc,stp,ipv6\0");
        write("kernel/net/stp.ko", "\0depends=llc\0");
        write("kernel/net/llc.ko", "\0depends=\0");
        write("kernel/net/broken.ko", "\0depends=missing\0");
        let names = |wanted: &[&str]| -> Result<Vec<String>> {
            Ok(with_what_they_need(directory.path(), wanted)?.into_iter().map(|module| module.name).collect())
        };
        assert_eq!(names(&["bridge", "llc", "ipv6"]).unwrap(), ["llc", "stp", "bridge"]);
        let error = format!("{:#}", names(&["broken"]).unwrap_err());
        assert_eq!(error, "broken needs missing: the kernel has no module missing");
    }
}

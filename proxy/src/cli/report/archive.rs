//! The archive: gzip of a tar with one directory of text files. Nothing of an archive is ever extracted.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};

/// The version of the archive's content. A reader knows its own only.
pub const VERSION: u32 = 1;
const DIRECTORY: &str = "portreeve-report/";
/// The first file.
const HEAD: &str = "report.json";
/// The files that could not be had, each with the reason.
pub const MISSING: &str = "missing.txt";
/// Limit of one file, in octets.
pub const MAX_FILE: u64 = 64 << 20;
/// Limit of all octets of an archive that is read.
const MAX_TOTAL: u64 = 256 << 20;
const MAX_FILES: usize = 1_000;

/// What an archive says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub report_version: u32,
    /// The version of the program that wrote it.
    pub portreeve: String,
    pub created: String,
    pub node: String,
    /// `nothing`, `names`, or `names and addresses`.
    pub anonymized: String,
}

/// The head of an archive of any version.
#[derive(Debug, Deserialize)]
struct AnyHead {
    report_version: u64,
    #[serde(default)]
    portreeve: String,
}

/// An archive that is being written.
pub struct Writer<W: Write>(tar::Builder<GzEncoder<W>>);

impl<W: Write> Writer<W> {
    pub fn new(to: W, head: &Head) -> Result<Self> {
        let mut writer = Self(tar::Builder::new(GzEncoder::new(to, Compression::default())));
        writer.add(HEAD, &serde_json::to_string_pretty(head)?)?;
        Ok(writer)
    }

    pub fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        self.0.append_data(&mut header, format!("{DIRECTORY}{name}"), text.as_bytes())
    }

    pub fn finish(self) -> io::Result<()> {
        self.0.into_inner()?.finish()?.flush()
    }
}

/// Creates a file that only its owner may read. It must not exist, not even as a symlink.
pub fn create(path: &Path) -> Result<File> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists: give another name, or delete it", path.display())
        }
        opened => opened.with_context(|| format!("cannot create {}", path.display())),
    }
}

/// The files of an archive.
#[derive(Debug)]
pub struct Report {
    /// The name of the archive, for messages.
    path: String,
    files: BTreeMap<String, String>,
}

impl Report {
    /// Reads an archive within the limits. Errors: it is no archive of a report, damaged, too large, or of another version.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let files = read(BufReader::new(file)).map_err(|error| error.of(&name))?;
        let report = Self { path: name, files };
        report.require_version()?;
        Ok(report)
    }

    fn require_version(&self) -> Result<()> {
        let name = &self.path;
        let head = self.files.get(HEAD).with_context(|| format!("{name} is no report: it has no {HEAD}"))?;
        let head: AnyHead = serde_json::from_str(head)
            .ok()
            .with_context(|| format!("{name} is no report: its {HEAD} has no version"))?;
        let AnyHead { report_version, portreeve } = head;
        ensure!(
            report_version == u64::from(VERSION),
            "{name} is a report of version {report_version} (portreeve {portreeve}), this portreeve reads version {VERSION}"
        );
        Ok(())
    }

    /// A file. Errors: a sentence with the reason why the report has none.
    pub fn file(&self, file: &str) -> Result<&str> {
        self.file_named(file, file)
    }

    /// A file that a message calls `noun`.
    pub fn file_named(&self, file: &str, noun: &str) -> Result<&str> {
        match self.files.get(file) {
            Some(text) => Ok(text),
            None => bail!("{} has no {noun}{}", self.path, self.reason(file)),
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn reason(&self, file: &str) -> String {
        let missing = self.files.get(MISSING).map(String::as_str).unwrap_or_default();
        let reason = missing.lines().find_map(|line| line.strip_prefix(file)?.strip_prefix(": "));
        reason.map(|reason| format!(": {reason}")).unwrap_or_default()
    }
}

/// Why an archive cannot be read.
#[derive(Debug)]
enum ReadError {
    NoArchive,
    Damaged(io::Error),
    TooLarge,
    TooMany,
}

impl ReadError {
    fn of(self, name: &str) -> anyhow::Error {
        match self {
            Self::NoArchive => anyhow::anyhow!("{name} is no report: no gzip archive"),
            Self::Damaged(error) => anyhow::anyhow!("{name} is damaged: {error}"),
            Self::TooLarge => {
                anyhow::anyhow!("{name} is too large: a file of a report has at most {} MiB", MAX_FILE >> 20)
            }
            Self::TooMany => anyhow::anyhow!("{name} has too many files: a report has at most {MAX_FILES}"),
        }
    }
}

/// Keeps regular files of the one directory; an entry of another kind or place is left out.
fn read(archive: impl Read) -> Result<BTreeMap<String, String>, ReadError> {
    let mut decoder = GzDecoder::new(archive);
    if decoder.header().is_none() {
        return Err(ReadError::NoArchive);
    }
    let mut tar = tar::Archive::new(decoder.by_ref().take(MAX_TOTAL));
    let mut files = BTreeMap::new();
    for (n, entry) in tar.entries().map_err(ReadError::Damaged)?.raw(true).enumerate() {
        let entry = entry.map_err(ReadError::Damaged)?;
        if n >= MAX_FILES {
            return Err(ReadError::TooMany);
        }
        if entry.size() > MAX_FILE {
            return Err(ReadError::TooLarge);
        }
        let Some(name) = name(&entry) else { continue };
        let size = entry.size();
        let mut octets = Vec::new();
        entry.take(MAX_FILE).read_to_end(&mut octets).map_err(ReadError::Damaged)?;
        if (octets.len() as u64) < size {
            return Err(ReadError::Damaged(ErrorKind::UnexpectedEof.into()));
        }
        files.insert(name, String::from_utf8_lossy(&octets).into_owned());
    }
    Ok(files)
}

/// The name of a file below the directory: a key in memory, and never a path.
fn name(entry: &tar::Entry<'_, impl Read>) -> Option<String> {
    let path = entry.path_bytes();
    let name = std::str::from_utf8(&path).ok()?.strip_prefix(DIRECTORY)?;
    (entry.header().entry_type().is_file() && !name.is_empty()).then(|| name.to_owned())
}

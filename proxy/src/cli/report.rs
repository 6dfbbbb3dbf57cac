//! `report`: one archive for a bug report, with what this node has to say. What cannot be had is named in `missing.txt`.

use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;

use super::{agents::FindArgs, output};

mod anonymize;
pub mod archive;
mod collection;
mod events;
mod firewall;
mod node;
mod of_agent;

use anonymize::{Anonymize, Anonymizer};
use archive::{Head, MISSING, VERSION, Writer};
use collection::Collection;
pub use of_agent::{OBJECTS, POLICY};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    find: FindArgs,
    /// The archive, a new file that only its owner may read; `-` is standard output [default:
    /// portreeve-report-NODE-TIME.tar.gz in this directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace names by hashes, the same ones everywhere; the key is in no file. See docs/troubleshooting.md for what stays
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "names")]
    anonymize: Option<Anonymize>,
    /// Seconds to listen to flow events of the agent; 0: the report has no events
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3600))]
    events: u32,
}

pub fn run(args: Args) -> Result<()> {
    let Args { find, output, anonymize, events } = args;
    let is_stdout = output.as_deref() == Some(Path::new("-"));
    ensure!(
        !is_stdout || !io::stdout().is_terminal(),
        "an archive is not for a terminal: redirect standard output, or name a file with --output"
    );
    let mut collection = Collection::of_node(&find, events)?;
    let mut head = Head {
        report_version: VERSION,
        portreeve: env!("CARGO_PKG_VERSION").to_owned(),
        created: format!("{:.0}", Timestamp::now()),
        node: collection.node.clone(),
        anonymized: "nothing".to_owned(),
    };
    if let Some(how) = anonymize {
        head.anonymized = if how == Anonymize::Names { "names" } else { "names and addresses" }.to_owned();
        head.node = collection.anonymize(Anonymizer::new(how)?);
    }
    ensure!(!collection.is_empty(), "nothing could be read: {}", collection.missing_text().trim_end());
    if is_stdout {
        return write(io::stdout().lock(), &head, &collection).context("cannot write to standard output");
    }
    let path = output.unwrap_or_else(|| default_path(&head).into());
    let file = archive::create(&path)?;
    if let Err(error) = write(file, &head, &collection) {
        // Half of an archive is of no use.
        let _ = fs::remove_file(&path);
        return Err(error).with_context(|| format!("cannot write {}", path.display()));
    }
    output::print(&summary(&path, &collection))
}

fn default_path(head: &Head) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let node: String = head.node.chars().filter(is_plain).take(63).collect();
    let time: String = head.created.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("portreeve-report-{node}-{time}.tar.gz")
}

fn write(to: impl Write, head: &Head, collection: &Collection) -> Result<()> {
    let mut writer = Writer::new(to, head)?;
    for file in collection.files() {
        writer.add(file.name, &file.text)?;
    }
    writer.add(MISSING, &collection.missing_text())?;
    Ok(writer.finish()?)
}

fn summary(path: &Path, collection: &Collection) -> String {
    let (files, missing) = (collection.files().len(), collection.missing_text());
    let mut text = format!("{}: {files} files", path.display());
    match missing.lines().count() {
        0 => text.push('\n'),
        count => text += &format!(", and {count} lines in {MISSING} about what could not be had:\n{missing}"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_has_node_and_time() {
        let head = Head {
            report_version: VERSION,
            portreeve: "1".to_owned(),
            created: "2026-01-01T12:00:00Z".to_owned(),
            node: "../node-1.example\n".to_owned(),
            anonymized: String::new(),
        };
        assert_eq!(default_path(&head), "portreeve-report-..node-1.example-20260101T120000Z.tar.gz");
    }
}

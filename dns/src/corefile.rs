//! The syntax of CoreDNS's configuration file: words, lines with their blocks, snippets and imports.
//!
//! ```text
//! text ─> lexer (words) ─> tree (blocks, snippets, imports) ─> plugins::read (one directive each) ─> Config
//! ```
//!
//! Nothing here knows a directive. An error names the file, the line and the remedy.

mod arguments;
mod keys;
pub mod kube_dns;
mod lexer;
mod pillar;
mod tree;

use std::{io, path::PathBuf};

pub(crate) use arguments::{zones, zones_or};
pub(crate) use keys::listens;
pub(crate) use lexer::Word;
use thiserror::Error;
pub use tree::Source;
pub(crate) use tree::{Block, Statement, Tree, octets, read};

#[derive(Debug, Error)]
pub enum CorefileError {
    #[error("cannot read {0}")]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{file}:{line}: {problem}")]
    Refused { file: String, line: usize, problem: String },
    #[error(
        "{0} has no server block: add one, such as `. {{ forward . /etc/resolv.conf }}` over three lines"
    )]
    Empty(PathBuf),
}

impl CorefileError {
    /// The file and the line, where there is one.
    pub(crate) fn position(&self) -> Option<(&str, usize)> {
        match self {
            Self::Refused { file, line, .. } => Some((file, *line)),
            Self::Unreadable(..) | Self::Empty(_) => None,
        }
    }
}

//! CoreDNS's own configuration file, read as it is.
//!
//! ```text
//! text ─> lex (words) ─> tree (blocks, snippets, imports) ─> block (a directive each) ─> Config
//! ```
//!
//! What cannot be done as written is refused with its place and what to do about it; nothing is passed over in silence.

mod arguments;
mod block;
mod cache;
mod forward;
mod hosts;
mod ineffective;
mod keys;
mod kubernetes;
mod lexer;
mod log;
mod rewrite;
mod template;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

pub use ineffective::IneffectiveOption;
use thiserror::Error;

use crate::config::{Config, Listen, ServerBlock};

#[derive(Debug, Error)]
pub enum CorefileError {
    #[error("cannot read {0}")]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{file}:{line}: {what}")]
    Refused { file: String, line: usize, what: String },
    #[error(
        "{0} has no server block: add one, such as `. {{ forward . /etc/resolv.conf }}` over three lines"
    )]
    Empty(PathBuf),
}

/// Reads a file and what it imports. `env` is asked for what `{$NAME}` stands for.
pub fn read(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, CorefileError> {
    let blocks = tree::read(path, env)?;
    if blocks.is_empty() {
        return Err(CorefileError::Empty(path.to_owned()));
    }
    let mut seen = HashMap::new();
    let mut servers = Vec::new();
    for block in &blocks {
        let server = block::server(block)?;
        for listen in &server.listens {
            refuse_twice(listen, &server.bind, block, &mut seen)?;
        }
        servers.push(server);
    }
    refuse_other_selectors(&blocks, &servers)?;
    Ok(Config { servers })
}

/// Each object is read once, for all blocks.
fn refuse_other_selectors(blocks: &[tree::Block], servers: &[ServerBlock]) -> Result<(), CorefileError> {
    let mut selected = None;
    for (block, server) in blocks.iter().zip(servers) {
        let Some(options) = &server.kubernetes else { continue };
        let own = (&options.labels, &options.namespace_labels);
        if *selected.get_or_insert(own) != own {
            let directive = block.directives.iter().find(|directive| directive.name.is("kubernetes"));
            let word = directive.map_or(&block.keys[0], |directive| &directive.name);
            return Err(word.refuse("`labels` and `namespace_labels` must be the same in all blocks"));
        }
    }
    Ok(())
}

/// What stands in the file and has no effect, for whoever wants to tell it; nothing where the file cannot be read.
pub fn ineffective(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Vec<IneffectiveOption> {
    tree::read(path, env).map(|blocks| ineffective::of(&blocks)).unwrap_or_default()
}

type Seen<'a> = HashMap<(Listen, String), &'a tree::Block>;

fn refuse_twice<'a>(
    listen: &Listen,
    bind: &[crate::config::BindAddress],
    block: &'a tree::Block,
    seen: &mut Seen<'a>,
) -> Result<(), CorefileError> {
    let Some(first) = seen.insert((listen.clone(), format!("{bind:?}")), block) else { return Ok(()) };
    let (key, before) = (&block.keys[0], &first.keys[0]);
    Err(key.refuse(format!(
        "the zone {} on port {} has a block at {}:{} already; put the directives of both into one",
        listen.zone, listen.port, before.file, before.line
    )))
}

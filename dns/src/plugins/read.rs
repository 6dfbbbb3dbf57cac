//! From the statements of a Corefile to a [`Config`].
//!
//! An option that cannot be honoured as written is refused with its location and the remedy; none is ignored silently.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::Path};

use super::{DIRECTIVES, Entry, ServerBlock, config::Config, directive::IneffectiveOption, unsupported};
use crate::{
    config::{BindAddress, Listen, Zones},
    corefile::{self, Block, CorefileError, Statement},
};

/// Reads a Corefile and the files it imports. `env` returns the value of `{$NAME}`.
pub fn read(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, CorefileError> {
    let blocks = corefile::read(path, env)?;
    if blocks.is_empty() {
        return Err(CorefileError::Empty(path.to_owned()));
    }
    let mut seen = HashMap::new();
    let mut servers = Vec::new();
    for block in &blocks {
        let server = server(block)?;
        for listen in &server.listens {
            refuse_duplicate_block(listen, &server.bind, block, &mut seen)?;
        }
        servers.push(server);
    }
    refuse_other_selectors(&blocks, &servers)?;
    Ok(Config { servers })
}

/// The options in a Corefile that have no effect, for the log. Empty if the file cannot be read.
pub fn ineffective_options(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Vec<IneffectiveOption> {
    let blocks = corefile::read(path, env).unwrap_or_default();
    let statements = blocks.iter().flat_map(|block| &block.directives);
    statements.filter_map(|statement| Some((find(statement)?.ineffective)(statement))).flatten().collect()
}

fn find(statement: &Statement) -> Option<&'static Entry> {
    DIRECTIVES.iter().find(|directive| directive.name == statement.name.text)
}

fn server(block: &Block) -> Result<ServerBlock, CorefileError> {
    let mut listens = Vec::new();
    for key in &block.keys {
        listens.extend(corefile::listens(key)?);
    }
    let zones = Zones(listens.iter().map(|listen| listen.zone.clone()).collect());
    let mut server = ServerBlock::new(listens);
    for (at, statement) in block.directives.iter().enumerate() {
        let directive = find(statement);
        if !directive.is_some_and(|directive| directive.is_repeatable) {
            refuse_duplicate(statement, &block.directives[..at])?;
        }
        match directive {
            Some(directive) => (directive.read)(&mut server, statement, &zones)?,
            None => {
                let supported = DIRECTIVES.iter().map(|directive| directive.name);
                return Err(unsupported::refuse(statement, supported));
            }
        }
    }
    Ok(server)
}

fn refuse_duplicate(statement: &Statement, before: &[Statement]) -> Result<(), CorefileError> {
    let name = &statement.name.text;
    match before.iter().find(|earlier| earlier.name.text == *name) {
        None => Ok(()),
        Some(first) => Err(statement
            .refuse(format!("`{name}` stands in line {} already; put both into one", first.name.line))),
    }
}

type Seen<'a> = HashMap<(Listen, String), &'a Block>;

fn refuse_duplicate_block<'a>(
    listen: &Listen,
    bind: &[BindAddress],
    block: &'a Block,
    seen: &mut Seen<'a>,
) -> Result<(), CorefileError> {
    let Some(first) = seen.insert((listen.clone(), format!("{bind:?}")), block) else { return Ok(()) };
    let (key, before) = (&block.keys[0], &first.keys[0]);
    Err(key.refuse(format!(
        "the zone {} on port {} has a block at {}:{} already; put the directives of both into one",
        listen.zone, listen.port, before.file, before.line
    )))
}

/// Each object is read once for all blocks, so that all must select the same.
fn refuse_other_selectors(blocks: &[Block], servers: &[ServerBlock]) -> Result<(), CorefileError> {
    let mut selected = None;
    for (block, server) in blocks.iter().zip(servers) {
        let Some(options) = &server.kubernetes else { continue };
        let own = (&options.labels, &options.namespace_labels);
        if *selected.get_or_insert(own) != own {
            let statement = block.directives.iter().find(|statement| statement.name.is("kubernetes"));
            let word = statement.map_or(&block.keys[0], |statement| &statement.name);
            return Err(word.refuse("`labels` and `namespace_labels` must be the same in all blocks"));
        }
    }
    Ok(())
}

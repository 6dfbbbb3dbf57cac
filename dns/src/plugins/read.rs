//! From the statements of a Corefile to a [`Config`].
//!
//! An option that cannot be honoured as written is refused with its location and the remedy; none is ignored silently.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::Path};

use super::{DIRECTIVES, Entry, ServerBlock, config::Config, directive::IneffectiveOption, unsupported};
use crate::{
    config::{BindAddress, Listen, ServerProtocol, Zones},
    corefile::{self, Block, CorefileError, Source, Statement, Tree},
};

/// Reads a Corefile and the files it imports. `env` returns the value of `{$NAME}`. Errors: the first problem.
pub fn read(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, CorefileError> {
    read_source(Source::file(path), env)
}

/// As [`read`], also of a text.
pub fn read_source(
    source: Source<'_>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, CorefileError> {
    let Reading { servers, problems, .. } = Reading::of(source, env);
    match problems.into_iter().next() {
        None => Ok(Config { servers }),
        Some(problem) => Err(problem),
    }
}

/// The options in a Corefile that have no effect, for the log. Empty if the file cannot be read.
pub fn ineffective_options(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Vec<IneffectiveOption> {
    ineffective(&corefile::read(Source::file(path), env).blocks)
}

pub(super) fn ineffective(blocks: &[Block]) -> Vec<IneffectiveOption> {
    let statements = blocks.iter().flat_map(|block| &block.directives);
    statements.filter_map(|statement| Some((find(statement)?.ineffective)(statement))).flatten().collect()
}

/// A Corefile with all its problems.
pub(super) struct Reading {
    pub blocks: Vec<Block>,
    /// Complete if there is no problem.
    servers: Vec<ServerBlock>,
    pub problems: Vec<CorefileError>,
}

impl Reading {
    pub(super) fn of(source: Source<'_>, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let Tree { blocks, mut problems } = corefile::read(source, env);
        if blocks.is_empty() && problems.is_empty() {
            problems.push(CorefileError::Empty(source.path().to_owned()));
        }
        let mut seen = HashMap::new();
        let mut servers = Vec::new();
        for block in &blocks {
            let server = server(block, &mut problems);
            // Blocks with views, and one without, share a zone.
            for listen in server.listens.iter().filter(|_| server.view.is_none()) {
                problems.extend(refuse_duplicate_block(listen, &server.bind, block, &mut seen).err());
            }
            problems.extend(refuse_without_certificate(block, &server).err());
            problems.extend(refuse_without_cluster(block, &server).err());
            problems.extend(refuse_original(block, &server).err());
            servers.push(server);
        }
        problems.extend(refuse_other_selectors(&blocks, &servers).err());
        Self { blocks, servers, problems }
    }
}

fn find(statement: &Statement) -> Option<&'static Entry> {
    DIRECTIVES.iter().find(|directive| directive.name == statement.name.text)
}

fn server(block: &Block, problems: &mut Vec<CorefileError>) -> ServerBlock {
    let mut listens = Vec::new();
    for key in &block.keys {
        match corefile::listens(key) {
            Ok(read) => listens.extend(read),
            Err(problem) => problems.push(problem),
        }
    }
    let zones = match listens.as_slice() {
        // The keys are refused; the directives are read nevertheless.
        [] => Zones::all(),
        _ => Zones(listens.iter().map(|listen: &Listen| listen.zone.clone()).collect()),
    };
    let mut server = ServerBlock::new(listens);
    for (at, statement) in block.directives.iter().enumerate() {
        let directive = find(statement);
        if !directive.is_some_and(|directive| directive.is_repeatable) {
            problems.extend(refuse_duplicate(statement, &block.directives[..at]).err());
        }
        match directive {
            Some(directive) => read_statement(directive, statement, (&mut server, &zones), problems),
            None => {
                let supported = DIRECTIVES.iter().map(|directive| directive.name);
                problems.push(unsupported::refuse(statement, supported));
            }
        }
    }
    server
}

/// Reads a directive. After a problem of an option it is read again without that option, for the problems of the
/// others.
fn read_statement(
    directive: &Entry,
    statement: &Statement,
    (server, zones): (&mut ServerBlock, &Zones),
    problems: &mut Vec<CorefileError>,
) {
    let Err(mut problem) = (directive.read)(server, statement, zones) else { return };
    let mut rest = statement.clone();
    loop {
        let options = rest.body.len();
        if let Some((file, line)) = problem.position() {
            rest.body.retain(|option| !option.stands_at(file, line));
        }
        let is_first = options == statement.body.len();
        let is_of_option = rest.body.len() < options;
        // Without its refused options the directive may lack one, which is no problem of the file.
        if is_first || is_of_option {
            problems.push(problem);
        }
        if !is_of_option {
            return;
        }
        match (directive.read)(server, &rest, zones) {
            Ok(()) => return,
            Err(next) => problem = next,
        }
    }
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

fn refuse_without_certificate(block: &Block, server: &ServerBlock) -> Result<(), CorefileError> {
    let is_encrypted = |listen: &Listen| listen.protocol != ServerProtocol::Dns;
    match server.listens.iter().find(|listen| is_encrypted(listen)) {
        Some(listen) if server.tls.is_none() => {
            let scheme = listen.protocol.name();
            Err(block.keys[0].refuse(format!("`{scheme}://` needs a certificate; add `tls CERT KEY`")))
        }
        Some(_) | None => Ok(()),
    }
}

/// `alternate original` asks for the name of the client, whose answer would be that for another name.
fn refuse_original(block: &Block, server: &ServerBlock) -> Result<(), CorefileError> {
    let is_refused = server.alternates.iter().any(|alternate| alternate.original)
        && server.rewrites.iter().any(|rewrite| rewrite.rule.changes_question());
    let statement = block.directives.iter().find(|statement| {
        statement.name.is("alternate") && statement.words.first().is_some_and(|word| word.is("original"))
    });
    match statement.filter(|_| is_refused) {
        Some(statement) => Err(statement.refuse(
            "`original` undoes only `rewrite edns0`; remove it, or the rules for names, types and classes",
        )),
        None => Ok(()),
    }
}

/// The Services that `k8s_external` names are those of `kubernetes`.
fn refuse_without_cluster(block: &Block, server: &ServerBlock) -> Result<(), CorefileError> {
    let statement = block.directives.iter().find(|statement| statement.name.is("k8s_external"));
    match statement.filter(|_| server.external.is_some() && server.kubernetes.is_none()) {
        Some(statement) => {
            Err(statement.refuse("the Services are those of `kubernetes`; add `kubernetes` to the block"))
        }
        None => Ok(()),
    }
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

//! What is understood and changes nothing, since this server does it anyway, or has no use for it.

use super::{
    lexer::Word,
    log,
    tree::{Block, Directive},
};

/// An option that has no effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IneffectiveOption {
    /// `FILE:LINE`.
    pub place: String,
    pub option: String,
    pub reason: &'static str,
}

/// Directive, option, and why nothing comes of it.
const NEEDLESS: &[(&str, &str, &str)] = &[
    ("errors", "consolidate", "a failure is logged when it begins and when it ends, not each time"),
    ("errors", "stacktrace", "a panic is logged with its place in any case"),
    ("forward", "prefer_udp", "upstreams are asked over UDP first in any case"),
    ("kubernetes", "startup_timeout", "the server answers at once, SERVFAIL until the cluster is known"),
    ("kubernetes", "apiserver_qps", "one watch for each kind of object needs no limit"),
    ("kubernetes", "apiserver_burst", "one watch for each kind of object needs no limit"),
    ("kubernetes", "apiserver_max_inflight", "one watch for each kind of object needs no limit"),
    ("ready", "monitor", "readiness never ends before the server does"),
];

pub(super) fn of(blocks: &[Block]) -> Vec<IneffectiveOption> {
    let directives = blocks.iter().flat_map(|block| &block.directives);
    directives.flat_map(|directive| format(directive).into_iter().chain(options(directive))).collect()
}

fn format(directive: &Directive) -> Option<IneffectiveOption> {
    let format = log::own_format(directive).filter(|_| directive.name.text == "log")?;
    Some(IneffectiveOption::new(format, "an answer is logged with all there is to it, in fields"))
}

fn options(directive: &Directive) -> impl Iterator<Item = IneffectiveOption> + '_ {
    directive.body.iter().filter_map(|option| ineffective(directive, option))
}

fn ineffective(directive: &Directive, option: &Directive) -> Option<IneffectiveOption> {
    let is_it =
        |(name, of_it, _): &&(&str, &str, &str)| directive.name.text == *name && option.name.text == *of_it;
    let (_, _, reason) = NEEDLESS.iter().find(is_it)?;
    Some(IneffectiveOption::new(&option.name, reason))
}

impl IneffectiveOption {
    fn new(option: &Word, reason: &'static str) -> Self {
        Self { place: format!("{}:{}", option.file, option.line), option: option.text.clone(), reason }
    }
}

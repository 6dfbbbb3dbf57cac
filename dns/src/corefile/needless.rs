//! What is understood and changes nothing, since this server does it anyway, or has no use for it.

use super::tree::{Block, Directive};

/// An option that has no effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needless {
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

pub(super) fn of(blocks: &[Block]) -> Vec<Needless> {
    let directives = blocks.iter().flat_map(|block| &block.directives);
    let options =
        directives.flat_map(|directive| directive.body.iter().map(move |option| (directive, option)));
    options.filter_map(|(directive, option)| needless(directive, option)).collect()
}

fn needless(directive: &Directive, option: &Directive) -> Option<Needless> {
    let is_it =
        |(name, of_it, _): &&(&str, &str, &str)| directive.name.text == *name && option.name.text == *of_it;
    let (_, _, reason) = NEEDLESS.iter().find(is_it)?;
    let place = format!("{}:{}", option.name.file, option.name.line);
    Some(Needless { place, option: option.name.text.clone(), reason })
}

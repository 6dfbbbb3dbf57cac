//! Names of other zones: queries to upstreams, and the cache of their answers.

pub(crate) mod cache;
pub(crate) mod decode;
pub(crate) mod encode;
pub mod forward;
pub mod reply;

//! `loop`: upstreams that forward to this server are detected and left out.

use super::directive::Switch;
pub(super) struct Loop;

impl Switch for Loop {
    const NAME: &'static str = "loop";
    const SUMMARY: &'static str =
        "an upstream that forwards to this server is left out, and the server goes on";
}

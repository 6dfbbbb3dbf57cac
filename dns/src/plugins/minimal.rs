//! `minimal`: replies carry the records of the answer only.

use super::directive::Switch;
pub(super) struct Minimal;

impl Switch for Minimal {
    const NAME: &'static str = "minimal";
    const SUMMARY: &'static str = "only the records of the answer";
}

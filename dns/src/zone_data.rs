//! Data of authoritative zones: master files, and answers from their records.
//!
//! ```text
//! text ─> lexer (entries) ─> parse (records) ─> Zone ─> lookup ─> answer, referral, denial
//! ```
//!
//! A [`Zone`] never changes; a reload replaces it as a whole. The size of a file, the number of its records and the
//! depth of its inclusions are limited: a mistake in one file must not take the memory of the node.
//!
//! A signed zone is served as it was signed elsewhere: nothing here makes a signature or checks one.

mod denial;
mod generate;
mod layout;
mod lexer;
mod location;
mod lookup;
mod parse;
mod rdata;
mod signature;
mod timestamp;
mod words;
mod zone;

pub use lookup::{Found, Outcome};
pub use parse::{MAX_RECORDS, ZoneFileError, parse};
pub(crate) use signature::set_type;
pub use signature::{Invalid, is_newer};
pub use zone::{InvalidZone, Timers, Zone};

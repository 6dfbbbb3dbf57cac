//! Packets: parsing, fragments, ICMP errors, rewriting, rejects.

pub mod dissect;
pub mod fragment;
pub mod frame;
pub mod header;
mod hook;
mod icmp;
mod parse;
pub mod reject;
mod rewrite;
mod translate;
pub mod vlan;

pub use header::Headers;
pub use hook::{ClientLocation, Hook};
pub use parse::{Packet, parse_v4, parse_v6};
pub use rewrite::Translation;
pub use translate::translate;

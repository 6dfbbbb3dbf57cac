//! Routes: the kernel's FIB lookup, and redirects by its result.

mod lookup;
pub mod next_hop;
pub mod redirect;

pub use lookup::{Routes, lookup};

//! The directives of a server block that answer by themselves, one file each.

pub mod hosts;
pub mod local;
pub mod rewrite;
pub mod template;

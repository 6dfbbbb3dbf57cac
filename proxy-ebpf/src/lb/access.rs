//! What a decision does to the affinity tables, as a property of the client's type.

pub trait Access {
    /// A hit restarts the timeout, and a choice is stored. Otherwise the tables stay as they are.
    const WRITES: bool;
}

/// Of clients.
pub enum Live {}

/// Of questions.
pub enum ReadOnly {}

impl Access for Live {
    const WRITES: bool = true;
}

impl Access for ReadOnly {
    const WRITES: bool = false;
}

//! Requests on the agent's control socket: a word, then the end of the stream; the reply is JSON.

/// The start of a request that shows or changes the log level; the level follows.
pub const LOG_LEVEL: &str = "log-level ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// The agent's status. The empty word: agents of earlier versions read none.
    Status,
    /// Statistics of DNS queries.
    QueryStatistics,
}

impl ControlRequest {
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "",
            Self::QueryStatistics => "names",
        }
    }

    /// Returns `None` for a word of another version.
    pub fn parse(word: &[u8]) -> Option<Self> {
        [Self::Status, Self::QueryStatistics].into_iter().find(|request| request.word().as_bytes() == word)
    }
}

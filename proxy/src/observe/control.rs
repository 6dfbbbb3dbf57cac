//! Requests on the agent's control socket: a word, then the end of the stream; the reply is JSON.

/// The start of a request that shows or changes the log level; the level follows.
pub const LOG_LEVEL: &str = "log-level ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// The agent's status. The empty word: agents of earlier versions read none.
    Status,
    /// Statistics of DNS queries.
    QueryStatistics,
    /// Labels and ages of Services.
    Services,
    /// Pods, nodes and zones of endpoints.
    Endpoints,
    /// The pods of this node by address.
    Pods,
}

impl ControlRequest {
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "",
            Self::QueryStatistics => "names",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Pods => "pods",
        }
    }

    /// Returns `None` for a word of another version.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let all = [Self::Status, Self::QueryStatistics, Self::Services, Self::Endpoints, Self::Pods];
        all.into_iter().find(|request| request.word().as_bytes() == word)
    }
}

//! Requests on the agent's control socket: a word, then the end of the stream; the reply is JSON, except for objects.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// The objects, as manifests: documents of YAML, whose end is [`OBJECTS_END`].
    Objects,
    /// The policy of the node.
    Policy,
    /// The last lines of the log.
    Log,
    /// The metrics as text.
    Metrics,
    /// Arguments, and kube-proxy's configuration with them.
    Configuration,
}

/// The last line of objects that are complete.
pub const OBJECTS_END: &str = "# end\n";

/// The reply to [`ControlRequest::Configuration`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfiguration {
    pub arguments: Vec<String>,
    /// As /configz has it.
    pub configuration: Value,
    /// The Corefile that a flag names.
    #[serde(default)]
    pub corefile: Option<String>,
}

impl ControlRequest {
    const ALL: [Self; 10] = [
        Self::Status,
        Self::QueryStatistics,
        Self::Services,
        Self::Endpoints,
        Self::Pods,
        Self::Objects,
        Self::Policy,
        Self::Log,
        Self::Metrics,
        Self::Configuration,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "",
            Self::QueryStatistics => "names",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Pods => "pods",
            Self::Objects => "objects",
            Self::Policy => "policy",
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Configuration => "configuration",
        }
    }

    /// Returns `None` for a word of another version.
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|request| request.word().as_bytes() == word)
    }
}

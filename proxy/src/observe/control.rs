//! What can be asked of a running agent at its socket: a word, then the end of what is said; the answer is JSON.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// How it is. Nothing needs to be said for that: agents of before heard no words.
    Status,
    /// Who asks it for names.
    QueryStatistics,
}

impl ControlRequest {
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "",
            Self::QueryStatistics => "names",
        }
    }

    /// `None`: a word of another version.
    pub fn parse(word: &[u8]) -> Option<Self> {
        [Self::Status, Self::QueryStatistics].into_iter().find(|request| request.word().as_bytes() == word)
    }
}

//! What can be asked of a running agent at its socket: a word, then the end of what is said; the answer is JSON.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// How it is. Nothing needs to be said for that: agents of before heard no words.
    Status,
    /// Who asks it for names.
    Names,
}

impl Inquiry {
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "",
            Self::Names => "names",
        }
    }

    /// `None`: a word of another version.
    pub fn of(word: &[u8]) -> Option<Self> {
        [Self::Status, Self::Names].into_iter().find(|inquiry| inquiry.word().as_bytes() == word)
    }
}

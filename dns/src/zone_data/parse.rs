//! Master files: entries with their defaults, directives and inclusions.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hickory_server::proto::rr::{DNSClass, Name, Record, RecordType};
use thiserror::Error;

use super::{
    generate,
    layout::any_type,
    lexer::{Entry, Lexer, Word},
    rdata::{rdata, ttl},
    words::name,
    zone::{InvalidZone, Zone},
};
use crate::text_file;

/// Limit of the octets of a file.
const MAX_FILE: u64 = 256 << 20;
/// Limit of the records of a zone.
pub const MAX_RECORDS: usize = 2_000_000;
/// Limit of the depth of `$INCLUDE`.
const MAX_DEPTH: usize = 7;
/// The TTL of a record without one, in a file without `$TTL` and before any other.
const DEFAULT_TTL: u32 = 3600;

#[derive(Debug, Error)]
pub enum ZoneFileError {
    #[error("cannot read {0}")]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{0} is larger than {MAX_FILE} octets")]
    TooLarge(PathBuf),
    #[error("{file}:{line}: {problem}")]
    Malformed { file: PathBuf, line: usize, problem: String },
    #[error("{0}")]
    Invalid(PathBuf, #[source] InvalidZone),
}

/// Parses the file of a zone. Errors: the first problem, with its position.
pub fn parse(path: &Path, origin: &Name) -> Result<Zone, ZoneFileError> {
    let mut parser = Parser { records: Vec::new() };
    parser.file(path, &mut State::new(origin), 0)?;
    Zone::new(origin, parser.records).map_err(|error| ZoneFileError::Invalid(path.to_owned(), error))
}

/// The defaults of the next entry.
#[derive(Clone)]
struct State {
    origin: Name,
    owner: Option<Name>,
    /// `$TTL`.
    default_ttl: Option<u32>,
    last_ttl: Option<u32>,
}

impl State {
    fn new(origin: &Name) -> Self {
        Self { origin: origin.clone(), owner: None, default_ttl: None, last_ttl: None }
    }
}

struct Parser {
    records: Vec<Record>,
}

impl Parser {
    fn file(&mut self, path: &Path, state: &mut State, depth: usize) -> Result<(), ZoneFileError> {
        let unreadable = |error| ZoneFileError::Unreadable(path.to_owned(), error);
        if fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
            return Err(ZoneFileError::TooLarge(path.to_owned()));
        }
        let text = text_file::read(path).map_err(unreadable)?;
        let malformed = |(line, problem): (usize, &str)| ZoneFileError::Malformed {
            file: path.to_owned(),
            line,
            problem: problem.to_owned(),
        };
        let mut lexer = Lexer::new(&text);
        while let Some(entry) = lexer.next_entry().map_err(malformed)? {
            let at = |problem| malformed((entry.line, problem));
            match directive(&entry) {
                None => self.record(&entry, state).map_err(at)?,
                Some((name, arguments)) => match (name.as_str(), arguments) {
                    ("$INCLUDE", [file, origin @ ..]) => {
                        if depth >= MAX_DEPTH {
                            return Err(at("files include each other too deeply"));
                        }
                        // The origin of the file that includes is not changed (RFC 1035, section 5.1).
                        let mut inner = state.clone();
                        if let Some(word) = origin.first() {
                            inner.origin = self::name(word, &state.origin).ok_or_else(|| at("no name"))?;
                        }
                        let included = path.parent().unwrap_or(Path::new("")).join(&file.text);
                        self.file(&included, &mut inner, depth + 1)?;
                    }
                    ("$GENERATE", _) => self.generate(&entry, arguments, state).map_err(at)?,
                    _ => set(&name, arguments, state).map_err(at)?,
                },
            }
        }
        Ok(())
    }

    fn generate(&mut self, entry: &Entry, arguments: &[Word], state: &mut State) -> Result<(), &'static str> {
        let (numbers, record) = arguments.split_first().ok_or("$GENERATE takes a range and a record")?;
        for number in generate::range(&numbers.text)? {
            let words = generate::filled(record, number)?;
            self.record(&Entry { words, is_indented: false, ..*entry }, state)?;
        }
        Ok(())
    }

    fn record(&mut self, entry: &Entry, state: &mut State) -> Result<(), &'static str> {
        let mut words = entry.words.as_slice();
        if !entry.is_indented
            && let Some((owner, rest)) = words.split_first()
        {
            state.owner = Some(name(owner, &state.origin).ok_or("the owner is no name")?);
            words = rest;
        }
        let owner = state.owner.clone().ok_or("the first record has no owner")?;
        let (stated, record_type, data) = head(words)?;
        let data = rdata(record_type, data, &state.origin).ok_or("the data is not valid for its type")?;
        let ttl = stated.or(state.default_ttl).or(state.last_ttl).unwrap_or(DEFAULT_TTL);
        state.last_ttl = Some(ttl);
        if self.records.len() >= MAX_RECORDS {
            return Err("the zone has too many records");
        }
        self.records.push(Record::from_rdata(owner, ttl, data));
        Ok(())
    }
}

/// A directive and its arguments.
fn directive(entry: &Entry) -> Option<(String, &[Word])> {
    let (first, rest) = entry.words.split_first()?;
    let is_directive = first.text.starts_with('$') && !first.quoted && !entry.is_indented;
    is_directive.then(|| (first.text.to_ascii_uppercase(), rest))
}

fn set(directive: &str, arguments: &[Word], state: &mut State) -> Result<(), &'static str> {
    match (directive, arguments) {
        ("$ORIGIN", [origin]) => state.origin = name(origin, &state.origin).ok_or("$ORIGIN takes a name")?,
        ("$TTL", [word]) => state.default_ttl = Some(ttl(&word.text).ok_or("$TTL takes a time")?),
        ("$ORIGIN" | "$TTL" | "$INCLUDE", _) => return Err("the directive takes one argument"),
        _ => return Err("there is no such directive; $ORIGIN, $TTL, $INCLUDE and $GENERATE are"),
    }
    Ok(())
}

/// `[TTL] [CLASS] TYPE DATA`, with TTL and class in any order.
fn head(mut words: &[Word]) -> Result<(Option<u32>, RecordType, &[Word]), &'static str> {
    let (mut stated, mut has_class) = (None, false);
    loop {
        let (word, rest) = words.split_first().ok_or("a record has no type")?;
        words = rest;
        let text = word.text.to_ascii_uppercase();
        if !has_class && let Ok(class) = text.parse::<DNSClass>() {
            // `ANY` is a type in this place, and no class of records.
            match class {
                DNSClass::IN => has_class = true,
                DNSClass::CH | DNSClass::HS => return Err("only the class IN is served"),
                DNSClass::NONE | DNSClass::ANY | DNSClass::OPT(_) | DNSClass::Unknown(_) => {
                    return Err("this is no class of records");
                }
            }
        } else if stated.is_none()
            && let Some(seconds) = ttl(&text)
        {
            stated = Some(seconds);
        } else {
            return Ok((stated, any_type(&text).ok_or("there is no such type")?, words));
        }
    }
}

//! Server blocks and their directives, with imports resolved.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CorefileError, kube_dns,
    lexer::{Word, lines},
    pillar,
};
use crate::text_file;

#[derive(Debug)]
pub(crate) struct Block {
    /// At least one.
    pub keys: Vec<Word>,
    pub directives: Vec<Statement>,
}

#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub name: Word,
    pub words: Vec<Word>,
    pub body: Vec<Statement>,
}

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;
/// The lines to read. The rest of a line after a brace is put back as a line.
type Lines = VecDeque<Vec<Word>>;

/// Limit of the import depth, against circular imports.
const DEEPEST: usize = 16;

/// A Corefile. Its path is that of error messages, and imports are relative to it. A directory is a mounted ConfigMap, of
/// CoreDNS or of kube-dns.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    path: &'a Path,
    /// The text, if it is not to be read from the path.
    text: Option<&'a str>,
}

impl<'a> Source<'a> {
    pub fn file(path: &'a Path) -> Self {
        Self { path, text: None }
    }

    pub fn text(path: &'a Path, text: &'a str) -> Self {
        Self { path, text: Some(text) }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }
}

/// The blocks of a Corefile, and all problems of its syntax in the order of their discovery. With a problem, the blocks
/// are those that could be read in spite of it.
#[derive(Debug)]
pub(crate) struct Tree {
    pub blocks: Vec<Block>,
    pub problems: Vec<CorefileError>,
}

pub(crate) fn read(source: Source<'_>, env: Env<'_>) -> Tree {
    if source.text.is_some() || !source.path.is_dir() {
        return read_file(source, env);
    }
    match kube_dns::in_directory(source.path) {
        Ok((path, text)) => read_file(Source { path: &path, text: text.as_deref() }, env),
        Err(problem) => Tree { blocks: Vec::new(), problems: vec![problem] },
    }
}

/// The octets that a configuration is read from, without imported files; `None`: they cannot be read.
pub(crate) fn octets(path: &Path) -> Option<Vec<u8>> {
    if !path.is_dir() {
        return fs::read(path).ok();
    }
    let (path, text) = kube_dns::in_directory(path).ok()?;
    text.map(String::into_bytes).or_else(|| fs::read(path).ok())
}

fn read_file(source: Source<'_>, env: Env<'_>) -> Tree {
    let mut reader = Reader {
        source,
        env,
        snippets: HashMap::new(),
        blocks: Vec::new(),
        problems: RefCell::default(),
        is_cut_off: Cell::new(false),
    };
    let end = reader.file(source.path, 0);
    let Reader { blocks, problems, .. } = reader;
    let mut problems = problems.into_inner();
    problems.extend(end.err());
    Tree { blocks, problems }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Of a server block.
    Directives,
    /// Of a directive. As in CoreDNS, they may share a line with its braces.
    Options,
}

struct Reader<'a> {
    source: Source<'a>,
    env: Env<'a>,
    snippets: HashMap<String, Vec<Statement>>,
    blocks: Vec<Block>,
    /// The problems after which reading went on.
    problems: RefCell<Vec<CorefileError>>,
    /// Whether a brace that is never closed was reported; the braces around it are not closed either.
    is_cut_off: Cell<bool>,
}

impl Reader<'_> {
    fn report(&self, problem: CorefileError) {
        self.problems.borrow_mut().push(problem);
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<(), CorefileError> {
        let mut lines = self.lines(path)?;
        while let Some(line) = lines.pop_front() {
            if line[0].is("import") {
                if let Err(problem) = self.import_blocks(&line, path, depth) {
                    self.report(problem);
                }
            } else {
                self.block(line, &mut lines, path, depth)?;
            }
        }
        Ok(())
    }

    fn lines(&self, path: &Path) -> Result<Lines, CorefileError> {
        let given = self.source.text.filter(|_| path == self.source.path).map(str::to_owned);
        let read = || text_file::read(path);
        let text =
            given.map_or_else(read, Ok).map_err(|error| CorefileError::Unreadable(path.to_owned(), error))?;
        let mut lines = lines(&text, &Arc::from(path.display().to_string()), self.env)?;
        for word in lines.iter_mut().flatten() {
            if let Err(problem) = pillar::fill(word, self.env) {
                self.report(problem);
            }
        }
        Ok(lines.into())
    }

    fn block(
        &mut self,
        line: Vec<Word>,
        lines: &mut Lines,
        path: &Path,
        depth: usize,
    ) -> Result<(), CorefileError> {
        let mut keys = line;
        while let Some(last) = keys.last().filter(|word| word.text.ends_with(',')) {
            let Some(more) = lines.pop_front() else {
                return Err(
                    last.refuse("the file ends after a comma; add the next zone, or remove the comma")
                );
            };
            keys.extend(more);
        }
        // The brace may stand alone on the next line, unlike that of a directive.
        let is_alone = |line: &Vec<Word>| line[0].is("{") && line.len() == 1;
        let opens =
            put_back_after_brace(&mut keys, lines) || lines.pop_front_if(|line| is_alone(line)).is_some();
        let Some(first) = keys.first().cloned() else {
            return Err(CorefileError::Refused {
                file: path.display().to_string(),
                line: 1,
                problem: "a block begins without saying for which zones; write them before the {".to_owned(),
            });
        };
        if first.is("}") {
            self.close(&keys, None);
            return Ok(());
        }
        if !opens && !self.blocks.is_empty() {
            return Err(first.refuse("a server block needs a { at the end of its first line"));
        }
        let directives = self.directives(lines, opens.then_some(&first), Level::Directives, path, depth)?;
        match first.text.strip_prefix('(').and_then(|name| name.strip_suffix(')')) {
            Some(name) => {
                self.snippets.insert(name.to_owned(), directives);
            }
            None => self.blocks.push(Block { keys, directives }),
        }
        Ok(())
    }

    /// Reads up to the closing brace, or to the end of the file if there is no opening one.
    fn directives(
        &self,
        lines: &mut Lines,
        opened: Option<&Word>,
        level: Level,
        path: &Path,
        depth: usize,
    ) -> Result<Vec<Statement>, CorefileError> {
        let mut directives = Vec::new();
        while let Some(mut words) = lines.pop_front() {
            if words[0].is("}") {
                self.close(&words, opened);
                return Ok(directives);
            }
            let opens = put_back_after_brace(&mut words, lines);
            if let Some(at) = words.iter().position(|word| word.is("}")) {
                if level == Level::Directives {
                    self.report(words[at].refuse("the } of a server block begins a line of its own"));
                }
                lines.push_front(words.split_off(at));
            }
            if words.is_empty() {
                self.report(refuse_lone_brace(opened, path));
                continue;
            }
            let name = words.remove(0);
            if name.is("import") {
                match self.import(&name, &words, path, depth) {
                    Ok(imported) => directives.extend(imported),
                    Err(problem) => self.report(problem),
                }
                continue;
            }
            let body = if opens {
                self.directives(lines, Some(&name), Level::Options, path, depth)?
            } else {
                Vec::new()
            };
            directives.push(Statement { name, words, body });
        }
        if let Some(word) = opened
            && !self.is_cut_off.replace(true)
        {
            self.report(word.refuse("the { of this line is never closed; add a } on a line of its own"));
        }
        Ok(directives)
    }

    /// Reports a closing brace that has a problem.
    fn close(&self, words: &[Word], opened: Option<&Word>) {
        match (words, opened) {
            ([_, more, ..], _) => {
                self.report(more.refuse("nothing may follow a } on its line; begin a new one"))
            }
            ([brace], None) => self.report(brace.refuse("this } closes nothing; remove it")),
            _ => {}
        }
    }

    fn import(
        &self,
        at: &Word,
        words: &[Word],
        path: &Path,
        depth: usize,
    ) -> Result<Vec<Statement>, CorefileError> {
        let [target] = words else { return Err(at.refuse("`import` takes one snippet, file or pattern")) };
        if let Some(snippet) = self.snippets.get(&target.text) {
            return Ok(snippet.clone());
        }
        let mut directives = Vec::new();
        for file in imported(target, path, depth)? {
            directives.extend(self.directives(
                &mut self.lines(&file)?,
                None,
                Level::Directives,
                &file,
                depth + 1,
            )?);
        }
        Ok(directives)
    }

    fn import_blocks(&mut self, line: &[Word], path: &Path, depth: usize) -> Result<(), CorefileError> {
        let [_, target] = line else { return Err(line[0].refuse("`import` takes one file or pattern here")) };
        for file in imported(target, path, depth)? {
            self.file(&file, depth + 1)?;
        }
        Ok(())
    }
}

/// Splits a line at its opening brace, and puts the words after it back as a line. Returns whether there is one.
fn put_back_after_brace(words: &mut Vec<Word>, lines: &mut Lines) -> bool {
    let Some(at) = words.iter().position(|word| word.is("{")) else { return false };
    let rest = words.split_off(at).split_off(1);
    if !rest.is_empty() {
        lines.push_front(rest);
    }
    true
}

fn refuse_lone_brace(opened: Option<&Word>, path: &Path) -> CorefileError {
    let problem = "a { stands alone; it belongs at the end of the line that it opens";
    match opened {
        Some(word) => word.refuse(format!("in this block {problem}")),
        None => {
            CorefileError::Refused { file: path.display().to_string(), line: 1, problem: problem.to_owned() }
        }
    }
}

/// The files of an import, sorted. A pattern may match none.
fn imported(target: &Word, from: &Path, depth: usize) -> Result<Vec<PathBuf>, CorefileError> {
    if depth >= DEEPEST {
        return Err(target.refuse("files import each other without end; break the circle"));
    }
    let path = from.parent().unwrap_or(Path::new("")).join(&target.text);
    let pattern = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !pattern.contains(['*', '?']) {
        let missing = "there is no such snippet before this line, and no such file; correct the name";
        return if path.is_file() { Ok(vec![path]) } else { Err(target.refuse(missing)) };
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    // An optional ConfigMap is mounted as an empty directory, or not at all.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        matches(pattern.as_bytes(), name.as_bytes()) && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_meant).collect();
    files.sort();
    Ok(files)
}

/// `*` matches any sequence, `?` any octet.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        Some((wanted, rest)) => name
            .split_first()
            .is_some_and(|(octet, more)| (*wanted == b'?' || wanted == octet) && matches(rest, more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_awaits_a_zone() {
        for (text, want) in
            [(",", "f:1: "), ("a,\n\n", "f:1: "), ("a {\n}\nb, c,", "f:3: "), ("a,\nb {\n}\n", "")]
        {
            let Tree { problems, .. } = read(Source::text(Path::new("f"), text), &|_| None);
            let problem = problems.first().map(ToString::to_string).unwrap_or_default();
            assert!(
                problem.starts_with(want) && problem.is_empty() == want.is_empty(),
                "{text:?}: {problem}"
            );
        }
    }

    #[test]
    fn patterns_mean_files() {
        for (pattern, name, want) in [
            ("*", "a.conf", true),
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("a?c*", "abcd", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
    }
}

//! Server blocks and their directives, with imports resolved.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CorefileError,
    lexer::{Word, lines},
};

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

pub(crate) fn read(path: &Path, env: Env<'_>) -> Result<Vec<Block>, CorefileError> {
    let mut reader = Reader { env, snippets: HashMap::new(), blocks: Vec::new() };
    reader.file(path, 0)?;
    Ok(reader.blocks)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Of a server block.
    Directives,
    /// Of a directive. As in CoreDNS, they may share a line with its braces.
    Options,
}

struct Reader<'a> {
    env: Env<'a>,
    snippets: HashMap<String, Vec<Statement>>,
    blocks: Vec<Block>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), CorefileError> {
        let mut lines = self.lines(path)?;
        while let Some(line) = lines.pop_front() {
            if line[0].is("import") {
                self.import_blocks(&line, path, depth)?;
            } else {
                self.block(line, &mut lines, path, depth)?;
            }
        }
        Ok(())
    }

    fn lines(&self, path: &Path) -> Result<Lines, CorefileError> {
        let text =
            fs::read_to_string(path).map_err(|error| CorefileError::Unreadable(path.to_owned(), error))?;
        Ok(lines(&text, &Arc::from(path.display().to_string()), self.env)?.into())
    }

    fn block(
        &mut self,
        line: Vec<Word>,
        lines: &mut Lines,
        path: &Path,
        depth: usize,
    ) -> Result<(), CorefileError> {
        let mut keys = line;
        while keys.last().is_some_and(|word| word.text.ends_with(',')) {
            keys.extend(lines.pop_front().unwrap_or_default());
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
            return closed(&keys, None);
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
                return closed(&words, opened).map(|()| directives);
            }
            let opens = put_back_after_brace(&mut words, lines);
            if let Some(at) = words.iter().position(|word| word.is("}")) {
                if level == Level::Directives {
                    return Err(words[at].refuse("the } of a server block begins a line of its own"));
                }
                lines.push_front(words.split_off(at));
            }
            if words.is_empty() {
                return Err(refuse_lone_brace(opened, path));
            }
            let name = words.remove(0);
            if name.is("import") {
                directives.extend(self.import(&name, &words, path, depth)?);
                continue;
            }
            let body = if opens {
                self.directives(lines, Some(&name), Level::Options, path, depth)?
            } else {
                Vec::new()
            };
            directives.push(Statement { name, words, body });
        }
        match opened {
            Some(word) => {
                Err(word.refuse("the { of this line is never closed; add a } on a line of its own"))
            }
            None => Ok(directives),
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

fn closed(words: &[Word], opened: Option<&Word>) -> Result<(), CorefileError> {
    match (words, opened) {
        ([_, more, ..], _) => Err(more.refuse("nothing may follow a } on its line; begin a new one")),
        (_, Some(_)) => Ok(()),
        ([brace, ..], None) => Err(brace.refuse("this } closes nothing; remove it")),
        ([], None) => Ok(()),
    }
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

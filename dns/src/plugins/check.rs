//! The check of a Corefile: line by line, what is done, ignored and refused.

#[cfg(test)]
mod tests;

use super::{
    directive::IneffectiveOption,
    read::{self, Reading},
};
use crate::corefile::{CorefileError, Source, Statement, Word};

/// A line of a Corefile, or of a file that it imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedLine {
    pub file: String,
    /// Absent for a problem of the whole file.
    pub line: Option<usize>,
    /// The words. Empty for a line whose syntax is wrong.
    pub text: String,
    pub verdict: Verdict,
    /// Empty if the line is done. With the remedy if it is refused.
    pub reason: String,
}

named_enum! {
    pub enum Verdict {
        Done = "done",
        /// Accepted without effect.
        Ignored = "ignored",
        Refused = "refused",
        /// An option of a directive whose own line is refused.
        Unchecked = "unchecked",
    }
}

/// Checks a Corefile. It can be served if no line is refused. `env` returns the value of `{$NAME}`.
pub fn check(source: Source<'_>, env: &dyn Fn(&str) -> Option<String>) -> Vec<CheckedLine> {
    let Reading { blocks, problems, .. } = Reading::of(source, env);
    let mut lines = Lines::default();
    for block in &blocks {
        lines.add(&block.keys[0], &block.keys[1..]);
        for directive in &block.directives {
            lines.add_statement(directive);
        }
    }
    for option in read::ineffective(&blocks) {
        lines.ignore(option);
    }
    for problem in problems {
        lines.refuse(source, problem);
    }
    for directive in blocks.iter().flat_map(|block| &block.directives) {
        lines.skip_options(directive);
    }
    lines.sorted()
}

#[derive(Default)]
struct Lines(Vec<CheckedLine>);

impl Lines {
    fn add_statement(&mut self, statement: &Statement) {
        self.add(&statement.name, &statement.words);
        statement.body.iter().for_each(|option| self.add_statement(option));
    }

    fn add(&mut self, first: &Word, more: &[Word]) {
        let words: Vec<&str> = [first].into_iter().chain(more).map(|word| word.text.as_str()).collect();
        let (text, position) = (words.join(" "), (&*first.file, first.line));
        match self.find(position) {
            // Options may share the line of their directive. A snippet is listed once, however often it is imported.
            Some(line) if !line.text.split(" · ").any(|part| part == text) => {
                line.text = format!("{} · {text}", line.text);
            }
            Some(_) => {}
            None => self.0.push(CheckedLine {
                file: position.0.to_owned(),
                line: Some(position.1),
                text,
                verdict: Verdict::Done,
                reason: String::new(),
            }),
        }
    }

    fn find(&mut self, (file, line): (&str, usize)) -> Option<&mut CheckedLine> {
        self.0.iter_mut().find(|known| known.line == Some(line) && known.file == file)
    }

    fn ignore(&mut self, option: IneffectiveOption) {
        let IneffectiveOption { location, reason, .. } = option;
        let is_there = |known: &&mut CheckedLine| {
            known.line.is_some_and(|line| location == format!("{}:{line}", known.file))
        };
        if let Some(line) = self.0.iter_mut().find(is_there) {
            line.verdict = Verdict::Ignored;
            reason.clone_into(&mut line.reason);
        }
    }

    fn refuse(&mut self, source: Source<'_>, problem: CorefileError) {
        let (file, number, reason) = match problem {
            CorefileError::Refused { file, line, problem } => (file, Some(line), problem),
            CorefileError::Unreadable(path, error) => {
                (path.display().to_string(), None, format!("cannot be read: {error}"))
            }
            CorefileError::Empty(_) => (source.path().display().to_string(), None, problem.to_string()),
        };
        match number.and_then(|line| self.find((&file, line))) {
            // The reason of an ignored option gives way.
            Some(line) if line.verdict != Verdict::Refused => {
                (line.verdict, line.reason) = (Verdict::Refused, reason);
            }
            Some(line) if line.reason.contains(&reason) => {}
            Some(line) => line.reason = format!("{}; {reason}", line.reason),
            None => {
                let text = String::new();
                self.0.push(CheckedLine { file, line: number, text, verdict: Verdict::Refused, reason });
            }
        }
    }

    /// The options of a directive that is refused itself were not read.
    fn skip_options(&mut self, directive: &Statement) {
        let name = &directive.name;
        let is_refused =
            self.find((&name.file, name.line)).is_some_and(|line| line.verdict == Verdict::Refused);
        if !is_refused {
            return;
        }
        for option in &directive.body {
            if let Some(line) = self.find((&option.name.file, option.name.line))
                && line.verdict != Verdict::Refused
            {
                line.verdict = Verdict::Unchecked;
                line.reason = format!("`{}` in line {} is refused", name.text, name.line);
            }
        }
    }

    /// The lines of each file in their order, the files in the order of their first lines.
    fn sorted(self) -> Vec<CheckedLine> {
        let Self(mut lines) = self;
        let mut files: Vec<String> = Vec::new();
        for line in &lines {
            if !files.contains(&line.file) {
                files.push(line.file.clone());
            }
        }
        lines.sort_by_key(|line| (files.iter().position(|file| *file == line.file), line.line));
        lines
    }
}

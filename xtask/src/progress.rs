//! Progress of slow steps: a spinner on a terminal, a line per step elsewhere.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, IsTerminal as _, PipeReader},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// The number of a failed command's last lines in the error.
const TAIL: usize = 25;

/// A running step. Dropping it without `done` clears the spinner and prints nothing: the caller reports the error.
pub struct Step {
    name: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    pub fn start(name: impl Into<String>) -> Step {
        let name = name.into();
        let spinner = io::stderr().is_terminal().then(|| spinner(&name));
        if spinner.is_none() {
            eprintln!("{name} ...");
        }
        Step { name, started: Instant::now(), spinner }
    }

    pub fn done(self) {
        self.clear();
        eprintln!("{}: done in {}", self.name, seconds(self.started.elapsed()));
    }

    /// Runs a command to its end and shows its latest line. Errors: it failed; contains its last lines.
    pub fn run(&self, command: Command) -> Result<()> {
        self.run_for(command, None)
    }

    /// As `run`, but kills the command after `limit`.
    pub fn run_within(&self, command: Command, limit: Duration) -> Result<()> {
        self.run_for(command, Some(limit))
    }

    fn run_for(&self, mut command: Command, limit: Option<Duration>) -> Result<()> {
        let name = command_line(&command);
        let (reader, writer) = io::pipe().context("making a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("starting `{name}`"))?;
        // The command holds the pipe's writing end: the reader would never see its end.
        drop(command);
        let tail = self.tail_of(reader, limit);
        if tail.is_none() {
            // The command may have ended meanwhile; `wait` below reaps it in both cases.
            let _ = child.kill();
        }
        let status = child.wait().with_context(|| format!("waiting for `{name}`"))?;
        let tail = tail.with_context(|| format!("`{name}` did not end in time"))?;
        if !status.success() {
            bail!("`{name}` failed ({status}). Its output:\n{tail}");
        }
        Ok(())
    }

    /// The last lines of the output at its end. Returns `None` after `limit`.
    fn tail_of(&self, output: PipeReader, limit: Option<Duration>) -> Option<String> {
        let started = Instant::now();
        let (lines, mut tail) = (lines_of(output), VecDeque::new());
        loop {
            let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(started.elapsed()));
            match lines.recv_timeout(left) {
                Ok(line) => self.show(&mut tail, line),
                Err(RecvTimeoutError::Disconnected) => return Some(indented(&tail)),
                Err(RecvTimeoutError::Timeout) => return None,
            }
        }
    }

    fn show(&self, tail: &mut VecDeque<String>, line: String) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(line.trim().to_owned());
        }
        tail.push_back(line);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }

    fn clear(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Lines read by a thread, so that the receiver can time out.
fn lines_of(output: PipeReader) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
        let texts = lines.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
        // Without a receiver the pipe closes, and the command gets SIGPIPE.
        texts.map_while(|text| sender.send(text).ok()).for_each(drop);
    });
    lines
}

fn indented(lines: &VecDeque<String>) -> String {
    lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn spinner(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
        .expect("the template is well-formed");
    let spinner = ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A command line as in a shell, environment variables first.
pub fn command_line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| value.map(|value| format!("{}={}", name.display(), value.display())));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    variables.chain(words.map(|word| word.display().to_string())).collect::<Vec<_>>().join(" ")
}

pub fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_reported_with_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo to stdout; echo to stderr >&2; exit 3"]);
        let error = Step::start("a test step").run(command).unwrap_err().to_string();
        for want in ["exit status: 3", "    to stdout", "    to stderr"] {
            assert!(error.contains(want), "{want:?} is missing in: {error}");
        }
    }

    #[test]
    fn a_command_that_exceeds_its_limit_is_killed() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let step = Step::start("a test step");
        step.run_within(shell("echo fine"), Duration::from_secs(60)).unwrap();
        let error =
            step.run_within(shell("echo why >&2; exit 3"), Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("    why"), "{error}");
        let error =
            step.run_within(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err().to_string();
        assert_eq!(error, "`sh -c exec sleep 60` did not end in time");
    }

    #[test]
    fn durations_are_formatted() {
        let cases = [(0.04, "0.0 s"), (59.94, "59.9 s"), (61.0, "1 min 1 s"), (3600.0, "60 min 0 s")];
        for (duration, want) in cases {
            assert_eq!(seconds(Duration::from_secs_f64(duration)), want);
        }
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("cargo");
        command.arg("install").env("LLVM_PREFIX", "/usr/lib/llvm-22");
        assert_eq!(command_line(&command), "LLVM_PREFIX=/usr/lib/llvm-22 cargo install");
    }
}

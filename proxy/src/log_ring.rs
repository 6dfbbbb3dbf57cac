//! The last lines of the process's log, for `portreeve report`: the log itself is in the hands of the container runtime.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Limit of the lines together, in octets.
const CAPACITY: usize = 128 << 10;
/// Limit of one line, whose rest is left out.
const MAX_LINE: usize = 4 << 10;

/// Like the log itself, one for the process.
static RING: Mutex<Ring> = Mutex::new(Ring { lines: VecDeque::new(), octets: 0 });

#[derive(Debug)]
struct Ring {
    lines: VecDeque<Box<[u8]>>,
    /// The sum of their lengths.
    octets: usize,
}

impl Ring {
    fn push(&mut self, line: &[u8]) {
        let line: Box<[u8]> = match line.get(..MAX_LINE) {
            Some(start) => [start, b"..\n"].concat().into(),
            None => line.into(),
        };
        self.octets += line.len();
        self.lines.push_back(line);
        while self.octets > CAPACITY {
            self.octets -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }

    fn text(&self) -> String {
        let octets: Vec<u8> = self.lines.iter().flat_map(|line| line.iter().copied()).collect();
        String::from_utf8_lossy(&octets).into_owned()
    }
}

/// The last lines, the oldest first.
pub fn text() -> String {
    ring().text()
}

fn ring() -> MutexGuard<'static, Ring> {
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error, and a copy of each line for the ring.
#[derive(Debug)]
pub struct LoggedStderr(io::Stderr);

impl LoggedStderr {
    pub fn new() -> Self {
        Self(io::stderr())
    }
}

impl Write for LoggedStderr {
    /// The subscriber writes a line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        ring().push(line);
        // The rest of a line that was written in part must not become another one.
        self.0.write_all(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_within_the_limits() {
        let mut ring = Ring { lines: VecDeque::new(), octets: 0 };
        ring.push(&[b'x'; 1 << 20]);
        assert_eq!(ring.text().len(), MAX_LINE + 3, "a long line is cut");
        for n in 0..100_000 {
            ring.push(format!("line {n}\n").as_bytes());
            assert!(ring.octets <= CAPACITY);
        }
        let text = ring.text();
        assert_eq!(text.len(), ring.octets);
        assert!(text.len() > CAPACITY - 100 && text.ends_with("line 99998\nline 99999\n"));
        assert!(text.starts_with("line "), "only whole lines: {:?}", text.get(..20));
    }
}

//! Output of the demo: permanent lines, and on a terminal a picture below them that is redrawn.

use std::{
    cell::RefCell,
    env,
    fmt::Write as _,
    io::{self, IsTerminal as _},
    time::Instant,
};

use super::recording::Recording;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: usize = 30;
/// A cell of a bar, filled by eighths.
const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

pub struct Screen {
    /// Whether the picture is redrawn.
    live: bool,
    coloured: bool,
    picture: MultiProgress,
    lines: RefCell<Vec<ProgressBar>>,
    start: Instant,
    /// Of everything that is shown, if wanted.
    recording: Option<RefCell<Recording>>,
}

impl Screen {
    /// A recorded demo is the one of a terminal, wherever it is written to.
    pub fn new(is_recorded: bool) -> Self {
        let live = io::stdout().is_terminal() || is_recorded;
        let picture = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let coloured = live && (is_recorded || env::var_os("NO_COLOR").is_none());
        let recording = is_recorded.then(RefCell::default);
        Self { live, coloured, picture, lines: RefCell::default(), start: Instant::now(), recording }
    }

    /// The recording as a picture.
    pub fn svg(&self) -> Option<String> {
        Some(self.recording.as_ref()?.borrow().svg())
    }

    pub fn is_live(&self) -> bool {
        self.live
    }

    /// A permanent line.
    pub fn say(&self, line: &str) {
        if let Some(recording) = &self.recording {
            recording.borrow_mut().say(self.start.elapsed(), line);
        }
        if self.live {
            // The loss of the terminal is handled by SIGHUP.
            let _ = self.picture.println(line);
        } else {
            println!("{line}");
        }
    }

    pub fn title(&self, text: &str) {
        self.say(&format!(" {}", self.bold(text)));
    }

    /// A completed step.
    pub fn done(&self, text: &str) {
        self.say(&format!(" {} {text}", self.green("✓")));
    }

    /// Replaces the picture; does nothing without a terminal.
    pub fn draw(&self, lines: &[String]) {
        if let Some(recording) = &self.recording {
            recording.borrow_mut().draw(self.start.elapsed(), lines);
        }
        if !self.live {
            return;
        }
        let mut bars = self.lines.borrow_mut();
        while bars.len() < lines.len() {
            let bar = self.picture.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bars.push(bar);
        }
        for (bar, line) in bars.iter().zip(lines) {
            // An empty line would not be drawn.
            bar.set_message(if line.is_empty() { " ".to_owned() } else { line.clone() });
            bar.tick();
        }
    }

    /// Removes the picture.
    pub fn clear(&self) {
        for bar in self.lines.borrow_mut().drain(..) {
            self.picture.remove(&bar);
        }
        // The same as for `println`.
        let _ = self.picture.clear();
    }

    pub fn bold(&self, text: &str) -> String {
        self.painted(text, "1")
    }

    pub fn dim(&self, text: &str) -> String {
        self.painted(text, "2")
    }

    pub fn green(&self, text: &str) -> String {
        self.painted(text, "32")
    }

    pub fn red(&self, text: &str) -> String {
        self.painted(text, "1;31")
    }

    /// A part of the whole, between 0 and 1, as a bar.
    pub fn bar(&self, part: f64) -> String {
        self.painted(&bar(part), "36")
    }

    fn painted(&self, text: &str, code: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and the width of a bar"
)]
fn bar(part: f64) -> String {
    let eighths = (part.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    (0..BAR).map(|cell| EIGHTHS[eighths.saturating_sub(cell * 8).min(8)]).collect()
}

/// `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        let _ = write!(text, "{digit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), want);
        }
    }

    #[test]
    fn a_bar_fills_by_eighths_and_keeps_its_width() {
        let full = "█".repeat(BAR);
        let cases = [
            (0.0, " ".repeat(BAR)),
            (1.0, full.clone()),
            (7.0, full),
            (1.0 / 240.0, format!("▏{}", " ".repeat(BAR - 1))),
        ];
        for (part, want) in cases {
            assert_eq!(bar(part), want, "{part}");
        }
    }
}

//! The demo as a picture: an SVG that shows the terminal's text, frame after frame (`cargo xtask demo -- --svg FILE`).
//!
//! The frames are real output. They change by CSS, which pictures in Markdown may have; without animation the last one stays.

use std::{fmt::Write as _, time::Duration};

/// Two frames are at least this far apart: more of them make the file larger, and the bars no clearer.
const GAP: Duration = Duration::from_millis(900);
/// The last frame stays this long.
const REST: Duration = Duration::from_secs(5);
const COLUMNS: usize = 90;
/// Widths and heights in pixels.
const CHARACTER: f64 = 8.4;
const LINE: usize = 18;
const MARGIN: usize = 12;

#[derive(Debug, Default)]
pub struct Recording {
    /// The permanent lines.
    said: Vec<String>,
    frames: Vec<Frame>,
}

#[derive(Debug)]
struct Frame {
    at: Duration,
    lines: Vec<String>,
}

impl Recording {
    /// A permanent line; `at` is the time since the start.
    pub fn say(&mut self, at: Duration, line: &str) {
        self.said.push(line.to_owned());
        self.add(at, &[], Duration::ZERO);
    }

    /// The picture below the permanent lines.
    pub fn draw(&mut self, at: Duration, picture: &[String]) {
        self.add(at, picture, GAP);
    }

    fn add(&mut self, at: Duration, picture: &[String], gap: Duration) {
        let is_early = self.frames.last().is_some_and(|last| at < last.at + gap);
        let lines = [&self.said, picture].concat();
        match self.frames.last_mut() {
            // Lines that are said at once are one frame.
            Some(last) if gap.is_zero() && at < last.at + GAP => last.lines = lines,
            _ if is_early => {}
            _ => self.frames.push(Frame { at, lines }),
        }
    }

    pub fn svg(&self) -> String {
        let rows = self.frames.iter().map(|frame| frame.lines.len()).max().unwrap_or_default();
        let (width, height) = (CHARACTER * COLUMNS as f64 + 2.0 * MARGIN as f64, LINE * rows + 2 * MARGIN);
        let end = self.frames.last().map_or(REST, |last| last.at + REST).as_secs_f64();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" width=\"{width:.0}\" \
             height=\"{height}\">\n<desc>Recorded by cargo xtask demo -- --svg FILE</desc>\n<style>\ntext {{ font: \
             14px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d0d7de; white-space: pre; }}\n\
             .b {{ font-weight: bold; }} .d {{ fill: #8b949e; }} .g {{ fill: #3fb950; }} .r {{ fill: #f85149; }} .c \
             {{ fill: #39c5cf; }}\ng {{ animation: {end:.1}s step-end infinite; }}\n"
        );
        for (n, frame) in self.frames.iter().enumerate() {
            let percent = |at: Duration| 100.0 * at.as_secs_f64() / end;
            let start = if n == 0 { 0.0 } else { percent(frame.at) };
            let _ = write!(svg, "#f{n} {{ animation-name: k{n}; }} @keyframes k{n} {{ ");
            if start > 0.0 {
                svg += "0% { visibility: hidden; } ";
            }
            let _ = write!(svg, "{start:.2}% {{ visibility: visible; }} ");
            if let Some(next) = self.frames.get(n + 1) {
                let _ = write!(svg, "{:.2}% {{ visibility: hidden; }} ", percent(next.at));
            }
            svg += "}\n";
        }
        svg += "</style>\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#0d1117\"/>\n";
        for (n, frame) in self.frames.iter().enumerate() {
            let is_last = n + 1 == self.frames.len();
            let hidden = if is_last { "" } else { " visibility=\"hidden\"" };
            let _ = writeln!(svg, "<g id=\"f{n}\"{hidden}>");
            for (row, line) in frame.lines.iter().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let y = MARGIN + LINE * (row + 1) - 5;
                let _ = writeln!(
                    svg,
                    "<text x=\"{MARGIN}\" y=\"{y}\" xml:space=\"preserve\">{}</text>",
                    spans(line)
                );
            }
            svg += "</g>\n";
        }
        svg + "</svg>\n"
    }
}

/// A line with the terminal's colours as classes.
fn spans(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut svg = escaped(parts.next().unwrap_or_default());
    for part in parts {
        let (code, text) = part.split_once('m').unwrap_or((part, ""));
        let class = match code {
            "1" => "b",
            "2" => "d",
            "32" => "g",
            "36" => "c",
            "1;31" => "b r",
            _ => "",
        };
        match class {
            "" => svg += &escaped(text),
            class => {
                let _ = write!(svg, "<tspan class=\"{class}\">{}</tspan>", escaped(text));
            }
        }
    }
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other_and_the_last_one_stays() {
        let mut recording = Recording::default();
        let at = Duration::from_millis;
        recording.say(at(0), " \u{1b}[1mtitle\u{1b}[0m of <two> & more");
        for (time, line) in
            [(1_000, "first"), (1_200, "too early"), (2_000, "second \u{1b}[36m█▌\u{1b}[0m  50%")]
        {
            recording.draw(at(time), &[line.to_owned()]);
        }
        recording.say(at(5_000), " \u{1b}[32m✓\u{1b}[0m done");
        recording.say(at(5_001), " and over");
        let svg = recording.svg();
        assert_eq!(svg.matches("<g id=").count(), 4, "{svg}");
        assert_eq!(
            svg.matches("visibility=\"hidden\"").count(),
            3,
            "the last frame is seen without animation"
        );
        assert!(!svg.contains("too early") && !svg.contains('\u{1b}'), "{svg}");
        for part in [
            " <tspan class=\"b\">title</tspan> of &lt;two&gt; &amp; more</text>",
            "second <tspan class=\"c\">█▌</tspan>  50%",
            "<tspan class=\"g\">✓</tspan> done",
            "g { animation: 10.0s",
            "#f1 { animation-name: k1; } @keyframes k1 { 0% { visibility: hidden; } 10.00% { visibility: visible; } 20.00% {",
            "@keyframes k0 { 0.00% { visibility: visible; } 10.00% { visibility: hidden; } }",
        ] {
            assert!(svg.contains(part), "{part}\nis not in\n{svg}");
        }
        assert!(!svg.contains("<!--"), "two hyphens end a comment of XML, and flags have them");
        let last = svg.rsplit("<g id=").next().unwrap_or_default();
        assert!(last.contains("and over") && !last.contains("second"), "{last}");
    }

    /// The picture in the README is one of this program, of a run without a failed connection.
    #[test]
    fn the_picture_of_the_readme_is_a_recording() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let readme = std::fs::read_to_string(format!("{root}/README.md")).expect("there is a README");
        assert!(readme.contains("](docs/demo.svg)"), "the README shows it");
        let svg = std::fs::read_to_string(format!("{root}/docs/demo.svg")).expect("there is a picture");
        assert!(svg.contains("<desc>Recorded by cargo xtask demo") && svg.ends_with("</svg>\n"));
        for words in ["Portreeve: the voting application", "a new agent adopted the maps", "0 failed"] {
            assert!(svg.contains(words), "{words}");
        }
    }
}

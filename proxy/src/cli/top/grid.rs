//! Rows with columns that can be sorted and filtered, whatever they are of. Pure.

use std::{
    cmp::Ordering,
    net::{IpAddr, SocketAddr},
};

use super::units;

/// The identity of a row, which stays while its values and its position change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// Id of a service port.
    Service(u32),
    Backend(SocketAddr),
    Client(IpAddr),
    /// The name of a reason or of a DNS client.
    Name(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub title: &'static str,
    /// The key that sorts by it.
    pub letter: char,
    pub kind: ColumnKind,
    /// The columns of a terminal from which on it is shown.
    pub from_width: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Takes the room that is left; the filter applies to it.
    Name,
    /// Text of so many characters; the filter applies to it.
    Text(u16),
    /// A number at the right of so many characters.
    Number(u16),
}

/// A column of every terminal.
pub const fn column(title: &'static str, letter: char, kind: ColumnKind) -> Column {
    Column { title, letter, kind, from_width: 0 }
}

/// A column of wide terminals.
pub const fn wide(title: &'static str, letter: char, kind: ColumnKind) -> Column {
    Column { title, letter, kind, from_width: 110 }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub key: RowKey,
    pub cells: Vec<Cell>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub text: String,
    /// `None`: sorted by the text.
    value: Option<f64>,
    pub is_bad: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    pub columns: &'static [Column],
    pub lines: Vec<Line>,
}

/// The order of the rows: numbers begin with the highest, names with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index of the column.
    pub column: usize,
    pub is_reversed: bool,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), value: None, is_bad: false }
    }

    /// A number and its text; unknown ones come last.
    pub fn number(value: Option<f64>, text: String) -> Self {
        Self { text, value: Some(value.unwrap_or(-1.0)), is_bad: false }
    }

    pub fn rate(value: Option<f64>) -> Self {
        Self::number(value, units::rate(value))
    }

    /// A rate of failures: none is to be.
    pub fn failures(value: Option<f64>) -> Self {
        Self { is_bad: value.is_some_and(|value| value > 0.0), ..Self::rate(value) }
    }

    pub fn count(count: u64) -> Self {
        Self::number(Some(count as f64), units::short(count as f64))
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.value, other.value) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            _ => self.text.cmp(&other.text),
        }
    }
}

impl Grid {
    /// Without the rows whose texts do not contain the filter, in any case.
    pub fn filtered(mut self, filter: &str) -> Self {
        let (wanted, columns) = (filter.to_lowercase(), self.columns);
        let is_text = |column: &Column| !matches!(column.kind, ColumnKind::Number(_));
        self.lines.retain(|line| {
            let texts = line.cells.iter().zip(columns).filter(|(_, column)| is_text(column));
            texts.into_iter().any(|(cell, _)| cell.text.to_lowercase().contains(&wanted))
        });
        self
    }

    /// Rows with equal values stay in the order they have.
    pub fn sorted(mut self, sort: Sort) -> Self {
        self.lines.sort_by(|a, b| match (a.cells.get(sort.column), b.cells.get(sort.column)) {
            (Some(a), Some(b)) if sort.is_reversed => b.compare(a),
            (Some(a), Some(b)) => a.compare(b),
            _ => Ordering::Equal,
        });
        self
    }

    /// The index of the row.
    pub fn position(&self, key: &RowKey) -> Option<usize> {
        self.lines.iter().position(|line| line.key == *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] =
        &[column("NAME", 'n', ColumnKind::Name), column("RATE", 'r', ColumnKind::Number(6))];

    fn grid() -> Grid {
        let line = |name: &str, rate| Line {
            key: RowKey::Name(name.to_owned()),
            cells: vec![Cell::text(name), Cell::rate(rate)],
        };
        let lines =
            vec![line("b", Some(9.0)), line("new", None), line("A-12", Some(12.0)), line("c", Some(0.0))];
        Grid { columns: COLUMNS, lines }
    }

    fn names(grid: &Grid) -> String {
        grid.lines.iter().map(|line| line.cells[0].text.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rows_are_sorted_by_value_or_name() {
        for (column, is_reversed, want) in [
            (1, false, "A-12 b c new"),
            (1, true, "new c b A-12"),
            (0, false, "A-12 b c new"),
            (0, true, "new c b A-12"),
            (9, false, "b new A-12 c"),
        ] {
            assert_eq!(names(&grid().sorted(Sort { column, is_reversed })), want, "{column} {is_reversed}");
        }
    }

    #[test]
    fn rows_are_filtered_by_their_texts() {
        assert_eq!(names(&grid().filtered("a-1")), "A-12");
        assert_eq!(names(&grid().filtered("9")), "", "a number is no text");
        assert_eq!(names(&grid().filtered("")), "b new A-12 c");
    }

    #[test]
    fn failures_are_bad_if_there_are_any() {
        let is_bad = [None, Some(0.0), Some(0.5)].map(|rate| Cell::failures(rate).is_bad);
        assert_eq!(is_bad, [false, false, true]);
    }
}

//! What is shown, and what a key changes of it. Pure.

use std::net::SocketAddr;

use super::grid::{Grid, RowKey, Sort};

/// A key without its encoding by terminals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    /// Escape, or to the left.
    Back,
    Backspace,
    Tab,
    Interrupt,
    Suspend,
    Character(char),
}

/// What the loop has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Redraw,
    /// Another subject, whose own data is to be read.
    Open,
    /// After a pause.
    Read,
    Suspend,
    Quit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Services,
    Backends { service: u32, name: String },
    Clients { service: u32, backend: SocketAddr },
    Refusals,
    Dns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Table,
    /// The filter is being typed.
    Filter,
    Help,
}

/// A subject with its cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub subject: Subject,
    /// `None`: the first row, whatever it is.
    selected: Option<RowKey>,
    /// The first visible row.
    pub offset: usize,
    pub filter: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// From the tab to the innermost; never empty.
    places: Vec<Place>,
    /// By subject.
    sorts: [Sort; 5],
    pub mode: Mode,
    pub is_paused: bool,
}

impl Subject {
    /// Subjects in the order of the tabs.
    pub const TABS: [Self; 3] = [Self::Services, Self::Refusals, Self::Dns];

    pub fn title(&self) -> String {
        match self {
            Self::Services => "Services".to_owned(),
            Self::Backends { name, .. } => name.clone(),
            Self::Clients { backend, .. } => backend.to_string(),
            Self::Refusals => "Refusals".to_owned(),
            Self::Dns => "DNS".to_owned(),
        }
    }

    fn number(&self) -> usize {
        match self {
            Self::Services => 0,
            Self::Backends { .. } => 1,
            Self::Clients { .. } => 2,
            Self::Refusals => 3,
            Self::Dns => 4,
        }
    }
}

impl Place {
    fn new(subject: Subject) -> Self {
        Self { subject, selected: None, offset: 0, filter: String::new() }
    }

    /// The index of the selected row: the first one if it is gone.
    pub fn cursor(&self, grid: &Grid) -> usize {
        self.selected.as_ref().and_then(|key| grid.position(key)).unwrap_or_default()
    }

    fn select(&mut self, grid: &Grid, row: usize) {
        let row = row.min(grid.lines.len().saturating_sub(1));
        self.selected = grid.lines.get(row).filter(|_| row != 0).map(|line| line.key.clone());
    }

    /// Moves the visible rows so that the selected one is among them.
    pub fn scroll(&mut self, grid: &Grid, page: usize) {
        let cursor = self.cursor(grid);
        let last = grid.lines.len().saturating_sub(page);
        self.offset = self.offset.clamp((cursor + 1).saturating_sub(page), cursor).min(last);
    }
}

impl View {
    pub fn new() -> Self {
        // The second column is the one of traffic.
        let sort = Sort { column: 1, is_reversed: false };
        let places = vec![Place::new(Subject::Services)];
        Self { places, sorts: [sort; 5], mode: Mode::Table, is_paused: false }
    }

    pub fn place(&self) -> &Place {
        self.places.last().expect("there is always a tab")
    }

    pub fn place_mut(&mut self) -> &mut Place {
        self.places.last_mut().expect("there is always a tab")
    }

    /// From the tab to the innermost.
    pub fn path(&self) -> impl Iterator<Item = &Subject> {
        self.places.iter().map(|place| &place.subject)
    }

    pub fn sort(&self) -> Sort {
        self.sorts[self.place().subject.number()]
    }

    /// `grid`: the rows as they are shown; `page`: how many of them are visible.
    pub fn press(&mut self, key: Key, grid: &Grid, page: usize) -> Effect {
        match self.mode {
            _ if key == Key::Interrupt => Effect::Quit,
            _ if key == Key::Suspend => Effect::Suspend,
            Mode::Help => {
                self.mode = Mode::Table;
                Effect::Redraw
            }
            Mode::Filter => self.edit_filter(key),
            Mode::Table => self.press_in_table(key, grid, page),
        }
    }

    fn edit_filter(&mut self, key: Key) -> Effect {
        let filter = &mut self.place_mut().filter;
        match key {
            Key::Character(character) => filter.push(character),
            Key::Backspace => drop(filter.pop()),
            Key::Enter => self.mode = Mode::Table,
            Key::Back => {
                filter.clear();
                self.mode = Mode::Table;
            }
            Key::Up
            | Key::Down
            | Key::PageUp
            | Key::PageDown
            | Key::Home
            | Key::End
            | Key::Tab
            | Key::Interrupt
            | Key::Suspend => {}
        }
        Effect::Redraw
    }

    fn press_in_table(&mut self, key: Key, grid: &Grid, page: usize) -> Effect {
        let (cursor, rows) = (self.place().cursor(grid), grid.lines.len());
        let row = match key {
            Key::Up => cursor.saturating_sub(1),
            Key::Down => cursor + 1,
            Key::PageUp => cursor.saturating_sub(page),
            Key::PageDown => cursor + page,
            Key::Home => 0,
            Key::End => rows,
            Key::Enter => return self.open(grid),
            Key::Back | Key::Backspace => return self.back(),
            Key::Tab => {
                let tab = Subject::TABS.iter().position(|tab| *tab == self.places[0].subject);
                return self.open_tab(tab.map_or(0, |tab| tab + 1));
            }
            Key::Interrupt | Key::Suspend => return Effect::Redraw,
            Key::Character(character) => return self.type_character(character, grid),
        };
        self.place_mut().select(grid, row);
        Effect::Redraw
    }

    fn type_character(&mut self, character: char, grid: &Grid) -> Effect {
        match character {
            'q' => return Effect::Quit,
            '?' => self.mode = Mode::Help,
            '/' => self.mode = Mode::Filter,
            ' ' => {
                self.is_paused = !self.is_paused;
                return if self.is_paused { Effect::Redraw } else { Effect::Read };
            }
            '1'..='3' => return self.open_tab(character as usize - '1' as usize),
            'R' => self.sort_mut().is_reversed ^= true,
            '<' => self.sort_mut().column = self.sort().column.saturating_sub(1),
            '>' => self.sort_mut().column = (self.sort().column + 1).min(grid.columns.len() - 1),
            letter => {
                if let Some(column) = grid.columns.iter().position(|column| column.letter == letter) {
                    *self.sort_mut() = Sort { column, is_reversed: false };
                }
            }
        }
        Effect::Redraw
    }

    fn sort_mut(&mut self) -> &mut Sort {
        let number = self.place().subject.number();
        &mut self.sorts[number]
    }

    /// Opens what is inside of the selected row.
    fn open(&mut self, grid: &Grid) -> Effect {
        let Some(line) = grid.lines.get(self.place().cursor(grid)) else { return Effect::Redraw };
        let inner = match (&self.place().subject, &line.key) {
            (Subject::Services, RowKey::Service(service)) => {
                Subject::Backends { service: *service, name: line.cells[0].text.clone() }
            }
            (Subject::Backends { service, .. }, RowKey::Backend(backend)) => {
                Subject::Clients { service: *service, backend: *backend }
            }
            _ => return Effect::Redraw,
        };
        let key = line.key.clone();
        self.place_mut().selected = Some(key);
        self.places.push(Place::new(inner));
        Effect::Open
    }

    /// Closes the innermost place; in a tab, removes its filter.
    fn back(&mut self) -> Effect {
        if self.places.len() > 1 {
            self.places.pop();
            return Effect::Open;
        }
        self.place_mut().filter.clear();
        Effect::Redraw
    }

    fn open_tab(&mut self, tab: usize) -> Effect {
        self.places = vec![Place::new(Subject::TABS[tab % Subject::TABS.len()].clone())];
        Effect::Open
    }
}

#[cfg(test)]
mod tests;

//! The terminal: raw while the live view is shown, and as before however it ends.
//!
//! A panic restores it by the hook of `ratatui`, the end of the loop by `Drop`. Signals end the loop: they are blocked before any
//! thread is started and received by one of their own, so that no handler interrupts a write.

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};

use super::{
    screen::{Shown, draw},
    view::Key,
};

/// What arrives from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Key(Key),
    Resized,
    /// A signal, or the terminal is gone.
    End,
}

pub struct Terminal {
    terminal: DefaultTerminal,
    pub inputs: Receiver<Input>,
}

pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

impl Terminal {
    pub fn start() -> Result<Self> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let terminal = ratatui::try_init().context("cannot use the terminal")?;
        let (sender, inputs) = mpsc::channel();
        let of_signals = sender.clone();
        thread::spawn(move || {
            // Either way the view ends; it may have ended before.
            let _ = signals.wait();
            let _ = of_signals.send(Input::End);
        });
        thread::spawn(move || {
            loop {
                let input = event::read().map_or(Some(Input::End), input);
                let Some(input) = input else { continue };
                if sender.send(input).is_err() || input == Input::End {
                    return;
                }
            }
        });
        Ok(Self { terminal, inputs })
    }

    pub fn draw(&mut self, shown: &Shown<'_>) -> Result<()> {
        let drawn = self.terminal.draw(|frame| draw(frame, shown));
        drawn.map(drop).context("cannot write to the terminal")
    }

    pub fn height(&self) -> u16 {
        self.terminal.size().map_or(0, |size| size.height)
    }

    /// Stops the process as Ctrl-Z does elsewhere, and goes on when it is continued.
    pub fn suspend(&mut self) -> Result<()> {
        ratatui::restore();
        raise(Signal::SIGTSTP).context("cannot stop")?;
        self.terminal = ratatui::try_init().context("cannot use the terminal")?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// `None`: of no meaning here.
fn input(event: Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => self::key(key).map(Input::Key),
        Event::Resize(..) => Some(Input::Resized),
        Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "terminals have many more keys")]
fn key(event: KeyEvent) -> Option<Key> {
    let has_control = event.modifiers.contains(KeyModifiers::CONTROL);
    Some(match event.code {
        KeyCode::Char('c' | 'd') if has_control => Key::Interrupt,
        KeyCode::Char('z') if has_control => Key::Suspend,
        KeyCode::Char(_) if has_control => return None,
        KeyCode::Char(character) => Key::Character(character),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter | KeyCode::Right => Key::Enter,
        KeyCode::Esc | KeyCode::Left => Key::Back,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        _ => return None,
    })
}

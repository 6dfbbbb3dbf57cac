//! The live view: readings at intervals, keys in between.

use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, SocketAddr},
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Zoned;

use super::{
    clients::{self, ClientFlows},
    dns::DnsRates,
    grid::Grid,
    rates::Rates,
    reading::{Reading, Source},
    screen::{self, Shown},
    tables::{self, Endpoints},
    terminal::{Input, Terminal},
    view::{Effect, Key, Subject, View},
};
use crate::{
    cli::get::dns::query_statistics,
    config, datapath,
    error::chain,
    observe::{objects::Pods, query_statistics::QueryStatistics},
};

pub fn run(source: &Source, first: Reading, delay: Duration) -> Result<()> {
    let mut state = State::new(source, first, delay);
    let mut terminal = Terminal::start()?;
    let mut next = Instant::now() + delay;
    loop {
        let height = terminal.height();
        state.scroll(height);
        terminal.draw(&state.shown())?;
        let wait = if state.view.is_paused { delay } else { next.saturating_duration_since(Instant::now()) };
        match terminal.inputs.recv_timeout(wait) {
            Ok(Input::Key(key)) => match state.press(key, height) {
                Effect::Redraw => {}
                Effect::Open => state.open(),
                Effect::Read => next = Instant::now(),
                Effect::Suspend => terminal.suspend()?,
                Effect::Quit => return Ok(()),
            },
            Ok(Input::Resized) => {}
            Ok(Input::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if state.view.is_paused => {}
            Err(RecvTimeoutError::Timeout) => {
                state.read();
                next = Instant::now() + delay;
            }
        }
    }
}

/// The readings and what is shown of them.
struct State<'a> {
    source: &'a Source,
    delay: Duration,
    view: View,
    first: Reading,
    before: Option<Reading>,
    now: Reading,
    rates: Rates,
    /// The reason for which the latest reading failed.
    error: Option<String>,
    title: String,
    grid: Grid,
    /// Of the subject that is open; read when it is opened.
    endpoints: Endpoints,
    pods: Pods,
    clients: BTreeMap<IpAddr, ClientFlows>,
    /// While the tab of DNS is open.
    statistics: Option<(Duration, QueryStatistics)>,
    dns: Option<DnsRates>,
}

impl<'a> State<'a> {
    fn new(source: &'a Source, first: Reading, delay: Duration) -> Self {
        let mut state = Self {
            source,
            delay,
            view: View::new(),
            before: None,
            now: first.clone(),
            first,
            rates: Rates::default(),
            error: None,
            title: String::new(),
            grid: tables::services([]),
            endpoints: Endpoints::new(),
            pods: Pods::new(),
            clients: BTreeMap::new(),
            statistics: None,
            dns: None,
        };
        state.rate();
        state.update();
        state
    }

    fn press(&mut self, key: Key, height: u16) -> Effect {
        let page = screen::page(height, &self.view.place().subject, self.dns.as_ref());
        let effect = self.view.press(key, &self.grid, page);
        self.update();
        effect
    }

    /// A reading, and the data of the open subject.
    fn read(&mut self) {
        self.error = None;
        match self.source.read() {
            Ok(reading) => {
                self.before = Some(mem::replace(&mut self.now, reading));
                self.rate();
            }
            Err(error) => self.error = Some(chain(&error)),
        }
        self.read_subject();
        self.update();
    }

    fn rate(&mut self) {
        let open = match self.view.place().subject {
            Subject::Backends { service, .. } => Some(service),
            Subject::Services | Subject::Clients { .. } | Subject::Refusals | Subject::Dns => None,
        };
        let before = self.before.as_ref();
        self.rates = Rates::between(&self.first, before, &self.now, |service| open == Some(service));
    }

    /// A subject was opened: the names of its rows are asked for once, as they may be many.
    fn open(&mut self) {
        let details = self.source.details();
        self.error = None;
        match self.view.place().subject {
            Subject::Backends { .. } => self.endpoints = details.endpoints(),
            Subject::Clients { .. } => self.pods = details.pods(),
            Subject::Services | Subject::Refusals | Subject::Dns => {}
        }
        (self.statistics, self.dns) = (None, None);
        self.clients.clear();
        self.rate();
        self.read_subject();
        self.update();
    }

    fn read_subject(&mut self) {
        let read = match self.view.place().subject {
            Subject::Services | Subject::Backends { .. } | Subject::Refusals => Ok(()),
            Subject::Clients { service, backend } => self.read_clients(service, backend),
            Subject::Dns => self.read_dns(),
        };
        if let Err(error) = read {
            self.error = Some(chain(error.as_ref()));
        }
    }

    fn read_clients(&mut self, service: u32, backend: SocketAddr) -> Result<()> {
        self.clients = clients::read(&self.source.place.bpffs, service, backend)?;
        Ok(())
    }

    fn read_dns(&mut self) -> Result<()> {
        let now = query_statistics(&self.source.place.socket, String::new)?;
        let at = datapath::now();
        let (before, seconds) = match &self.statistics {
            Some((earlier, before)) => (Some(before), at.saturating_sub(*earlier).as_secs_f64()),
            None => (None, 0.0),
        };
        self.dns = Some(DnsRates::between(before, &now, seconds));
        self.statistics = Some((at, now));
        Ok(())
    }

    /// Makes the rows anew.
    fn update(&mut self) {
        let grid = match &self.view.place().subject {
            Subject::Services => tables::services(&self.rates.services),
            Subject::Backends { service, .. } => {
                tables::backends(&self.rates.backends, *service, &self.endpoints)
            }
            Subject::Clients { .. } => tables::clients(&self.clients, &self.pods),
            Subject::Refusals => tables::refusals(&self.rates.refusals),
            Subject::Dns => tables::dns(self.dns.as_ref().unwrap_or(&DnsRates::default())),
        };
        self.grid = grid.filtered(&self.view.place().filter).sorted(self.view.sort());
        let bpffs = self.source.place.bpffs.display();
        let (time, delay) = (Zoned::now().strftime("%H:%M:%S"), self.delay.as_secs_f64());
        self.title = format!("{time}, every {delay} s, {bpffs}");
    }

    fn scroll(&mut self, height: u16) {
        let page = screen::page(height, &self.view.place().subject, self.dns.as_ref());
        self.view.place_mut().scroll(&self.grid, page);
    }

    fn shown(&self) -> Shown<'_> {
        Shown {
            view: &self.view,
            grid: &self.grid,
            rates: &self.rates,
            dns: self.dns.as_ref(),
            title: self.title.clone(),
            error: self.error.as_deref(),
            has_colour: !config::is_colour_refused(),
        }
    }
}

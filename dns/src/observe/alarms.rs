//! Alarms: conditions of the upstreams that an operator must know of, for logs, status, Events and metrics.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

/// An alarm ends when nothing has raised it for this long.
const CALM: Duration = Duration::from_secs(60);
/// The length to which a name is shown: clients choose it.
const MAX_NAME: usize = 80;

named_enum! {
    /// The label `alarm` of `forward_alarm`.
    pub enum Alarm {
        /// No upstream answers, and expired answers are served.
        Failing = "failing",
        /// Some upstream denies a name that another one knows.
        Contradicted = "contradicted",
        /// All upstreams deny a name that was resolved just before, and its last answer is served.
        Held = "held",
    }
}

/// The present alarms.
#[derive(Clone, Debug, Default)]
pub struct Alarms(Arc<Mutex<[Option<Raised>; Alarm::COUNT]>>);

#[derive(Clone, Debug)]
struct Raised {
    since: Instant,
    last: Instant,
    /// How often since then.
    count: u64,
    /// The name that raised it last.
    name: String,
}

/// An alarm as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentAlarm {
    pub alarm: Alarm,
    pub sentence: String,
}

impl Alarms {
    /// Raises an alarm, or continues it. The beginning is logged.
    pub fn raise(&self, alarm: Alarm, name: impl fmt::Display) {
        let now = Instant::now();
        let mut name = name.to_string();
        // Names are printed in ASCII.
        name.truncate(MAX_NAME);
        let mut alarms = self.lock();
        let raised = &mut alarms[alarm as usize];
        match raised.as_mut().filter(|raised| raised.is_present(now)) {
            Some(raised) => (raised.last, raised.count, raised.name) = (now, raised.count + 1, name),
            None => {
                warn!(alarm = alarm.name(), name, "{}", alarm.condition());
                *raised = Some(Raised { since: now, last: now, count: 1, name });
            }
        }
    }

    /// The present alarms. Those that have ended are logged and forgotten.
    pub fn present(&self) -> Vec<PresentAlarm> {
        let now = Instant::now();
        let mut alarms = self.lock();
        let mut present = Vec::new();
        for (alarm, raised) in Alarm::ALL.into_iter().zip(alarms.iter_mut()) {
            match raised {
                Some(raised) if raised.is_present(now) => {
                    present.push(PresentAlarm { alarm, sentence: raised.sentence(alarm, now) });
                }
                Some(_) => {
                    *raised = None;
                    info!(alarm = alarm.name(), "alarm of the upstreams has ended");
                }
                None => {}
            }
        }
        present
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Raised>; Alarm::COUNT]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm {
    fn condition(self) -> &'static str {
        match self {
            Self::Failing => "no upstream of DNS answers, last known good answers are served",
            Self::Contradicted => "an upstream of DNS denies names that another one knows",
            Self::Held => {
                "the upstreams of DNS deny names that they have just resolved, the last answers are served"
            }
        }
    }
}

impl Raised {
    fn is_present(&self, now: Instant) -> bool {
        now.duration_since(self.last) < CALM
    }

    fn sentence(&self, alarm: Alarm, now: Instant) -> String {
        let Self { since, count, name, .. } = self;
        let seconds = now.duration_since(*since).as_secs();
        format!("{}: {count} times in {seconds} s, lately for {name}", alarm.condition())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_lasts_until_a_minute_after_its_last_cause() {
        let alarms = Alarms::default();
        assert_eq!(alarms.present(), []);
        alarms.raise(Alarm::Failing, "a.example.");
        advance(Duration::from_secs(50)).await;
        alarms.raise(Alarm::Failing, "x".repeat(300));
        alarms.raise(Alarm::Held, "b.example.");
        advance(Duration::from_secs(59)).await;
        let present = alarms.present();
        assert_eq!(
            present.iter().map(|present| present.alarm).collect::<Vec<_>>(),
            [Alarm::Failing, Alarm::Held]
        );
        let end = format!("2 times in 109 s, lately for {}", "x".repeat(MAX_NAME));
        assert!(present[0].sentence.ends_with(&end), "{present:?}");
        advance(Duration::from_secs(1)).await;
        assert_eq!(alarms.present(), []);
        alarms.raise(Alarm::Failing, "c.example.");
        assert!(alarms.present()[0].sentence.contains("1 times in 0 s"), "a new one");
    }
}

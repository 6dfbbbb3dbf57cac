//! A sign that everybody who takes requests is at it: a task that hangs is told from one that has nothing to do.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often each task says that it is at work.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// The beat of a task that has ended: it holds up nobody.
const ENDED: u64 = u64::MAX;

/// Who is told how long ago all tasks were seen at work.
#[derive(Clone, Default)]
pub struct Pulse(Option<Arc<dyn Fn(Duration) + Send + Sync>>);

impl Pulse {
    pub fn new(tell: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// One beat for each of so many tasks, which all count as just seen.
    pub fn beats(&self, tasks: usize) -> impl Iterator<Item = Beat> + use<> {
        let beats = (0..tasks).map(|_| AtomicU64::new(0)).collect();
        let heart = Arc::new(Heart { pulse: self.clone(), begun: Instant::now(), beats });
        (0..tasks).map(move |task| Beat { heart: Arc::clone(&heart), task })
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "told to nobody" })
    }
}

#[derive(Debug)]
struct Heart {
    pulse: Pulse,
    begun: Instant,
    /// By task: when it was last seen, in milliseconds since the beginning.
    beats: Box<[AtomicU64]>,
}

/// What one task beats.
#[derive(Debug)]
pub struct Beat {
    heart: Arc<Heart>,
    task: usize,
}

impl Beat {
    pub fn beat(&self) {
        let Some(tell) = &self.heart.pulse.0 else { return };
        let now = u64::try_from(self.heart.begun.elapsed().as_millis()).unwrap_or(ENDED - 1);
        self.set(now);
        let oldest = self.heart.beats.iter().map(|beat| beat.load(Ordering::Relaxed)).min();
        tell(Duration::from_millis(now.saturating_sub(oldest.unwrap_or(now))));
    }

    fn set(&self, time: u64) {
        if let Some(beat) = self.heart.beats.get(self.task) {
            beat.store(time, Ordering::Relaxed);
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.set(ENDED);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, thread::sleep};

    use super::*;

    #[test]
    fn one_that_hangs_shows_and_one_that_has_ended_does_not() {
        let told = Arc::new(Mutex::new(Duration::ZERO));
        let tell = Arc::clone(&told);
        let pulse = Pulse::new(move |age| *tell.lock().unwrap() = age);
        let [at_work, hung]: [Beat; 2] = pulse.beats(2).collect::<Vec<_>>().try_into().unwrap();
        hung.beat();
        let pause = Duration::from_millis(30);
        sleep(pause);
        at_work.beat();
        assert!(*told.lock().unwrap() >= pause - Duration::from_millis(1), "{told:?}");
        drop(hung);
        at_work.beat();
        assert!(*told.lock().unwrap() < pause, "{told:?}");
    }
}

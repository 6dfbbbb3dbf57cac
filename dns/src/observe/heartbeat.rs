//! Heartbeats of the tasks that receive requests, which distinguish a hung task from an idle one.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The interval of the heartbeats of a task.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// The timestamp of a task that has ended, which is never the oldest.
const ENDED: u64 = u64::MAX;

/// A callback that receives the age of the oldest heartbeat of all tasks.
#[derive(Clone, Default)]
pub struct Heartbeat(Option<Arc<dyn Fn(Duration) + Send + Sync>>);

impl Heartbeat {
    pub fn new(report: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(report)))
    }

    /// One heartbeat for each task, all of them starting as recent.
    pub fn tasks(&self, count: usize) -> impl Iterator<Item = TaskHeartbeat> + use<> {
        let tasks = (0..count).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { heartbeat: self.clone(), created: Instant::now(), tasks });
        (0..count).map(move |task| TaskHeartbeat { shared: Arc::clone(&shared), task })
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "unset" })
    }
}

#[derive(Debug)]
struct Shared {
    heartbeat: Heartbeat,
    created: Instant,
    /// By task: the time of the last heartbeat, in milliseconds since `created`.
    tasks: Box<[AtomicU64]>,
}

/// The heartbeat of one task.
#[derive(Debug)]
pub struct TaskHeartbeat {
    shared: Arc<Shared>,
    task: usize,
}

impl TaskHeartbeat {
    pub fn record(&self) {
        let Some(report) = &self.shared.heartbeat.0 else { return };
        let now = u64::try_from(self.shared.created.elapsed().as_millis()).unwrap_or(ENDED - 1);
        self.set(now);
        let oldest = self.shared.tasks.iter().map(|heartbeat| heartbeat.load(Ordering::Relaxed)).min();
        report(Duration::from_millis(now.saturating_sub(oldest.unwrap_or(now))));
    }

    fn set(&self, time: u64) {
        if let Some(heartbeat) = self.shared.tasks.get(self.task) {
            heartbeat.store(time, Ordering::Relaxed);
        }
    }
}

impl Drop for TaskHeartbeat {
    fn drop(&mut self) {
        self.set(ENDED);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, thread::sleep};

    use super::*;

    #[test]
    fn a_hung_task_ages_and_an_ended_one_does_not() {
        let reported = Arc::new(Mutex::new(Duration::ZERO));
        let report = Arc::clone(&reported);
        let heartbeat = Heartbeat::new(move |age| *report.lock().unwrap() = age);
        let [at_work, hung]: [TaskHeartbeat; 2] = heartbeat.tasks(2).collect::<Vec<_>>().try_into().unwrap();
        hung.record();
        let pause = Duration::from_millis(30);
        sleep(pause);
        at_work.record();
        assert!(*reported.lock().unwrap() >= pause - Duration::from_millis(1), "{reported:?}");
        drop(hung);
        at_work.record();
        assert!(*reported.lock().unwrap() < pause, "{reported:?}");
    }
}

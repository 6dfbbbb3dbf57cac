//! Work of the agent whose instructions are counted by a simulated processor: unlike a time, their number is the same on each
//! machine and under each load, so that a slow change is seen when it is made.
//!
//! Each task prepares what it needs, and does its work in [`counted::counted`], where the counting begins and ends.

mod answers;
mod changes;
mod counted;

use anyhow::{Context as _, Result};

/// Work with a name.
struct Task {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// All tasks, in the order of the ledger.
const TASKS: [Task; 10] = [
    Task { name: "read-service", run: changes::read_service },
    Task { name: "read-slice", run: changes::read_slice },
    Task { name: "add-service", run: changes::add_service },
    Task { name: "change-endpoint", run: changes::change_endpoint },
    Task { name: "change-endpoint-of-5000", run: changes::change_endpoint_of_many },
    Task { name: "adopt-200-services", run: changes::adopt },
    Task { name: "publish-name", run: answers::publish },
    Task { name: "answer-a", run: answers::address },
    Task { name: "answer-srv", run: answers::service },
    Task { name: "answer-nxdomain", run: answers::missing },
];

/// The names of all tasks.
pub fn names() -> impl Iterator<Item = &'static str> {
    TASKS.iter().map(|task| task.name)
}

/// Runs one task.
pub fn run(name: &str) -> Result<()> {
    let task = TASKS.iter().find(|task| task.name == name).context("there is no such task")?;
    (task.run)()
}

//! The golden scripts on maps without a kernel, and with every write failing once.
//!
//! `UPDATE_EXPECT=1 cargo test -p proxy --test golden the_maps` writes the present content of the
//! maps into the scripts.

#[path = "golden/script.rs"]
mod script;

use std::{env, fs};

use proxy::reconcile::{Capacity, FakeMaps};
use script::{Failed, Host, all, directory, updated};

const CAPACITY: Capacity =
    Capacity { frontends: 64, descriptors: 128, slots: 512, backends: 128, services: 64, source_ranges: 64 };

/// Maps in memory. In the step of the fault, only a number of system calls succeeds.
struct Memory {
    fault: Option<Fault>,
    /// Whether the fault was reached.
    was_reached: bool,
}

#[derive(Clone, Copy)]
struct Fault {
    step: usize,
    calls: u32,
    then: Failed,
}

impl Host for Memory {
    type Maps = FakeMaps;

    fn open(&mut self, last: Option<&FakeMaps>) -> FakeMaps {
        last.cloned().unwrap_or_else(|| FakeMaps::new(CAPACITY))
    }

    fn before(&mut self, step: usize, maps: &mut FakeMaps) {
        maps.calls_left = self.fault.filter(|fault| fault.step == step).map(|fault| fault.calls);
    }

    fn failed(&mut self, maps: &mut FakeMaps) -> Failed {
        maps.calls_left = None;
        self.was_reached = true;
        self.fault.expect("a write fails only with an injected fault").then
    }
}

#[test]
fn the_maps_are_as_the_scripts_expect() {
    let is_update = env::var_os("UPDATE_EXPECT").is_some();
    for (name, script) in all() {
        let mut memory = Memory { fault: None, was_reached: false };
        if is_update {
            let path = directory().join(format!("{name}.txt"));
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, updated(&text, &script.play(&mut memory))).unwrap();
        } else {
            script.check(&name, &mut memory);
        }
    }
}

#[test]
fn no_failed_write_changes_the_result() {
    let mut met = 0;
    for (name, script) in all() {
        for step in 0..script.steps() {
            for then in [Failed::Retry, Failed::Die] {
                for calls in 0.. {
                    let mut memory = Memory { fault: Some(Fault { step, calls, then }), was_reached: false };
                    script
                        .check(&format!("{name}, call {calls} of step {step} fails, {then:?}"), &mut memory);
                    if !memory.was_reached {
                        break;
                    }
                    met += 1;
                }
            }
        }
    }
    assert!(met >= 100, "only {met} faults were reached");
}

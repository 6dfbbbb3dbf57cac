//! The golden scripts on maps without a kernel, and with every write failing once.
//!
//! `UPDATE_EXPECT=1 cargo test -p proxy --test golden the_maps` writes down what the maps hold now.

#[path = "golden/script.rs"]
mod script;

use std::{env, fs};

use proxy::reconcile::{Capacity, FakeMaps};
use script::{Failed, Host, all, directory, updated};

const CAPACITY: Capacity =
    Capacity { frontends: 64, descriptors: 128, slots: 512, backends: 128, services: 64 };

/// Maps in memory. In the step of the fault, only so many system calls succeed.
struct Memory {
    fault: Option<Fault>,
    /// Whether the fault was met.
    was_met: bool,
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
        self.was_met = true;
        self.fault.expect("a write fails only where it is made to").then
    }
}

#[test]
fn the_maps_hold_what_the_scripts_say() {
    let is_update = env::var_os("UPDATE_EXPECT").is_some();
    for (name, script) in all() {
        let mut memory = Memory { fault: None, was_met: false };
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
fn no_failed_write_changes_the_end() {
    let mut met = 0;
    for (name, script) in all() {
        for step in 0..script.steps() {
            for then in [Failed::Retry, Failed::Die] {
                for calls in 0.. {
                    let mut memory = Memory { fault: Some(Fault { step, calls, then }), was_met: false };
                    script
                        .check(&format!("{name}, call {calls} of step {step} fails, {then:?}"), &mut memory);
                    if !memory.was_met {
                        break;
                    }
                    met += 1;
                }
            }
        }
    }
    assert!(met >= 100, "only {met} failures were met");
}

//! The driver of one target, named by `$FUZZ_TARGET`.

#![no_main]

use std::{env, sync::OnceLock};

use fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |octets: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(octets);
    }
});

fn choose() {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.into_iter().find(|target| target.name == name);
    TARGET.get_or_init(|| target.unwrap_or_else(|| panic!("$FUZZ_TARGET names no target: {name:?}")));
}

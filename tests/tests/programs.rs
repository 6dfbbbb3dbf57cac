//! The embedded object against the table of maps and programs, on the running kernel.

use std::{collections::BTreeSet, env, time::Duration};

use anyhow::{Result, ensure};
use proxy::datapath::{Busy, Explainer, Jiffies, Pins, Programs, load, now, pin_name, pinned_map};
use proxy_ebpf::{
    abi::{
        ABI_VERSION, Config, ConfigFlags, INJECT_SEGMENT, LIST_SOCKETS, LIST_STALE_SOCKETS, MAPS, MapKind,
        PROGRAMS, READ_SOCKETS, SOCK_OPS, TC_PROGRAMS, XDP_EXTERNAL, map,
    },
    explain,
};
use tests::{ledger::Ledger, leftovers::unique_name, mounts::PinDir};

/// As agents load them by default, without what depends on the node: with passive health.
fn config() -> Config {
    let flags = ConfigFlags::RECORDS_HEALTH.with(ConfigFlags::ACTS_ON_HEALTH, true);
    Config { flags, ..Config::default() }
}

fn loaded() -> (Programs, Pins, PinDir) {
    let directory = PinDir::create(&unique_name("programs")).expect("a bpffs, and root");
    let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail).expect("it is not locked");
    let programs = load(&pins, config()).unwrap_or_else(|error| panic!("{error:?}"));
    (programs, pins, directory)
}

#[test]
fn every_map_matches_the_table() {
    let (programs, pins, _directory) = loaded();
    let mut wrong = Vec::new();
    for spec in &MAPS {
        // No program uses it, so it is not in the kernel.
        let kind = if spec.kind == MapKind::UserHash { MapKind::Hash } else { spec.kind };
        let want = (Some(kind), spec.key, spec.value, spec.capacity);
        match pinned_map(&pins.maps().join(pin_name(spec))) {
            Ok(map) => {
                let found = (map.kind, map.key as usize, map.value as usize, map.capacity);
                if found != want {
                    wrong.push(format!("{}: {found:?}, in the table {want:?}", spec.name));
                }
            }
            Err(error) => wrong.push(format!("{}: {error}", spec.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let in_table = MAPS.iter().filter(|spec| spec.kind != MapKind::UserHash).map(|spec| spec.name.to_owned());
    assert_eq!(programs.names().1, in_table.collect::<BTreeSet<_>>(), "the object's maps and the table's");
}

#[test]
fn every_program_loads_and_is_small_enough() {
    let (programs, pins, _directory) = loaded();
    assert_eq!(programs.uncounted(), None, "connections are counted");
    let at_devices = TC_PROGRAMS.map(|program| program.name);
    let in_table: Vec<_> = PROGRAMS
        .into_iter()
        .chain(at_devices)
        .chain([READ_SOCKETS, LIST_SOCKETS, LIST_STALE_SOCKETS, INJECT_SEGMENT])
        .chain([SOCK_OPS, XDP_EXTERNAL, map::START_SWEEPER, map::ADOPT_FLOWS])
        .collect();
    let named: BTreeSet<_> =
        in_table.iter().chain(&explain::PROGRAMS).map(|name| (*name).to_owned()).collect();
    assert_eq!(programs.names().0, named, "the object's programs and the table's");
    let count = |name| programs.verified_instructions(name).unwrap_or_else(|error| panic!("{error:?}"));
    let mut counts = Ledger(in_table.into_iter().map(|name| (name.to_owned(), count(name))).collect());
    let mut explainer = Explainer::with_config(&pins.maps(), config()).expect("they load");
    for name in explain::PROGRAMS {
        let count = explainer.verified_instructions(name).expect("it is loaded");
        counts.0.insert(name.to_owned(), count);
    }
    print!("{counts}");
    if Ledger::recorded().is_ok_and(|recorded| recorded.is_none()) {
        println!("nothing was recorded for this kernel: only the limit counts");
    }
    compare(&counts).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Whenever jiffies are read, they tell the same monotonic time, to a jiffy.
#[test]
fn jiffies_follow_the_monotonic_clock() {
    const SPAN: Duration = Duration::from_millis(100);
    let start = now();
    let first = Jiffies::read().expect("the kernel runs the program");
    while now() - start < SPAN {
        let next = Jiffies::read().expect("the kernel runs the program");
        assert_eq!(next.length, first.length);
        let drift = next.origin.wrapping_sub(first.origin).cast_signed().unsigned_abs();
        assert!(drift <= 2 * u64::from(first.length), "{drift} ns between {first:?} and {next:?}");
    }
    let hertz = 1_000_000_000 / first.length;
    assert!((10..=10_000).contains(&hertz), "{first:?}");
}

/// Compares counts with this kernel's ledger; with $UPDATE_EXPECT, writes the ledger.
fn compare(counts: &Ledger) -> Result<()> {
    let mut recorded = Ledger::recorded()?;
    if env::var_os("UPDATE_EXPECT").is_some() {
        counts.record()?;
        recorded = Some(counts.clone());
    }
    let complaints = counts.complaints(recorded.as_ref());
    ensure!(
        complaints.is_empty(),
        "{}\nIf that is worth it: UPDATE_EXPECT=1 cargo test -p tests --test programs, for other kernels cargo xtask \
         kernels --bless",
        complaints.join("\n")
    );
    Ok(())
}

//! The embedded object against the table of maps and programs, in the kernel that runs here.

use std::collections::BTreeSet;

use proxy::datapath::{Busy, Pins, Programs, load, pin_name, pinned_map};
use proxy_ebpf::abi::{ABI_VERSION, Config, MAPS, MapKind, PROGRAMS, TC_PROGRAMS, XDP_EXTERNAL, map};
use tests::{leftovers::unique_name, mounts::PinDir};

/// A fifth of what the kernel allows: room to grow, and programs that load fast.
const MOST_INSTRUCTIONS: u32 = 200_000;

fn loaded() -> (Programs, Pins, PinDir) {
    let directory = PinDir::create(&unique_name("programs")).expect("a bpffs, and root");
    let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail).expect("nobody else has it");
    let programs = load(&pins, Config::default()).unwrap_or_else(|error| panic!("{error:?}"));
    (programs, pins, directory)
}

#[test]
fn every_map_is_what_the_table_says() {
    let (programs, pins, _directory) = loaded();
    let mut wrong = Vec::new();
    for spec in &MAPS {
        // No program reads it, which the kernel does not know.
        let kind = if spec.kind == MapKind::UserHash { MapKind::Hash } else { spec.kind };
        let want = (Some(kind), spec.key, spec.value, spec.capacity);
        match pinned_map(&pins.maps().join(pin_name(spec))) {
            Ok(map) => {
                let found = (map.kind, map.key as usize, map.value as usize, map.capacity);
                if found != want {
                    wrong.push(format!("{}: {found:?}, the table says {want:?}", spec.name));
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
    let (programs, _pins, _directory) = loaded();
    let at_devices = TC_PROGRAMS.map(|program| program.name);
    let in_table: Vec<_> =
        PROGRAMS.into_iter().chain(at_devices).chain([XDP_EXTERNAL, map::START_SWEEPER]).collect();
    let named: BTreeSet<_> = in_table.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(programs.names().0, named, "the object's programs and the table's");
    let mut too_big = Vec::new();
    for name in in_table {
        let verified = programs.verified_instructions(name).unwrap_or_else(|error| panic!("{error:?}"));
        println!("{name:<20}{verified:>8} verified instructions");
        if !(1..=MOST_INSTRUCTIONS).contains(&verified) {
            too_big.push(format!("{name}: {verified}"));
        }
    }
    assert!(too_big.is_empty(), "verified instructions, of at most {MOST_INSTRUCTIONS}: {too_big:?}");
}

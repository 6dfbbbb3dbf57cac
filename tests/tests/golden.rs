//! The golden scripts on the kernel's maps.

#[expect(
    dead_code,
    reason = "what makes writes fail and updates the scripts is for the run without privileges"
)]
#[path = "../../proxy/tests/golden/script.rs"]
mod script;

use proxy::datapath::{Busy, KernelMaps, Pins, grace_period, load};
use proxy_ebpf::abi::{ABI_VERSION, Config};
use script::{Host, all};
use tests::{leftovers::unique_name, mounts::PinDir};

/// Maps that are pinned, and loaded with programs that are attached to nothing.
struct Kernel {
    pins: Pins,
}

impl Host for Kernel {
    type Maps = KernelMaps;

    fn open(&mut self, _last: Option<&KernelMaps>) -> KernelMaps {
        KernelMaps::open(&self.pins.maps()).expect("the maps are pinned")
    }

    fn grace_period(&mut self) {
        grace_period().expect("membarrier, or what stands for it");
    }
}

#[test]
fn the_kernels_maps_hold_what_the_scripts_say() {
    for (name, script) in all() {
        let directory = PinDir::create(&unique_name("golden")).expect("a bpffs, and root");
        let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail).expect("nobody else has it");
        let _programs = load(&pins, Config::default()).unwrap_or_else(|error| panic!("{error:?}"));
        script.check(&name, &mut Kernel { pins });
    }
}

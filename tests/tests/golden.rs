//! The golden scripts on the kernel's maps.

#[expect(
    dead_code,
    reason = "write failures and updates of the scripts belong to the run without privileges"
)]
#[path = "../../proxy/tests/golden/script.rs"]
mod script;

use proxy::datapath::{Busy, KernelMaps, Pins, grace_period, load};
use proxy_ebpf::abi::{ABI_VERSION, Config};
use script::{Host, all};
use tests::{leftovers::unique_name, mounts::PinDir};

/// Pinned maps, loaded with programs that are not attached.
struct Kernel {
    pins: Pins,
}

impl Host for Kernel {
    type Maps = KernelMaps;

    fn open(&mut self, _last: Option<&KernelMaps>) -> KernelMaps {
        KernelMaps::open(&self.pins.maps()).expect("the maps are pinned")
    }

    fn grace_period(&mut self) {
        grace_period().expect("membarrier or its substitute works");
    }
}

#[test]
fn the_kernels_maps_match_the_scripts() {
    for (name, script) in all() {
        let directory = PinDir::create(&unique_name("golden")).expect("a bpffs, and root");
        let pins = Pins::acquire(directory.path(), ABI_VERSION, Busy::Fail).expect("it is not locked");
        let _programs = load(&pins, Config::default()).unwrap_or_else(|error| panic!("{error:?}"));
        script.check(&name, &mut Kernel { pins });
    }
}

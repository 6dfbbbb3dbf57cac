//! What the agent fixed when it loaded the programs.

use proxy_ebpf::abi::{Config, ConfigFlags};

/// Set by the agent before loading; the verifier sees constants.
#[unsafe(no_mangle)]
static CONFIG: Config = Config { host_netns: 0, flags: ConfigFlags(0), zero: 0 };

#[inline(always)]
pub fn config() -> Config {
    // SAFETY: a reference to a static is valid; volatile because the loader replaces the value the compiler sees.
    unsafe { core::ptr::read_volatile(&raw const CONFIG) }
}

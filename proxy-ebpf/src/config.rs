//! What the agent fixed when it loaded the programs.

use core::ptr::read_volatile;

use proxy_ebpf::abi::{Config, ConfigFlags, Timeouts};

/// Set by the agent before loading; the verifier sees constants. Read field by field, and volatile, because the loader
/// replaces the values the compiler sees.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::DEFAULT;

#[inline(always)]
pub fn flags() -> ConfigFlags {
    // SAFETY: a pointer to a field of a static is valid.
    unsafe { read_volatile(&raw const CONFIG.flags) }
}

#[inline(always)]
pub fn host_netns() -> u64 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.host_netns) }
}

/// How many records each of `FLOWS_*` has.
#[inline(always)]
pub fn flows() -> u32 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.flows) }
}

#[inline(always)]
pub fn timeouts() -> Timeouts {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.timeouts) }
}

/// How many ICMP errors each CPU sends in a tick.
#[inline(always)]
pub fn icmp_errors() -> u32 {
    // SAFETY: as in `flags`.
    unsafe { read_volatile(&raw const CONFIG.icmp_errors) }
}

/// The ports that masqueraded flows get, both included.
#[inline(always)]
pub fn masquerade_ports() -> (u16, u16) {
    // SAFETY: as in `flags`.
    unsafe { (read_volatile(&raw const CONFIG.first_port), read_volatile(&raw const CONFIG.last_port)) }
}

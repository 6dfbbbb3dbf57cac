//! Takeover from programs with other flow tables.
//!
//! The programs of both agents are at each hook for a moment, these before the earlier ones, and each translates the flows in its own
//! tables. On standby these create none: a flow is created only when every hook has the programs that know it.

use aya_ebpf::{btf_maps::Array, macros::btf_map};

/// Not 0 on standby. Not pinned, as it is about these programs alone.
#[btf_map]
static STANDBY: Array<u32, 1> = Array::new();

#[inline(always)]
pub fn is_on() -> bool {
    // SAFETY: within an array map, whose memory lives as long as the program; one aligned word, volatile because the agent writes it.
    STANDBY.get_ptr(0).is_some_and(|standby| unsafe { standby.read_volatile() } != 0)
}

//! The kernel's FIB lookup.

use core::ffi::c_void;

use aya_ebpf::{bindings::bpf_fib_lookup as FibParams, helpers::generated::bpf_fib_lookup};

use crate::family::{Family, V4, V6, Words};

/// Results of a lookup, from linux/bpf.h. Others mean no unicast route.
pub const SUCCESS: i64 = 0;
/// The route is known, its neighbour is not resolved.
pub const NO_NEIGHBOUR: i64 = 7;
pub const FRAGMENTATION_NEEDED: i64 = 8;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

pub trait Routes: Family {
    /// The parameters of a lookup between two addresses.
    fn fib_params(source: Self::Address, destination: Self::Address) -> FibParams;

    /// The next hop that a lookup found; the destination without a router.
    fn next_hop(params: &FibParams) -> Self::Address;
}

impl Routes for V4 {
    #[inline(always)]
    fn fib_params(source: u32, destination: u32) -> FibParams {
        let mut params = empty(AF_INET);
        params.__bindgen_anon_3.ipv4_src = source;
        params.__bindgen_anon_4.ipv4_dst = destination;
        params
    }

    #[inline(always)]
    fn next_hop(params: &FibParams) -> u32 {
        // SAFETY: plain numbers, of which every pattern is valid.
        unsafe { params.__bindgen_anon_4.ipv4_dst }
    }
}

impl Routes for V6 {
    #[inline(always)]
    fn fib_params(source: Words, destination: Words) -> FibParams {
        let mut params = empty(AF_INET6);
        params.__bindgen_anon_3.ipv6_src = source;
        params.__bindgen_anon_4.ipv6_dst = destination;
        params
    }

    #[inline(always)]
    fn next_hop(params: &FibParams) -> Words {
        // SAFETY: as for `V4`.
        unsafe { params.__bindgen_anon_4.ipv6_dst }
    }
}

#[inline(always)]
fn empty(family: u8) -> FibParams {
    // SAFETY: plain numbers and unions of such, of which every pattern is valid.
    let mut params: FibParams = unsafe { core::mem::zeroed() };
    params.family = family;
    params
}

/// Looks a route up. `ctx` is the program's own context.
#[inline(always)]
pub fn lookup(ctx: *mut c_void, params: &mut FibParams) -> i64 {
    // SAFETY: the parameters are initialised, and the kernel writes numbers into them.
    unsafe { bpf_fib_lookup(ctx, &raw mut *params, size_of::<FibParams>() as i32, 0) }
}

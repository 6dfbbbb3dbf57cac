//! The eBPF programs. This file holds entry points only: each reads its context, asks, and matches every outcome.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod backend;
#[cfg(target_arch = "bpf")]
mod decide;
#[cfg(target_arch = "bpf")]
mod family;
#[cfg(target_arch = "bpf")]
mod frontend;
#[cfg(target_arch = "bpf")]
mod metrics;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod sock;

/// So that the crate builds and lints on any host; the programs exist for BPF alone.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

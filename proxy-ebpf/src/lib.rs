//! What the agent and the eBPF programs agree on: every type that enters a map, the names of maps and programs,
//! and the pure arithmetic both sides need.
//!
//! Invariant: everything here is plain data without pointers, with the same layout on both sides; nothing here
//! knows how maps are read or written. Owner of the values: the agent's reconciler writes services, frontends
//! and backends; the programs write socket storage and counters.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod csum;

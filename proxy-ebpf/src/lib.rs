//! The interface of agent and eBPF programs: every type of a map, the names of maps and programs, and arithmetic of both sides.
//!
//! Invariant: everything here is plain data without pointers, with the same layout on both sides; nothing here
//! reads or writes maps. Owner of the values: the agent's reconciler writes services, frontends
//! and backends; the programs write socket storage and counters.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod bucket;
pub mod csum;
pub mod explain;

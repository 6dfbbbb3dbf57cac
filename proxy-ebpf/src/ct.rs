//! Connection tracking: flow records, the references from tuples to them, and the translation of each packet of a flow.
//!
//! `table` holds records and references, `allocate` finds a record for a new flow, `create` fills it, `established` translates by
//! it, `snat` chooses its masquerade address and port, `sweep` deletes it after its idle timeout. `counters` has its packets and bytes. `adopt` takes over the flows of
//! other tables, and on `standby` none are created meanwhile.

pub mod adopt;
mod allocate;
mod counters;
pub mod create;
pub mod established;
mod insert;
mod next;
mod scratch;
pub mod snat;
mod standby;
pub mod sweep;
mod table;

pub use next::Next;
pub use scratch::{Scratch, ScratchSpace};
pub use table::{Flows, Lookup, TrackedFlow, lookup};

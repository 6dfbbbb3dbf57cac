//! Flow records, read and changed as no agent does.

use anyhow::Result;
use aya::Pod;
use proxy_ebpf::abi::{Flow as Record, FlowState, map};

use super::fixture::ProgramFixture;

/// Changes the state of each of the first records of both families.
pub fn change_states(
    fixture: &ProgramFixture,
    records: u32,
    change: impl Fn(FlowState) -> FlowState + Copy,
) -> Result<()> {
    change_in::<[u8; 4]>(fixture, map::FLOWS_V4, records, change)?;
    change_in::<[u8; 16]>(fixture, map::FLOWS_V6, records, change)
}

fn change_in<A>(
    fixture: &ProgramFixture,
    table: &str,
    length: u32,
    change: impl Fn(FlowState) -> FlowState,
) -> Result<()>
where
    Record<A>: Pod,
{
    let mut records = fixture.array::<Record<A>>(table)?;
    for slot in 0..length {
        let mut record = records.get(&slot, 0)?;
        record.state = change(record.state);
        records.set(slot, record, 0)?;
    }
    Ok(())
}

/// The slot and the record of the live flow from a client port, among the first records.
pub fn flow_from<A>(
    fixture: &ProgramFixture,
    table: &str,
    length: u32,
    port: u16,
) -> Result<Option<(u32, Record<A>)>>
where
    Record<A>: Pod,
{
    let records = fixture.array::<Record<A>>(table)?;
    for slot in 0..length {
        let record = records.get(&slot, 0)?;
        if record.state.is_alive() && record.client_port == port.to_be_bytes() {
            return Ok(Some((slot, record)));
        }
    }
    Ok(None)
}

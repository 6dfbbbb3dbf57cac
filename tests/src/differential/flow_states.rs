//! Flow records, read and changed as no agent does.

use std::cell::RefCell;

use anyhow::{Context as _, Result};
use aya::Pod;
use proxy::datapath::MmapArray;
use proxy_ebpf::abi::{Flow as Record, FlowState};

use super::fixture::ProgramFixture;

/// The records of the family with these addresses.
pub trait FlowRecords: Sized
where
    Record<Self>: Pod,
{
    fn of(fixture: &ProgramFixture) -> &RefCell<MmapArray<Record<Self>>>;
}

impl FlowRecords for [u8; 4] {
    fn of(fixture: &ProgramFixture) -> &RefCell<MmapArray<Record<Self>>> {
        &fixture.flows_v4
    }
}

impl FlowRecords for [u8; 16] {
    fn of(fixture: &ProgramFixture) -> &RefCell<MmapArray<Record<Self>>> {
        &fixture.flows_v6
    }
}

/// Changes the state of each of the first records of both families.
pub fn change_states(
    fixture: &ProgramFixture,
    records: u32,
    change: impl Fn(FlowState) -> FlowState + Copy,
) -> Result<()> {
    change_in::<[u8; 4]>(fixture, records, change)?;
    change_in::<[u8; 16]>(fixture, records, change)
}

fn change_in<A: FlowRecords>(
    fixture: &ProgramFixture,
    length: u32,
    change: impl Fn(FlowState) -> FlowState,
) -> Result<()>
where
    Record<A>: Pod,
{
    let mut records = A::of(fixture).borrow_mut();
    for slot in 0..length {
        let mut record = records.read(slot)?.context("the table has fewer records")?;
        record.state = change(record.state);
        records.write(slot, record)?;
    }
    Ok(())
}

/// The slot and the record of the live flow from a client port, among the first records.
pub fn flow_from<A: FlowRecords>(
    fixture: &ProgramFixture,
    length: u32,
    port: u16,
) -> Result<Option<(u32, Record<A>)>>
where
    Record<A>: Pod,
{
    let records = A::of(fixture).borrow();
    for slot in 0..length {
        let record = records.read(slot)?.context("the table has fewer records")?;
        if record.state.is_alive() && record.client_port == port.to_be_bytes() {
            return Ok(Some((slot, record)));
        }
    }
    Ok(None)
}

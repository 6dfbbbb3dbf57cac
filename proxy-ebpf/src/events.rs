//! Events for listeners: records in a ring buffer, written only while the agent says that someone listens, and never for a packet of an
//! established flow.
//!
//! The agent moves a deadline ahead while it has listeners, so that an agent that was killed costs nothing for long.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_comm},
    macros::btf_map,
};
use proxy_ebpf::abi::{Endpoint, Event, EventHook, EventKind, map};

use crate::{clock, family::Words};

#[btf_map]
static EVENTS: RingBuf<Event, { map::EVENTS_SIZE as usize }> = RingBuf::new();
#[btf_map]
static EVENT_LISTENERS: Array<u64, { map::EVENT_WORDS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static LOST_EVENTS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Kind, hook and reason of an event, as one number: an argument of functions that are verified once.
#[derive(Clone, Copy)]
pub struct What(pub u32);

impl What {
    #[inline(always)]
    pub const fn new(kind: EventKind, hook: EventHook, reason: u8) -> Self {
        Self(kind as u32 | (hook as u32) << 8 | (reason as u32) << 16)
    }

    #[inline(always)]
    pub const fn with_kind(self, kind: EventKind) -> Self {
        Self(self.0 & !0xff | kind as u32)
    }

    #[inline(always)]
    pub const fn with_reason(self, reason: u8) -> Self {
        Self(self.0 | (reason as u32) << 16)
    }

    #[inline(always)]
    pub const fn kind(self) -> u8 {
        self.0 as u8
    }
}

/// Whether someone listens.
#[inline(always)]
pub fn has_listener() -> bool {
    let until = word(map::LISTENING_UNTIL);
    until != 0 && clock::now() < until
}

/// Whether `sock_ops` reports TCP connects, whose source it knows.
#[inline(always)]
pub fn sock_ops_reports() -> bool {
    word(map::SOCK_OPS_REPORTS) != 0
}

#[inline(always)]
fn word(at: u32) -> u64 {
    // SAFETY: a pointer into an array map, which lives as long as the program; volatile because the agent writes it.
    EVENT_LISTENERS.get_ptr(at).map_or(0, |word| unsafe { word.read_volatile() })
}

/// A record of the ring that is being written. In place and word by word: a copy would need much of the callers' stack.
pub struct Record(*mut Event);

impl Record {
    /// SAFETY of all writes: a `Record` is made by `write` only, from a whole record of the ring that this program owns.
    #[inline(always)]
    fn store<T>(field: *mut T, value: T) {
        // SAFETY: as above; each field is aligned. Volatile, as the compiler would collect the fields on the stack.
        unsafe { field.write_volatile(value) }
    }

    #[inline(always)]
    fn store_end(end: *mut Endpoint, [a, b, c, d]: Words, port: [u8; 2]) {
        let word = end.cast::<u32>();
        Self::store(word, a);
        Self::store(word.wrapping_add(1), b);
        Self::store(word.wrapping_add(2), c);
        Self::store(word.wrapping_add(3), d);
        // Behind the port are zeros.
        Self::store(word.wrapping_add(4), u16::from_ne_bytes(port).into());
    }

    #[inline(always)]
    pub fn set_source(&mut self, address: Words, port: [u8; 2]) {
        // SAFETY: a field of the record.
        Self::store_end(unsafe { &raw mut (*self.0).source }, address, port);
    }

    #[inline(always)]
    pub fn set_destination(&mut self, address: Words, port: [u8; 2]) {
        // SAFETY: a field of the record.
        Self::store_end(unsafe { &raw mut (*self.0).destination }, address, port);
    }

    #[inline(always)]
    pub fn set_backend(&mut self, address: Words, port: [u8; 2]) {
        // SAFETY: a field of the record.
        Self::store_end(unsafe { &raw mut (*self.0).backend }, address, port);
    }

    #[inline(always)]
    pub fn set_service(&mut self, service: u32) {
        // SAFETY: a field of the record.
        Self::store(unsafe { &raw mut (*self.0).service }, service);
    }

    #[inline(always)]
    pub fn set_interface(&mut self, index: u32) {
        // SAFETY: a field of the record.
        Self::store(unsafe { &raw mut (*self.0).interface }, index);
    }

    #[inline(always)]
    pub fn set_duration(&mut self, nanoseconds: u64) {
        // SAFETY: a field of the record.
        Self::store(unsafe { &raw mut (*self.0).duration }, nanoseconds);
    }

    #[inline(always)]
    pub fn set_protocol(&mut self, protocol: u8) {
        // SAFETY: a field of the record.
        Self::store(unsafe { &raw mut (*self.0).protocol }, protocol);
    }

    /// The process that runs now; for hooks in system calls only.
    #[inline(always)]
    pub fn set_process(&mut self) {
        let process = (bpf_get_current_pid_tgid() >> 32) as u32;
        // SAFETY: fields of the record; the kernel writes as many bytes as the field has.
        unsafe {
            Self::store(&raw mut (*self.0).process, process);
            bpf_get_current_comm((&raw mut (*self.0).command).cast(), size_of::<[u8; 16]>() as u32);
        }
    }
}

/// Writes a record. `fill` gets one that is zero but for the time and `what`.
#[inline(always)]
pub fn write(what: What, fill: impl FnOnce(&mut Record)) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = LOST_EVENTS.get_ptr_mut(0) {
            // SAFETY: the element is this CPU's own. A program that preempts this one on the same CPU may lose one count.
            unsafe { *lost = (*lost).wrapping_add(1) };
        }
        return;
    };
    let event = entry.as_mut_ptr();
    for at in 0..size_of::<Event>() / size_of::<u64>() {
        // The ring still has earlier records.
        Record::store(event.cast::<u64>().wrapping_add(at), 0);
    }
    // SAFETY: fields of the record.
    unsafe {
        Record::store(&raw mut (*event).time, clock::now());
        Record::store(&raw mut (*event).kind, what.kind());
        Record::store(&raw mut (*event).hook, (what.0 >> 8) as u8);
        Record::store(&raw mut (*event).reason, (what.0 >> 16) as u8);
    }
    fill(&mut Record(event));
    entry.submit(0);
}

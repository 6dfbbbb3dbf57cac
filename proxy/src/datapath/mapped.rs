//! An array map in our memory: writes are stores, without a system call.
//!
//! Programs read the same memory at any time, so everything here is volatile or atomic, and nothing hands out
//! references. Indices outside of the map are ignored on writing and read as zeroes.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
};

use aya::Pod;
use memmap2::{MmapOptions, MmapRaw};

/// A mapped array of `T`.
#[derive(Debug)]
pub struct MappedArray<T> {
    memory: MmapRaw,
    length: u32,
    kind: PhantomData<T>,
}

/// Whether the map is written to from here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl<T: Pod> MappedArray<T> {
    /// The kernel keeps elements of arrays at multiples of 8 bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps an array of `length` elements, created with BPF_F_MMAPABLE.
    pub fn new(map: BorrowedFd<'_>, length: u32, access: Access) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(Self::STRIDE * length as usize);
        let memory = match access {
            Access::Read => options.map_raw_read_only(map.as_raw_fd())?,
            Access::Write => options.map_raw(map.as_raw_fd())?,
        };
        Ok(Self { memory, length, kind: PhantomData })
    }

    pub fn len(&self) -> u32 {
        self.length
    }

    pub fn read(&self, index: u32) -> Option<T> {
        let element = self.element(index)?;
        // SAFETY: `element` lies within the mapping and is aligned, as elements are at multiples of 8. `T` is plain
        // data, so even an element that a writer is changing is a valid value.
        Some(unsafe { element.read_volatile() })
    }

    /// Writes an element that no program can reach.
    pub fn write(&mut self, index: u32, value: T) {
        if let Some(element) = self.element(index) {
            // SAFETY: as in `read`; `&mut self` keeps other writers of this process away, the lock on the pin
            // directory those of others.
            unsafe { element.write_volatile(value) };
        }
    }

    fn element(&self, index: u32) -> Option<*mut T> {
        let offset = Self::STRIDE * index as usize;
        (index < self.length).then(|| self.memory.as_mut_ptr().wrapping_add(offset).cast())
    }

    /// A field of an element.
    fn field<F>(&self, index: u32, offset: usize) -> Option<*mut F> {
        debug_assert!(offset + size_of::<F>() <= size_of::<T>());
        self.element(index).map(|element| element.wrapping_byte_add(offset).cast())
    }

    pub fn store_u32(&mut self, index: u32, offset: usize, value: u32) {
        if let Some(field) = self.field(index, offset) {
            // SAFETY: the field lies within the mapping and, being a `u32` of a `repr(C)` type, is aligned.
            unsafe { AtomicU32::from_ptr(field) }.store(value, Ordering::Release);
        }
    }

    pub fn store_u8(&mut self, index: u32, offset: usize, value: u8) {
        if let Some(field) = self.field(index, offset) {
            // SAFETY: the field lies within the mapping; bytes need no alignment.
            unsafe { AtomicU8::from_ptr(field) }.store(value, Ordering::Release);
        }
    }
}

impl MappedArray<u64> {
    /// One aligned store, ordered after every write before it, in any array.
    pub fn publish(&mut self, index: u32, value: u64) {
        fence(Ordering::Release);
        if let Some(element) = self.element(index) {
            // SAFETY: the element lies within the mapping and is aligned to 8 bytes.
            unsafe { AtomicU64::from_ptr(element) }.store(value, Ordering::Release);
        }
    }
}

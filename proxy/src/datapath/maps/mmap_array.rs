//! An array map mapped into memory: writes are stores, without a system call.
//!
//! Programs read the same memory at any time, so every access is volatile or atomic, and no references are
//! handed out. Indices out of range are ignored on writing and read as `None`.
//!
//! Mapped pages count as resident memory of the agent, used or not, and arrays are sized for the largest
//! clusters. So the array is mapped in windows on first access, and only a few windows stay mapped. Mapping a
//! window may fail, and is tried again on the next access.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
    },
};

use aya::Pod;
use memmap2::{MmapOptions, MmapRaw};

/// An mmapped array of `T`.
#[derive(Debug)]
pub struct MmapArray<T> {
    map: OwnedFd,
    access: Access,
    /// Equal parts of the array; the last one may be shorter.
    windows: Box<[OnceLock<MmapRaw>]>,
    length: u32,
    kind: PhantomData<T>,
}

/// In bytes; a multiple of every page size.
const WINDOW: usize = 64 << 10;
/// The number of windows that may stay mapped; mapping one takes some microseconds.
const MAX_RESIDENT: usize = 8;
const LARGEST_PAGE: usize = 64 << 10;

/// Access of this process to the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl<T: Pod> MmapArray<T> {
    /// The kernel aligns array elements to 8 bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Elements per window. Every element lies in one window, and each window starts at a page boundary.
    const PER_WINDOW: u32 =
        (if WINDOW.is_multiple_of(Self::STRIDE) { WINDOW / Self::STRIDE } else { LARGEST_PAGE }) as u32;

    /// Maps an array of `length` elements, created with `BPF_F_MMAPABLE`.
    pub fn new(map: OwnedFd, length: u32, access: Access) -> io::Result<Self> {
        let windows = (0..length.div_ceil(Self::PER_WINDOW)).map(|_| OnceLock::new()).collect();
        let array = Self { map, access, windows, length, kind: PhantomData };
        // Finds out early whether the map can be mapped at all.
        array.map_window(0)?;
        Ok(array)
    }

    fn map_window(&self, window: u32) -> io::Result<MmapRaw> {
        let first = window * Self::PER_WINDOW;
        let elements = Self::PER_WINDOW.min(self.length - first);
        let mut options = MmapOptions::new();
        options.offset(Self::STRIDE as u64 * u64::from(first)).len(Self::STRIDE * elements as usize);
        match self.access {
            Access::Read => options.map_raw_read_only(self.map.as_raw_fd()),
            Access::Write => options.map_raw(self.map.as_raw_fd()),
        }
    }

    /// The number of elements up to the last one in use. Windows mapped for this are unmapped again.
    pub fn extent(&self, is_used: impl Fn(&T) -> bool) -> io::Result<u32> {
        for (window, kept) in (0..self.windows.len() as u32).zip(&self.windows).rev() {
            let mapped;
            let memory = match kept.get() {
                Some(memory) => memory,
                None => {
                    mapped = self.map_window(window)?;
                    &mapped
                }
            };
            let elements = (memory.len() / Self::STRIDE) as u32;
            if let Some(last) = (0..elements).rev().find(|at| is_used(&read(memory, Self::STRIDE, *at))) {
                return Ok(window * Self::PER_WINDOW + last + 1);
            }
        }
        Ok(0)
    }

    /// Unmaps the windows if many are mapped.
    pub fn release(&mut self) {
        if self.windows.iter().filter(|window| window.get().is_some()).count() > MAX_RESIDENT {
            self.windows.iter_mut().for_each(|window| drop(window.take()));
        }
    }

    /// The number of elements.
    pub fn capacity(&self) -> u32 {
        self.length
    }

    pub fn read(&self, index: u32) -> io::Result<Option<T>> {
        let Some(element) = self.element(index)? else { return Ok(None) };
        // SAFETY: `element` lies within the mapping and is aligned, as elements are at multiples of 8. `T` is
        // plain data, so an element that is being written is a valid value, too.
        Ok(Some(unsafe { element.read_volatile() }))
    }

    /// Writes an element that programs cannot reach.
    pub fn write(&mut self, index: u32, value: T) -> io::Result<()> {
        if let Some(element) = self.element(index)? {
            // SAFETY: as in `read`; `&mut self` excludes other writers in this process, the lock on the pin
            // directory those in others.
            unsafe { element.write_volatile(value) };
        }
        Ok(())
    }

    /// The address of an element, whose window is mapped first. Returns `None` for an index out of range.
    fn element(&self, index: u32) -> io::Result<Option<*mut T>> {
        let (window, at) = (index / Self::PER_WINDOW, index % Self::PER_WINDOW);
        let Some(kept) = self.windows.get(window as usize).filter(|_| index < self.length) else {
            return Ok(None);
        };
        let memory = match kept.get() {
            Some(memory) => memory,
            None => {
                let memory = self.map_window(window)?;
                kept.get_or_init(|| memory)
            }
        };
        Ok(Some(memory.as_mut_ptr().wrapping_add(Self::STRIDE * at as usize).cast()))
    }

    /// A pointer to a field of an element.
    fn field<F>(&self, index: u32, offset: usize) -> io::Result<Option<*mut F>> {
        debug_assert!(offset + size_of::<F>() <= size_of::<T>());
        Ok(self.element(index)?.map(|element| element.wrapping_byte_add(offset).cast()))
    }

    pub fn store_u32(&mut self, index: u32, offset: usize, value: u32) -> io::Result<()> {
        if let Some(field) = self.field(index, offset)? {
            // SAFETY: the field lies within the mapping and, being a `u32` of a `repr(C)` type, is aligned.
            unsafe { AtomicU32::from_ptr(field) }.store(value, Ordering::Release);
        }
        Ok(())
    }

    /// Replaces an aligned 64-bit field if it is `old`. Returns whether it was.
    pub fn compare_exchange_u64(&self, index: u32, offset: usize, old: u64, new: u64) -> io::Result<bool> {
        let Some(field) = self.field(index, offset)? else { return Ok(false) };
        // SAFETY: the field lies within the mapping and, being a `u64` of a `repr(C)` type, is aligned.
        let field = unsafe { AtomicU64::from_ptr(field) };
        Ok(field.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// Adds to an aligned 64-bit field, to which programs may add at the same time.
    pub fn add_u64(&self, index: u32, offset: usize, more: u64) -> io::Result<()> {
        if let Some(field) = self.field(index, offset)? {
            // SAFETY: as in `compare_exchange_u64`.
            unsafe { AtomicU64::from_ptr(field) }.fetch_add(more, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As `add_u64`, of 32 bits.
    pub fn add_u32(&self, index: u32, offset: usize, more: u32) -> io::Result<()> {
        if let Some(field) = self.field(index, offset)? {
            // SAFETY: as in `store_u32`.
            unsafe { AtomicU32::from_ptr(field) }.fetch_add(more, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Stores to an aligned 64-bit field.
    pub fn store_u64(&mut self, index: u32, offset: usize, value: u64) -> io::Result<()> {
        if let Some(field) = self.field(index, offset)? {
            // SAFETY: as in `compare_exchange_u64`.
            unsafe { AtomicU64::from_ptr(field) }.store(value, Ordering::Release);
        }
        Ok(())
    }

    pub fn store_u8(&mut self, index: u32, offset: usize, value: u8) -> io::Result<()> {
        if let Some(field) = self.field(index, offset)? {
            // SAFETY: the field lies within the mapping; bytes need no alignment.
            unsafe { AtomicU8::from_ptr(field) }.store(value, Ordering::Release);
        }
        Ok(())
    }
}

fn read<T: Pod>(memory: &MmapRaw, stride: usize, at: u32) -> T {
    let element = memory.as_mut_ptr().wrapping_add(stride * at as usize).cast::<T>();
    // SAFETY: callers stay within the mapping, where elements are at multiples of 8; `T` is plain data.
    unsafe { element.read_volatile() }
}

impl MmapArray<u64> {
    /// One aligned store, ordered after every write before it to any array.
    pub fn publish(&mut self, index: u32, value: u64) -> io::Result<()> {
        fence(Ordering::Release);
        if let Some(element) = self.element(index)? {
            // SAFETY: the element lies within the mapping and is aligned to 8 bytes.
            unsafe { AtomicU64::from_ptr(element) }.store(value, Ordering::Release);
        }
        Ok(())
    }
}

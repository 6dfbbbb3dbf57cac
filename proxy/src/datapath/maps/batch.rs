//! Batched map writes: many elements with one system call. Kernels before 5.6 lack it, and later ones lack it
//! for some map types; then no element is written, and the caller writes them one by one.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::Pod;

use crate::datapath::kernel::bpf;

/// A map that is written in batches.
#[derive(Debug)]
pub struct BatchMap {
    fd: OwnedFd,
}

/// The number of elements written before the one that failed.
#[derive(Debug)]
pub struct Stopped {
    pub written: usize,
    pub error: io::Error,
}

impl BatchMap {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Writes one element per key, in order; per-CPU maps take one value per CPU and key.
    pub fn write<K: Pod, V: Pod>(&self, keys: &[K], values: &[V]) -> Result<(), Stopped> {
        if keys.is_empty() {
            return Ok(());
        }
        let (written, result) = bpf::map_update_batch(self.fd.as_fd(), keys, values);
        result.map_err(|error| Stopped { written, error })
    }
}

impl Stopped {
    /// Whether the kernel has no batched writes for this map.
    pub fn is_unsupported(&self) -> bool {
        /// The kernel's ENOTSUPP, which is not a standard errno.
        const NOT_SUPPORTED: i32 = 524;
        let code = self.error.raw_os_error();
        self.written == 0 && matches!(code, Some(libc::EINVAL | libc::EOPNOTSUPP | NOT_SUPPORTED))
    }
}

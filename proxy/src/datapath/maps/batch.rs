//! Many elements of a map written with one system call. Kernels before 5.6 cannot, and for some kinds of map later
//! ones cannot either; then nothing was written, and the elements go one by one.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::Pod;

use crate::datapath::kernel::sys;

/// A map that is written in batches.
#[derive(Debug)]
pub struct BatchMap {
    fd: OwnedFd,
}

/// So many elements were written, and then one could not be.
#[derive(Debug)]
pub struct Stopped {
    pub written: usize,
    pub error: io::Error,
}

impl BatchMap {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Writes an element for each key, in their order; `values` holds as many for each key as the map has copies.
    pub fn write<K: Pod, V: Pod>(&self, keys: &[K], values: &[V]) -> Result<(), Stopped> {
        if keys.is_empty() {
            return Ok(());
        }
        let (written, result) = sys::map_update_batch(self.fd.as_fd(), keys, values);
        result.map_err(|error| Stopped { written, error })
    }
}

impl Stopped {
    /// The kernel does not know how.
    pub fn is_unsupported(&self) -> bool {
        /// What the kernel calls ENOTSUPP and keeps from the standard's names.
        const NOT_SUPPORTED: i32 = 524;
        let code = self.error.raw_os_error();
        self.written == 0 && matches!(code, Some(libc::EINVAL | libc::EOPNOTSUPP | NOT_SUPPORTED))
    }
}

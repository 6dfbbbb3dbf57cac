//! File descriptor tables of single threads.

use std::{
    io,
    marker::PhantomData,
    ops::RangeInclusive,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// The first descriptor after stdin, stdout and stderr.
const FIRST_NON_STDIO: u32 = 3;

/// The file descriptor table of one thread. Dropping it closes all its files; the end of the thread would be
/// too late, because a thread can be joined before the kernel has closed its files.
#[derive(Debug)]
pub struct PrivateFdTable(PhantomData<*const ()>);

impl Drop for PrivateFdTable {
    fn drop(&mut self) {
        // An error has no remedy, and the thread is about to end.
        let _ = close_range(FIRST_NON_STDIO..=u32::MAX, 0);
    }
}

/// Unshares this thread's file descriptor table, and keeps only these descriptors and stdio in it. After an
/// error the thread still has the table of its process.
pub fn unshare_fd_table(kept: &[RawFd]) -> io::Result<PrivateFdTable> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let after_last = kept.last().map_or(FIRST_NON_STDIO, |last| last + 1);
    close_range(after_last..=u32::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut first = FIRST_NON_STDIO;
    for fd in kept {
        if first < fd {
            close_range(first..=fd - 1, 0)?;
        }
        first = fd + 1;
    }
    Ok(PrivateFdTable(PhantomData))
}

/// Duplicates a descriptor to a number above the given one.
pub fn duplicate_above(file: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers.
    let duplicate = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number.saturating_add(1)) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success F_DUPFD_CLOEXEC returns a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

fn close_range(descriptors: RangeInclusive<u32>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes three integers. It acts on this thread's own table only; the owners of those
    // descriptors have them in the table that this one was copied from.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, *descriptors.start(), *descriptors.end(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! How much memory the allocator keeps to itself. glibc's defaults are for speed on large machines: an arena for each
//! thread, and freed memory kept for later. The agent's objects are made on one thread and let go on another, and while
//! everything is read tables are left for larger ones again and again, so those defaults cost it megabytes for nothing.

/// Larger blocks come from the kernel and go back to it at once: the tables, mostly.
const OWN_MAPPING: usize = 64 << 10;
/// Free memory at the end of the heap beyond which it goes back.
const KEPT: usize = 128 << 10;

/// To be called before there are threads. With `one_arena` they wait for each other when they allocate, which only those
/// who answer many queries at once would feel.
#[cfg(target_env = "gnu")]
pub fn be_frugal(one_arena: bool) {
    let sizes = [(libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, KEPT)];
    let arenas = one_arena.then_some((libc::M_ARENA_MAX, 1));
    for (parameter, value) in sizes.into_iter().chain(arenas) {
        let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
        // SAFETY: it changes numbers of the allocator, under its own lock, and no block that is in use. Of a parameter
        // that it does not take nothing becomes.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other allocators have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn be_frugal(_: bool) {}

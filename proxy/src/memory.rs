//! Memory limits. glibc's defaults favour speed on large machines: an arena per thread, and freed memory kept
//! for later use. The agent allocates objects on one thread and frees them on another, and during the initial
//! sync tables grow again and again, so those defaults cost megabytes.

/// Sets limits of the allocator; to be called before other threads start. With `one_arena` threads contend
/// when they allocate, which matters only for many concurrent DNS queries.
#[cfg(target_env = "gnu")]
pub fn limit_allocator(one_arena: bool) {
    /// Larger blocks are mmapped and unmapped one by one: mostly tables.
    const OWN_MAPPING: usize = 64 << 10;
    /// Free memory at the top of the heap that is kept.
    const KEPT: usize = 128 << 10;
    let sizes = [(libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, KEPT)];
    let arenas = one_arena.then_some((libc::M_ARENA_MAX, 1));
    for (parameter, value) in sizes.into_iter().chain(arenas) {
        let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
        // SAFETY: it changes parameters of the allocator, under its own lock, and no block in use. Unknown
        // parameters are ignored.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other allocators have no such parameters.
#[cfg(not(target_env = "gnu"))]
pub fn limit_allocator(_: bool) {}

/// Releases pages of the executable that were needed to start: megabytes of code for verifying, parsing and
/// setup. Pages that are needed again are read from the file.
///
/// `loaded`: constants that were needed to load the programs.
pub fn release_startup_pages(loaded: &'static [u8]) {
    release_constants(loaded);
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Some(own) = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned)) else {
        return;
    };
    for (start, length) in maps.lines().filter_map(|line| code_of(line, &own)) {
        // SAFETY: pages of a private mapping that was never writable equal the file, and are read back
        // unchanged.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Releases the whole pages of constants without pointers, which the loader never relocated.
fn release_constants(constants: &'static [u8]) {
    const PAGE: usize = 4096;
    let range = constants.as_ptr_range();
    let start = (range.start as usize).next_multiple_of(PAGE);
    let length = (range.end as usize).saturating_sub(start) / PAGE * PAGE;
    // SAFETY: as in `release_startup_pages`; with a larger page size the kernel rejects an unaligned address.
    let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// The start and length of code of the file in a line of /proc/self/maps. Excludes constants, some of which
/// the loader relocated.
fn code_of(line: &str, file: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, access) = (words.next()?, words.next()?);
    if access != "r-xp" || !line.ends_with(file) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let start = address(start)?;
    Some((start, address(end)?.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::code_of;

    #[test]
    fn only_code_of_the_file_itself_is_named() {
        let own = "/usr/bin/portreeve";
        for (line, want) in [
            ("1000-3000 r-xp 00001000 fe:00 12 /usr/bin/portreeve", Some((0x1000, 0x2000))),
            ("3000-4000 r--p 00003000 fe:00 12 /usr/bin/portreeve", None),
            ("4000-5000 rw-p 00004000 fe:00 12 /usr/bin/portreeve", None),
            ("5000-6000 r-xp 00000000 fe:00 13 /usr/lib/libc.so.6", None),
            ("7000-8000 rw-p 00000000 00:00 0", None),
            ("nonsense", None),
        ] {
            assert_eq!(code_of(line, own), want, "{line}");
        }
    }
}

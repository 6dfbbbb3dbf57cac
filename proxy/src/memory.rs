//! How much memory the allocator keeps to itself. glibc's defaults are for speed on large machines: an arena for each
//! thread, and freed memory kept for later. The agent's objects are made on one thread and let go on another, and while
//! everything is read tables are left for larger ones again and again, so those defaults cost it megabytes for nothing.

/// To be called before there are threads. With `one_arena` they wait for each other when they allocate, which only those
/// who answer many queries at once would feel.
#[cfg(target_env = "gnu")]
pub fn limit_allocator(one_arena: bool) {
    /// Larger blocks come from the kernel and go back to it at once: the tables, mostly.
    const OWN_MAPPING: usize = 64 << 10;
    /// Free memory at the end of the heap beyond which it goes back.
    const KEPT: usize = 128 << 10;
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
pub fn limit_allocator(_: bool) {}

/// Lets go of the program's own pages that were needed to start and perhaps never will be again: megabytes of verifying,
/// parsing and setting up. What is needed after all is read again from the file, a page at a time.
///
/// `loaded`: constants that were needed to load the programs.
pub fn release_startup_pages(loaded: &'static [u8]) {
    release_constants(loaded);
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Some(own) = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned)) else {
        return;
    };
    for (start, length) in maps.lines().filter_map(|line| code_of(line, &own)) {
        // SAFETY: pages of a private mapping that was never writable are those of the file, and come back as they were.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Lets go of the whole pages among constants that nothing points out of, so that the loader never wrote into them.
fn release_constants(constants: &'static [u8]) {
    const PAGE: usize = 4096;
    let range = constants.as_ptr_range();
    let start = (range.start as usize).next_multiple_of(PAGE);
    let length = (range.end as usize).saturating_sub(start) / PAGE * PAGE;
    // SAFETY: as in `release_startup_pages`; with larger pages than these the kernel refuses an address that is none's start.
    let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// Where a line of /proc/self/maps maps code of a file: start and length. Not its constants, among which are some that the
/// loader has written addresses into.
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

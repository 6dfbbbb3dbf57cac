//! The rights of a container, for a child: capabilities, no new privileges, a read-only file system, and a seccomp filter.
//!
//! Agents of stories have no others. Not confined are commands that are to be refused at once, and kubelets, which confine
//! their pods themselves.
//!
//! All of it happens between fork and exec, so this makes system calls only, on values that were made before.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::{Context as _, Result};

/// The capabilities of the agent's DaemonSet, by their numbers in capabilities(7).
pub const CAPABILITIES: [(&str, u32); 4] =
    [("NET_BIND_SERVICE", 10), ("NET_ADMIN", 12), ("PERFMON", 38), ("BPF", 39)];
/// The kernel refuses numbers above its last one.
const LAST_CAPABILITY: u32 = 63;

/// The system calls that the default profiles of containerd and Docker refuse a container with these capabilities. A profile
/// lists what is allowed; these are the others, of those that all architectures have.
const REFUSED: [libc::c_long; 54] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_mseal,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];
/// Refused as if the kernel did not have it, so that libraries use `clone`, whose flags a profile can check.
const UNKNOWN: libc::c_long = libc::SYS_clone3;

/// What a child may do.
#[derive(Debug)]
pub struct Confinement {
    /// The agent's directory on the bpffs, and where it is mounted. Nothing else of the bpffs is visible.
    pins: CString,
    bpffs: CString,
    /// The other directory that stays writable.
    run_dir: CString,
    filter: Vec<libc::sock_filter>,
}

impl Confinement {
    /// The rights of the agent's container, which may write to its pins and its run directory. `pins` is a directory on
    /// the root of a bpffs.
    pub fn of_daemon_set(pins: &Path, run_dir: &Path) -> Result<Self> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).context("a path with a zero");
        let bpffs = pins.parent().context("pins without a bpffs")?;
        Ok(Self { pins: text(pins)?, bpffs: text(bpffs)?, run_dir: text(run_dir)?, filter: filter() })
    }

    /// Gives up everything else. The calling process must be single-threaded.
    pub fn enter(&self) -> io::Result<()> {
        self.make_read_only()?;
        drop_capabilities()?;
        // SAFETY: both calls take integers and a pointer to the filter, which lives as long as `self`.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            let program =
                libc::sock_fprog { len: self.filter.len() as u16, filter: self.filter.as_ptr().cast_mut() };
            check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)).map(drop)
        }
    }

    /// As in a container, /proc is writable and /proc/sys is not.
    fn make_read_only(&self) -> io::Result<()> {
        let (root, proc, sysctls) = (c"/", c"/proc", c"/proc/sys");
        // SAFETY: all pointers are to strings with a zero at their end, or null where the call permits it.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            mount(None, root, libc::MS_REC | libc::MS_PRIVATE)?;
            mount(Some(sysctls), sysctls, libc::MS_BIND)?;
            mount(Some(&self.run_dir), &self.run_dir, libc::MS_BIND)?;
            self.hide_other_pins()?;
            set_read_only(root, true, libc::AT_RECURSIVE)?;
            set_read_only(proc, false, 0)?;
            set_read_only(&self.pins, false, 0)?;
            set_read_only(&self.run_dir, false, 0)
        }
    }

    /// An empty directory in place of the bpffs, and on it only the agent's pins: the mounts of the DaemonSet.
    ///
    /// # Safety
    ///
    /// As for `mount`, in a mount namespace of its own.
    unsafe fn hide_other_pins(&self) -> io::Result<()> {
        let (pins, none) = (self.pins.as_ptr(), c"".as_ptr());
        // SAFETY: all strings end with a zero, and the data of the tmpfs may be null.
        unsafe {
            let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
            let tree = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, pins, flags) as libc::c_int)?;
            let tmpfs = c"tmpfs".as_ptr();
            check(libc::mount(tmpfs, self.bpffs.as_ptr(), tmpfs, 0, std::ptr::null()))?;
            check(libc::mkdir(pins, 0o700))?;
            let (here, from_tree) = (libc::AT_FDCWD, libc::MOVE_MOUNT_F_EMPTY_PATH);
            let moved = libc::syscall(libc::SYS_move_mount, tree, none, here, pins, from_tree);
            check(moved as libc::c_int)?;
            check(libc::close(tree)).map(drop)
        }
    }
}

/// # Safety
///
/// Between fork and exec, or on a thread that is alone in its process.
unsafe fn mount(
    source: Option<&std::ffi::CStr>,
    target: &std::ffi::CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let source = source.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: the strings end with a zero; a null file system type and null data are permitted for these flags.
    check(unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
        .map(drop)
}

fn set_read_only(target: &std::ffi::CStr, is_read_only: bool, flags: libc::c_int) -> io::Result<()> {
    let set = if is_read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: libc::MOUNT_ATTR_RDONLY & !set,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the string ends with a zero, and the structure has the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result as libc::c_int).map(drop)
}

/// Without a capability in the bounding set, exec as root does not give it back.
fn drop_capabilities() -> io::Result<()> {
    for number in 0..=LAST_CAPABILITY {
        if CAPABILITIES.iter().all(|(_, kept)| *kept != number) {
            // SAFETY: the call takes integers.
            let dropped = check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) });
            match dropped {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                dropped => drop(dropped?),
            }
        }
    }
    Ok(())
}

/// Refuses the calls with EPERM, as a container's runtime does.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // The number of the call is the first field of `seccomp_data`.
    let mut filter = vec![statement(LOAD, 0)];
    for call in REFUSED {
        filter.push(libc::sock_filter { code: EQUAL, jt: 0, jf: 1, k: call as u32 });
        filter.push(statement(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    }
    filter.push(libc::sock_filter { code: EQUAL, jt: 0, jf: 1, k: UNKNOWN as u32 });
    filter.push(statement(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    filter.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    filter
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_are_those_of_the_daemon_set() {
        let manifest = include_str!("../../../../deploy/kustomize/base/daemon-set.yaml");
        let line = manifest.lines().find_map(|line| line.trim().strip_prefix("add: [")).unwrap();
        let mut stated: Vec<_> = line.trim_end_matches(']').split(", ").collect();
        let mut used: Vec<_> = CAPABILITIES.iter().map(|(name, _)| *name).collect();
        stated.sort_unstable();
        used.sort_unstable();
        assert_eq!(stated, used);
    }
}

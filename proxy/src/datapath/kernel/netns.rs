//! Network namespaces.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
};

/// The cookie of this thread's network namespace, as programs read it.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, and `cookie` and `length` are valid for what the kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// A user that may create namespaces can create any number; each takes a thread.
const MAX_NAMESPACES: usize = 4096;

/// The addresses of every network namespace that a process of this node is in, by its cookie; without those that it shares
/// with others, such as loopback. Namespaces that this process has no right to enter (CAP_SYS_ADMIN) are missing.
pub fn netns_addresses() -> HashMap<u64, Vec<IpAddr>> {
    let mut seen = HashSet::new();
    let mut found = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path().join("ns/net");
        // Most processes share a namespace. One that ends meanwhile is skipped.
        let inode = fs::metadata(&path).map(|found| found.ino()).ok();
        let is_new = inode.is_some_and(|inode| seen.len() < MAX_NAMESPACES && seen.insert(inode));
        let Some(netns) = is_new.then(|| File::open(&path).ok()).flatten() else { continue };
        // A namespace belongs to a thread.
        let inside = thread::spawn(move || addresses_in(&netns)).join();
        found.extend(inside.ok().and_then(Result::ok));
    }
    found
}

fn addresses_in(netns: &File) -> io::Result<(u64, Vec<IpAddr>)> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::from(found.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::from(found.ip())))
    };
    let is_own = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    let addresses = getifaddrs()?.filter_map(|device| device.address.and_then(ip)).filter(is_own).collect();
    Ok((netns_cookie()?, addresses))
}

/// From asm-generic/socket.h, since Linux 5.14; libc has it for some targets only.
const SO_NETNS_COOKIE: libc::c_int = 71;

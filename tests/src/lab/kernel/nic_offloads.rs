//! NIC features that veth pairs lack, for the paths of XDP programs.

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow};

use crate::lab::kernel::{netns::Netns, xdp::pass_all};

/// From linux/ethtool.h.
const SET_TX_CHECKSUMS: u32 = 0x17;

#[repr(C)]
struct Setting {
    command: u32,
    value: u32,
}

/// Disables TX checksum offload: frames leave the device with complete checksums.
pub fn fill_checksums(netns: &Netns, device: &str) -> Result<()> {
    let what = || format!("cannot disable TX checksum offload of {device}");
    netns.run(|| set(device, Setting { command: SET_TX_CHECKSUMS, value: 0 }).with_context(what))
}

/// Attaches an XDP program to this end of a veth pair, without which frames that XDP transmits at the other end
/// are not received. It is detached when the result is dropped.
pub fn listen(netns: &Netns, device: &str) -> Result<OwnedFd> {
    pass_all(netns, device)
}

fn set(device: &str, mut setting: Setting) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: integers and arrays of integers, for which every bit pattern is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    name.zip(device.bytes()).for_each(|(slot, byte)| *slot = byte.cast_signed());
    request.ifr_ifru.ifru_data = (&raw mut setting).cast();
    // SAFETY: the socket is open; the request and the setting that it points to are complete and outlive the
    // call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(anyhow!(io::Error::last_os_error())) }
}

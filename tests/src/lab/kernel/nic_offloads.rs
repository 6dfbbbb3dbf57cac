//! What network cards do and virtual pairs leave out, on the paths that XDP programs are on.

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

/// Frames leave a device with whole checksums.
pub fn fill_checksums(netns: &Netns, device: &str) -> Result<()> {
    let what = || format!("cannot make {device} fill in checksums");
    netns.run(|| set(device, Setting { command: SET_TX_CHECKSUMS, value: 0 }).with_context(what))
}

/// What a program at the other end of a pair sends back arrives, which it does only where a program stands at this end
/// too: for as long as what is returned lives.
pub fn listen(netns: &Netns, device: &str) -> Result<OwnedFd> {
    pass_all(netns, device)
}

fn set(device: &str, mut setting: Setting) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: plain numbers and arrays of such, of which every pattern is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    name.zip(device.bytes()).for_each(|(place, byte)| *place = byte.cast_signed());
    request.ifr_ifru.ifru_data = (&raw mut setting).cast();
    // SAFETY: the socket is open; the request and the setting it points to are whole and live until the call is over.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(anyhow!(io::Error::last_os_error())) }
}

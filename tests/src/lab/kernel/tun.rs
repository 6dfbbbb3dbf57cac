//! A TUN or TAP device: packets that the story writes arrive at the device, and it reads those that leave there.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::kernel::netns::Netns;

const LONGEST: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunMode {
    /// Without link layer: packets begin with the IP header.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// The device is removed when this is dropped.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Creates a device in a network namespace.
    pub fn create(netns: &Netns, name: &str, mode: TunMode) -> Result<Self> {
        netns.run(|| {
            // The device belongs to the network namespace in which the file was opened.
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
            let file = file.context("cannot open /dev/net/tun")?;
            set_device(&file, name, mode).with_context(|| format!("cannot create the device {name}"))?;
            Ok(Self { file })
        })
    }

    /// Lets a packet arrive at the device.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let written = (&self.file).write(packet).context("the device takes no packet")?;
        ensure!(written == packet.len(), "only {written} bytes are taken");
        Ok(())
    }

    /// The packets that have left by the device since the last call.
    pub fn received(&self) -> Result<Vec<Vec<u8>>> {
        let (mut packets, mut buffer) = (Vec::new(), vec![0; LONGEST]);
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(length) => packets.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(packets),
                Err(error) => return Err(error).context("cannot read a packet"),
            }
        }
    }
}

fn set_device(file: &File, name: &str, mode: TunMode) -> Result<()> {
    // SAFETY: plain values, of which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(name.len() < request.ifr_name.len(), "the name is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let kind = if mode == TunMode::Tap { libc::IFF_TAP } else { libc::IFF_TUN };
    request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI)?;
    // SAFETY: the request is complete, and the kernel writes the name into it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

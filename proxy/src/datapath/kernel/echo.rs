//! ICMP echo requests that may not be fragmented, to find out whether packets of a size pass a path in both directions.

use std::{
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

/// From linux/in.h: set DF, and send whatever the known MTU of the path is.
const IP_PMTUDISC_PROBE: libc::c_int = 3;
/// Of ICMP: type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// Of a request that passes everywhere.
const SMALL: usize = 64;
/// A lost packet is no proof.
const ATTEMPTS: u16 = 3;

/// What passes a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathSize {
    /// Packets of the route's MTU, in bytes, pass.
    Whole(u32),
    /// Small packets pass, those of the MTU are lost, and no ICMP error has told the kernel a smaller one.
    SmallOnly(u32),
    /// Not even small requests are answered, or a smaller MTU is known.
    Unknown,
}

/// Asks an address; blocks up to seven times the limit. Errors: no right to (CAP_NET_RAW).
pub fn path_size(to: IpAddr, limit: Duration) -> io::Result<PathSize> {
    let mut echo = Echo::new(to)?;
    if !echo.is_answered(SMALL, limit)? {
        return Ok(PathSize::Unknown);
    }
    let mtu = echo.mtu()?;
    let size = usize::try_from(mtu).unwrap_or_default().saturating_sub(echo.network_header());
    for _ in 0..ATTEMPTS {
        if echo.is_answered(size, limit)? {
            return Ok(PathSize::Whole(mtu));
        }
    }
    // An ICMP error made the kernel remember a smaller MTU, which TCP follows; or the machine is gone by now.
    let is_known = echo.mtu()? < mtu;
    if is_known || !echo.is_answered(SMALL, limit)? {
        return Ok(PathSize::Unknown);
    }
    Ok(PathSize::SmallOnly(mtu))
}

struct Echo {
    socket: Socket,
    to: IpAddr,
    sequence: u16,
}

impl Echo {
    fn new(to: IpAddr) -> io::Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        // Raw sockets receive what their connected peer sends only.
        socket.connect(&SocketAddr::new(to, 0).into())?;
        let echo = Self { socket, to, sequence: 0 };
        echo.set(echo.options().1, IP_PMTUDISC_PROBE)?;
        Ok(echo)
    }

    /// Level, and the options of path MTU discovery and of the MTU.
    fn options(&self) -> (libc::c_int, libc::c_int, libc::c_int) {
        match self.to {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU),
        }
    }

    fn network_header(&self) -> usize {
        if self.to.is_ipv4() { 20 } else { 40 }
    }

    fn set(&self, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer and the length are those of an integer that outlives the call.
        let done = unsafe {
            let value = (&raw const value).cast();
            libc::setsockopt(self.socket.as_raw_fd(), self.options().0, option, value, length)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The MTU of the path as the kernel knows it.
    fn mtu(&self) -> io::Result<u32> {
        let (mut value, mut length): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        let (level, _, option) = self.options();
        // SAFETY: the pointers are to an integer and its length, which both outlive the call.
        let done = unsafe {
            let value = (&raw mut value).cast();
            libc::getsockopt(self.socket.as_raw_fd(), level, option, value, &raw mut length)
        };
        if done == 0 { Ok(value.unsigned_abs()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends a request of so many bytes, without the header of the network layer, and waits for its reply.
    fn is_answered(&mut self, size: usize, limit: Duration) -> io::Result<bool> {
        self.sequence += 1;
        let request = request(self.to.is_ipv4(), self.identifier(), self.sequence, size);
        match self.socket.send(&request) {
            // An ICMP error about an earlier request.
            Err(error) if error.kind() == ErrorKind::HostUnreachable => return Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
            sent => sent.map(drop)?,
        }
        let end = Instant::now() + limit;
        let mut octets = vec![MaybeUninit::new(0_u8); 1 << 16];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut octets) {
                Ok(length) if self.is_reply(&initialized(&octets[..length])) => return Ok(true),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == ErrorKind::HostUnreachable => return Ok(false),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn identifier(&self) -> u16 {
        (std::process::id() as u16) ^ (self.socket.as_raw_fd() as u16)
    }

    /// IPv4 packets come with their header.
    fn is_reply(&self, packet: &[u8]) -> bool {
        const REPLY_V4: u8 = 0;
        const REPLY_V6: u8 = 129;
        let (message, kind) = match self.to {
            IpAddr::V4(_) => {
                let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
                (packet.get(header..).unwrap_or_default(), REPLY_V4)
            }
            IpAddr::V6(_) => (packet, REPLY_V6),
        };
        let [i, j] = self.identifier().to_be_bytes();
        let [s, t] = self.sequence.to_be_bytes();
        matches!(message, [found, 0, _, _, a, b, c, d, ..] if *found == kind && [*a, *b, *c, *d] == [i, j, s, t])
    }
}

fn initialized(octets: &[MaybeUninit<u8>]) -> Vec<u8> {
    // SAFETY: every element was initialized when the buffer was made.
    octets.iter().map(|octet| unsafe { octet.assume_init() }).collect()
}

/// An echo request; the kernel fills in the checksum of ICMPv6, but not of ICMP.
fn request(is_v4: bool, identifier: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut octets = vec![0; size.max(HEADER)];
    octets[0] = if is_v4 { 8 } else { 128 };
    octets[4..6].copy_from_slice(&identifier.to_be_bytes());
    octets[6..8].copy_from_slice(&sequence.to_be_bytes());
    if is_v4 {
        let words = octets
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = !(sum as u16);
        octets[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_request_makes_its_sum_all_ones() {
        for size in [8, 63, 64] {
            let octets = request(true, 0xabcd, 7, size);
            let words = octets.chunks(2).map(|pair| {
                u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
            });
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{size}");
        }
        assert_eq!(request(false, 1, 2, 8), [128, 0, 0, 0, 0, 1, 0, 2]);
    }
}

//! The frame of a TCP segment without payload and options, as its sender would send it.

use std::net::{IpAddr, SocketAddr};

const ETHERNET: usize = 14;
const TCP_HEADER: u16 = 20;
const TCP: u8 = 6;
/// The fields that the two families have in common.
const HOP_LIMIT: u8 = 64;
const NO_WINDOW: u16 = 0;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    /// With the flag RST.
    pub resets: bool,
}

/// The frame for a device with this MAC address. Returns `None` if the ends are of different families.
pub fn frame(segment: &Segment, device: [u8; 6]) -> Option<Vec<u8>> {
    // Locally administered: no device's.
    const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0];
    let (ether_type, header, addresses) = match (segment.from.ip(), segment.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            (0x0800_u16, ipv4(&addresses), addresses)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            (0x86dd, ipv6(&addresses), addresses)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let mut frame = Vec::with_capacity(ETHERNET + header.len() + usize::from(TCP_HEADER));
    frame.extend(device);
    frame.extend(SENDER);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(header);
    frame.extend(tcp(segment, &addresses));
    Some(frame)
}

/// RFC 791.
fn ipv4(addresses: &[u8]) -> Vec<u8> {
    const VERSION_AND_LENGTH: u8 = 0x45;
    const DONT_FRAGMENT: u16 = 1 << 14;
    let mut header = vec![VERSION_AND_LENGTH, 0];
    header.extend((20 + TCP_HEADER).to_be_bytes());
    header.extend([0, 0]);
    header.extend(DONT_FRAGMENT.to_be_bytes());
    header.extend([HOP_LIMIT, TCP, 0, 0]);
    header.extend(addresses);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header
}

/// RFC 8200.
fn ipv6(addresses: &[u8]) -> Vec<u8> {
    const VERSION: u8 = 0x60;
    let mut header = vec![VERSION, 0, 0, 0];
    header.extend(TCP_HEADER.to_be_bytes());
    header.extend([TCP, HOP_LIMIT]);
    header.extend(addresses);
    header
}

/// RFC 9293, with the checksum over the addresses, too.
fn tcp(segment: &Segment, addresses: &[u8]) -> Vec<u8> {
    const WORDS: u8 = (TCP_HEADER / 4) as u8;
    let Segment { from, to, sequence, acknowledged, resets } = segment;
    let mut header = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    header.extend(sequence.to_be_bytes());
    header.extend(acknowledged.to_be_bytes());
    header.extend([WORDS << 4, if *resets { RST | ACK } else { ACK }]);
    header.extend(NO_WINDOW.to_be_bytes());
    header.extend([0; 4]);
    let mut summed = addresses.to_vec();
    summed.extend([0, TCP]);
    summed.extend(TCP_HEADER.to_be_bytes());
    summed.extend(&header);
    let sum = checksum(&summed);
    header[16..18].copy_from_slice(&sum);
    header
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn reset(from: &str, to: &str) -> Segment {
        Segment {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            sequence: 0x0102_0304,
            acknowledged: 0x0506_0708,
            resets: true,
        }
    }

    #[test]
    fn headers_have_the_right_sums_and_fields() {
        for (from, to, network) in
            [("10.0.0.1:80", "10.0.0.2:4000", 20), ("[fd00::1]:80", "[fd00::2]:4000", 40)]
        {
            let frame = frame(&reset(from, to), DEVICE).expect("one family");
            assert_eq!(frame.len(), ETHERNET + network + 20, "{from}");
            assert_eq!(frame[..6], DEVICE);
            let (ip, tcp) = frame[ETHERNET..].split_at(network);
            let (length, addresses) = if network == 20 {
                assert_eq!(checksum(ip), [0, 0], "a header with its checksum sums to nothing");
                (u16::from_be_bytes([ip[2], ip[3]]), &ip[12..])
            } else {
                (40 + u16::from_be_bytes([ip[4], ip[5]]), &ip[8..])
            };
            assert_eq!(usize::from(length), network + 20);
            let pseudo = [addresses, &[0, TCP, 0, 20], tcp].concat();
            assert_eq!(checksum(&pseudo), [0, 0], "{from}");
            assert_eq!(tcp[..4], [0, 80, 0x0f, 0xa0]);
            assert_eq!(tcp[4..12], [1, 2, 3, 4, 5, 6, 7, 8]);
            assert_eq!(tcp[12..14], [0x50, 0x14]);
        }
    }

    #[test]
    fn a_probe_has_no_reset_and_families_do_not_mix() {
        let probe = Segment { resets: false, ..reset("10.0.0.1:80", "10.0.0.2:4000") };
        assert_eq!(frame(&probe, DEVICE).expect("one family")[ETHERNET + 20 + 13], 0x10);
        assert_eq!(frame(&reset("10.0.0.1:80", "[fd00::2]:4000"), DEVICE), None);
    }
}

//! The number of IPsec policies in this network namespace.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

/// `NETLINK_XFRM` of linux/netlink.h.
const NETLINK_XFRM: isize = 6;
/// `XFRM_MSG_NEWSPDINFO` and `XFRM_MSG_GETSPDINFO` of linux/xfrm.h.
const NEW_SPD_INFO: u16 = 0x24;
const GET_SPD_INFO: u16 = 0x25;
/// `XFRMA_SPD_INFO`: the counts of policies in, out and forwarded, and of those of sockets.
const SPD_INFO: u16 = 1;
const REQUEST: u16 = 1;
/// Lengths of `struct nlmsghdr`, and of the flags that precede the attributes of these messages.
const HEADER: usize = 16;
const FLAGS: usize = 4;

/// Counts the policies that apply to all sockets and forwarded packets. Errors: no CAP_NET_ADMIN; a kernel without
/// IPsec has none.
pub fn ipsec_policies() -> io::Result<u32> {
    let socket = match Socket::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        opened => opened?,
    };
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
    let (reply, _) = socket.recv_from_full()?;
    parse(&reply)
}

fn request() -> Vec<u8> {
    let length = (HEADER + FLAGS) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GET_SPD_INFO.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence number, port id and flags.
    message.extend([0; 4 + 4 + FLAGS]);
    message
}

fn parse(reply: &[u8]) -> io::Result<u32> {
    let kind = word16(reply, 4).ok_or(io::ErrorKind::InvalidData)?;
    if kind == libc::NLMSG_ERROR as u16 {
        let errno = word32(reply, HEADER).ok_or(io::ErrorKind::InvalidData)?;
        return Err(io::Error::from_raw_os_error(errno.cast_signed().saturating_neg()));
    }
    let mut at = HEADER + FLAGS;
    while let (NEW_SPD_INFO, Some(length), Some(attribute)) = (kind, word16(reply, at), word16(reply, at + 2))
    {
        if attribute == SPD_INFO {
            let counts = [4, 8, 12].map(|offset| word32(reply, at + offset));
            let sum = counts.into_iter().try_fold(0_u32, |sum, count| sum.checked_add(count?));
            return sum.ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        at += usize::from(length).max(4).next_multiple_of(4);
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: u16, words: &[u32]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        message
    }

    fn attribute(length: u16, kind: u16) -> u32 {
        let mut bytes = [0; 4];
        bytes[..2].copy_from_slice(&length.to_ne_bytes());
        bytes[2..].copy_from_slice(&kind.to_ne_bytes());
        u32::from_ne_bytes(bytes)
    }

    #[test]
    fn policies_of_all_directions_are_counted_without_those_of_sockets() {
        let info = [attribute(28, SPD_INFO), 1, 2, 3, 10, 10, 10];
        let other = [attribute(12, 2), 7, 7];
        for words in [[&[0][..], &info, &other].concat(), [&[0][..], &other, &info].concat()] {
            assert_eq!(parse(&reply(NEW_SPD_INFO, &words)).unwrap(), 6);
        }
    }

    #[test]
    fn a_refusal_or_a_truncated_reply_is_an_error() {
        let refused = parse(&reply(libc::NLMSG_ERROR as u16, &[(-libc::EPERM).cast_unsigned()])).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        for words in [&[][..], &[0], &[0, attribute(28, SPD_INFO), 1], &[0, attribute(0, 9)]] {
            assert!(parse(&reply(NEW_SPD_INFO, words)).is_err(), "{words:?}");
        }
        assert!(parse(&[]).is_err());
    }
}

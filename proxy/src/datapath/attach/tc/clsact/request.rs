//! tc requests over netlink: one request and its replies on a socket of its own.

use std::{io, os::fd::RawFd};

use proxy_ebpf::abi::Direction;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{
            TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
        },
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

const CLSACT: &str = "clsact";
/// `ETH_P_ALL` of `linux/if_ether.h`, in network byte order.
const EVERY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// A filter. One that runs no program has no name; it gets the name of its kind.
#[derive(Debug, Default)]
pub struct Filter {
    pub name: String,
    pub priority: u16,
    /// 0: the kernel chooses.
    pub handle: u32,
    pub program_id: u32,
}

pub fn has_qdisc(device: u32) -> io::Result<bool> {
    let found = request(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), NLM_F_DUMP)?;
    let mut qdiscs = found.iter().filter_map(|message| {
        if let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message { Some(qdisc) } else { None }
    });
    Ok(qdiscs.any(|qdisc| qdisc.header.index == device.cast_signed() && is_kind(qdisc, CLSACT)))
}

pub fn add_qdisc(device: u32) -> io::Result<()> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(device));
    request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

pub fn delete_qdisc(device: u32) -> io::Result<()> {
    request(RouteNetlinkMessage::DelQueueDiscipline(qdisc(device)), NLM_F_ACK).map(drop)
}

pub fn filters(device: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let question = RouteNetlinkMessage::GetTrafficFilter(message(device, parent(direction), 0, 0));
    let found = request(question, NLM_F_DUMP)?;
    let filters = found.iter().filter_map(|message| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = message { parse(filter) } else { None }
    });
    Ok(filters.collect())
}

pub fn add_filter(device: u32, direction: Direction, filter: &Filter, program: RawFd) -> io::Result<()> {
    let message = RouteNetlinkMessage::NewTrafficFilter(filter_message(device, direction, filter, program));
    request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Replaces the program of an existing filter, atomically for packets.
pub fn change_filter(device: u32, direction: Direction, filter: &Filter, program: RawFd) -> io::Result<()> {
    let message = RouteNetlinkMessage::NewTrafficFilter(filter_message(device, direction, filter, program));
    request(message, NLM_F_ACK).map(drop)
}

pub fn delete_filter(device: u32, direction: Direction, filter: &Filter) -> io::Result<()> {
    let message = message(device, parent(direction), filter.handle, info(filter.priority));
    request(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).map(drop)
}

fn qdisc(device: u32) -> TcMessage {
    let mut message = message(device, TcHandle::CLSACT, 0, 0);
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

fn filter_message(device: u32, direction: Direction, filter: &Filter, program: RawFd) -> TcMessage {
    let mut message = message(device, parent(direction), filter.handle, info(filter.priority));
    let options = [
        TcFilterBpfOption::ProgFd(program.cast_unsigned()),
        TcFilterBpfOption::ProgName(filter.name.clone()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
    message
}

fn message(device: u32, parent: TcHandle, handle: u32, info: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header =
        TcHeader { index: device.cast_signed(), parent, handle: handle.into(), info, ..TcHeader::default() };
    message
}

fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(EVERY_PROTOCOL)
}

fn parent(direction: Direction) -> TcHandle {
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

fn is_kind(message: &TcMessage, wanted: &str) -> bool {
    message.attributes.iter().any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == wanted))
}

fn parse(message: &TcMessage) -> Option<Filter> {
    let mut filter = Filter {
        priority: (message.header.info >> 16) as u16,
        handle: message.header.handle.into(),
        ..Filter::default()
    };
    for attribute in &message.attributes {
        if let TcAttribute::Kind(kind) = attribute {
            filter.name.clone_from(kind);
        }
    }
    let options = message.attributes.iter().filter_map(|attribute| {
        if let TcAttribute::Options(options) = attribute { Some(options) } else { None }
    });
    for option in options.flatten() {
        if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
            filter.name.clone_from(name);
        } else if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
            filter.program_id = *id;
        }
    }
    // The kernel lists each priority once before its filters, with handle 0.
    (filter.handle != 0).then_some(filter)
}

fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut replies = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        if parse_replies(&bytes, &mut replies)? {
            return Ok(replies);
        }
    }
}

/// Returns whether this was the last reply. A message with attributes that the parser does not know is
/// skipped: it is not about one of our filters.
fn parse_replies(mut bytes: &[u8], replies: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    while let Ok(header) = NetlinkBuffer::new_checked(bytes) {
        let length = header.length() as usize;
        match NetlinkMessage::deserialize(bytes).map(|message| message.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => {
                return if error.code.is_some() { Err(error.to_io()) } else { Ok(true) };
            }
            Ok(NetlinkPayload::InnerMessage(reply)) => replies.push(reply),
            Ok(_) | Err(_) => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

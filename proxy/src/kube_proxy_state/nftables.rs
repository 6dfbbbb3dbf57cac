//! nftables over netlink (`linux/netfilter/nf_tables.h`): list tables and chains, delete tables. The few messages are
//! encoded here, so that the node needs no `nft`.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// A protocol family of netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family(u8);

impl Family {
    pub const ANY: Self = Self(0);
    pub const IPV4: Self = Self(2);
    pub const IPV6: Self = Self(10);

    /// The name in the syntax of `nft`.
    pub fn name(self) -> &'static str {
        match self {
            Self::IPV4 => "ip",
            Self::IPV6 => "ip6",
            Self(1) => "inet",
            Self(3) => "arp",
            Self(5) => "netdev",
            Self(7) => "bridge",
            _ => "?",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    pub table: Table,
    pub name: String,
}

const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = message_type(0);
const GET_TABLE: u16 = message_type(1);
const DELETE_TABLE: u16 = message_type(2);
const NEW_CHAIN: u16 = message_type(3);
const GET_CHAIN: u16 = message_type(4);
const NEW_RULE: u16 = message_type(6);
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const CT_REGISTER: u16 = 1;
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 0x8000;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Sizes of `nlmsghdr` and of the following `nfgenmsg`.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

const fn message_type(number: u16) -> u16 {
    SUBSYSTEM << 8 | number
}

pub fn tables() -> io::Result<Vec<Table>> {
    let found = dump(GET_TABLE)?;
    Ok(found.iter().filter(|message| message.kind == NEW_TABLE).filter_map(Message::table).collect())
}

pub fn chains() -> io::Result<Vec<Chain>> {
    let found = dump(GET_CHAIN)?;
    Ok(found.iter().filter(|message| message.kind == NEW_CHAIN).filter_map(Message::chain).collect())
}

/// The chains that drop the forwarded packets which no rule accepts. Those of the `iptables` of nf_tables are among them, those
/// of the legacy one are not.
pub fn dropping_forward_chains() -> io::Result<Vec<Chain>> {
    let found = dump(GET_CHAIN)?;
    let chains = found.iter().filter(|message| message.kind == NEW_CHAIN && message.drops_forwarded());
    Ok(chains.filter_map(Message::chain).collect())
}

/// Deletes these tables with their content, in one transaction.
pub fn delete(tables: &[Table]) -> io::Result<()> {
    commit(tables.iter().map(deletion).collect())
}

/// Deletes these tables and keeps established connections translated. The kernel translates and tracks only while a nat
/// chain and a ct expression of the family exist, so the same transaction creates a table with both and without effect.
pub fn replace(tables: &[Table], handover_table: &str) -> io::Result<()> {
    let mut requests = Vec::new();
    for table in tables {
        requests.extend(handover(&Table { family: table.family, name: handover_table.to_owned() }));
    }
    requests.extend(tables.iter().map(deletion));
    commit(requests)
}

fn deletion(table: &Table) -> Vec<u8> {
    let name = attribute(TABLE_NAME, &terminated(&table.name));
    message(DELETE_TABLE, REQUEST | ACK, table.family, 0, &name)
}

/// A table with a nat chain, which keeps NAT active, and a rule with `ct state`, which keeps connection tracking active.
/// The rule has no verdict, so it has no effect on packets.
fn handover(table: &Table) -> [Vec<u8>; 3] {
    const CHAIN: &str = "established";
    let flags = REQUEST | ACK | CREATE;
    let table_name = attribute(TABLE_NAME, &terminated(&table.name));
    let hook = [number(HOOK_NUMBER, PREROUTING), number(HOOK_PRIORITY, 0)].concat();
    let chain = [
        attribute(CHAIN_TABLE, &terminated(&table.name)),
        attribute(CHAIN_NAME, &terminated(CHAIN)),
        attribute(CHAIN_HOOK | NESTED, &hook),
        attribute(CHAIN_TYPE, &terminated("nat")),
    ];
    let state = [number(CT_REGISTER, 1), number(CT_KEY, CT_STATE)].concat();
    let expression =
        [attribute(EXPRESSION_NAME, &terminated("ct")), attribute(EXPRESSION_DATA | NESTED, &state)];
    let expressions = attribute(LIST_ELEMENT | NESTED, &expression.concat());
    let rule = [
        attribute(RULE_TABLE, &terminated(&table.name)),
        attribute(RULE_CHAIN, &terminated(CHAIN)),
        attribute(RULE_EXPRESSIONS | NESTED, &expressions),
    ];
    [
        message(NEW_TABLE, flags, table.family, 0, &table_name),
        message(NEW_CHAIN, flags, table.family, 0, &chain.concat()),
        message(NEW_RULE, flags | APPEND, table.family, 0, &rule.concat()),
    ]
}

/// Sends the requests as one transaction: all take effect or none.
fn commit(requests: Vec<Vec<u8>>) -> io::Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let mut batch = message(BATCH_BEGIN, REQUEST, Family::ANY, SUBSYSTEM, &[]);
    batch.extend(requests.iter().flatten());
    batch.extend(message(BATCH_END, REQUEST, Family::ANY, SUBSYSTEM, &[]));
    let socket = connect()?;
    socket.send(&batch, 0)?;
    let mut acknowledged = 0;
    while acknowledged < requests.len() {
        for message in receive(&socket)? {
            message.error()?;
            acknowledged += usize::from(message.kind == ERROR);
        }
    }
    Ok(())
}

fn dump(kind: u16) -> io::Result<Vec<Message>> {
    let socket = connect()?;
    socket.send(&message(kind, REQUEST | DUMP, Family::ANY, 0, &[]), 0)?;
    let mut found = Vec::new();
    loop {
        for message in receive(&socket)? {
            message.error()?;
            if message.kind == DONE {
                return Ok(found);
            }
            found.push(message);
        }
    }
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

struct Message {
    kind: u16,
    payload: Vec<u8>,
}

fn receive(socket: &Socket) -> io::Result<Vec<Message>> {
    let (bytes, _) = socket.recv_from_full()?;
    let mut messages = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((message, remaining)) = split(rest) {
        messages.push(message);
        rest = remaining;
    }
    Ok(messages)
}

fn split(bytes: &[u8]) -> Option<(Message, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?.to_vec();
    let rest = bytes.get(aligned(length)..).unwrap_or_default();
    Some((Message { kind, payload }, rest))
}

impl Message {
    /// Errors: an NLMSG_ERROR with a code other than 0, which is the acknowledgement.
    fn error(&self) -> io::Result<()> {
        if self.kind != ERROR {
            return Ok(());
        }
        let code = self.payload.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
    }

    fn table(&self) -> Option<Table> {
        Some(Table { family: self.family()?, name: self.text(TABLE_NAME)? })
    }

    fn chain(&self) -> Option<Chain> {
        let table = Table { family: self.family()?, name: self.text(CHAIN_TABLE)? };
        Some(Chain { table, name: self.text(CHAIN_NAME)? })
    }

    fn family(&self) -> Option<Family> {
        self.payload.first().copied().map(Family)
    }

    /// Whether the policy of a chain drops forwarded packets of IP; `netdev` and `bridge` have other hooks.
    fn drops_forwarded(&self) -> bool {
        let is_ip = self.family().is_some_and(|family| ["ip", "ip6", "inet"].contains(&family.name()));
        let attributes = self.payload.get(NETFILTER_HEADER..).unwrap_or_default();
        let hook = value_of(attributes, CHAIN_HOOK).and_then(|hook| number_of(value_of(hook, HOOK_NUMBER)?));
        let policy = value_of(attributes, CHAIN_POLICY).and_then(number_of);
        is_ip && hook == Some(FORWARD) && policy == Some(DROP)
    }

    fn text(&self, wanted: u16) -> Option<String> {
        let value = value_of(self.payload.get(NETFILTER_HEADER..)?, wanted)?.strip_suffix(&[0])?;
        String::from_utf8(value.to_vec()).ok()
    }
}

/// The value of an attribute in a list of attributes.
fn value_of(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind & !NESTED == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(aligned(length.max(4))..)?;
    }
}

fn number_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn message(kind: u16, flags: u16, family: Family, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + NETFILTER_HEADER + attributes.len();
    // Messages are a few hundred bytes long.
    let mut bytes = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family.0, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(length), 0);
    bytes
}

/// A number attribute, in network byte order as in all of nf_tables.
fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let name = attribute(TABLE_NAME, &terminated("kube-proxy"));
        let flags = attribute(2, &[0, 0, 0, 0]);
        let mut bytes = message(NEW_TABLE, 0, Family::IPV6, 0, &[flags, name].concat());
        let chain =
            [attribute(CHAIN_TABLE, &terminated("nat")), attribute(CHAIN_NAME, &terminated("KUBE-SERVICES"))];
        bytes.extend(message(NEW_CHAIN, 0, Family::IPV4, 0, &chain.concat()));
        let (first, rest) = split(&bytes).unwrap();
        assert_eq!(first.table(), Some(Table { family: Family::IPV6, name: "kube-proxy".to_owned() }));
        let (second, rest) = split(rest).unwrap();
        assert_eq!(second.chain().map(|chain| chain.name).as_deref(), Some("KUBE-SERVICES"));
        assert!(split(rest).is_none());
    }

    #[test]
    fn malformed_messages_are_rejected() {
        for bytes in [&[][..], &[1, 0, 0, 0], &[255; 20], &[16, 0, 0, 0, 0, 0], &[0; 16]] {
            assert!(
                split(bytes).is_none() || split(bytes).is_some_and(|(message, _)| message.table().is_none())
            );
        }
        let cut = Message { kind: NEW_TABLE, payload: vec![2, 0, 0, 0, 200, 0, 1, 0, b'x'] };
        assert_eq!(cut.table(), None);
        let zero_length = Message { kind: NEW_TABLE, payload: vec![2, 0, 0, 0, 0, 0, 9, 0] };
        assert_eq!(zero_length.table(), None);
    }
}

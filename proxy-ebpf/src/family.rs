//! What differs between IPv4 and IPv6 for the decision: the maps and the width of an address.
//!
//! Programs hold addresses as words in wire order: BPF has no unaligned loads, and copies byte arrays byte by byte.

use core::{ffi::c_void, mem::transmute};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup},
    programs::TcContext,
};
use proxy_ebpf::{
    abi::{
        AffinityEntry, AffinityKey, BackendFlags, BackendRef, ConfigFlags, Flow, FlowRef, NodeAddressFlags,
        Tuple, Unclaimed,
    },
    csum::difference,
};

use crate::{
    affinity, backend, conntrack, frontend, masquerade,
    nat::Ends,
    network, node,
    packet::{IPV4_ADDRESSES, IPV4_CHECKSUM, IPV4_HOPS, IPV6_ADDRESSES, IPV6_HOPS, Packet},
    reject::{self, ClientAt},
    route, socket,
    stage::{self, Step},
    tc::Place,
};

/// An IPv6 address in wire order.
pub type Words = [u32; 4];

/// One of the two address families.
pub trait Family {
    /// An address in wire order.
    type Address: Copy;

    /// The address as maps hold it.
    type Bytes: Copy + 'static;

    /// The address of every NodePort frontend.
    const UNSPECIFIED: Self::Address;

    /// The switch of the configuration that concerns this family.
    const PODS_ARE_EXTERNAL: ConfigFlags;

    /// Index into `POD_RANGES`.
    const POD_RANGE: u32;

    /// Where the IP header says how many hops are left.
    const HOPS: usize;

    /// ICMP's protocol number.
    const ICMP: u8;

    /// Whether a kind of ICMP message is an error, which quotes the packet it is about.
    fn is_error(kind: u8) -> bool;

    /// Where the IP header has a checksum of its own.
    const NETWORK_CHECKSUM: Option<usize>;

    /// The address as an IPv6 one.
    fn mapped(address: Self::Address) -> Words;

    /// Where a connection really goes: to the unspecified address means to the loopback.
    fn effective(address: Self::Address) -> Self::Address;

    /// The index published for a frontend.
    fn frontend(address: Self::Address, port: [u8; 2], protocol: u8) -> Option<u32>;

    /// The backend a reference means, if it is still the same one.
    fn backend(reference: BackendRef) -> Option<Backend<Self::Address>>;

    /// What an address of this node serves; none for other addresses.
    fn node_address(address: Self::Address) -> Option<NodeAddressFlags>;

    fn affinity(key: &AffinityKey) -> Option<AffinityEntry>;

    /// The choice that is remembered and may go on, packed.
    fn remembered(key: &AffinityKey, seconds: u32, offered: BackendFlags) -> u64;

    fn set_affinity(key: &AffinityKey, entry: &AffinityEntry);

    fn bytes(address: Self::Address) -> Self::Bytes;

    fn address(bytes: Self::Bytes) -> Self::Address;

    #[inline(always)]
    fn is_same(a: Self::Bytes, b: Self::Bytes) -> bool {
        same(Self::mapped(Self::address(a)), Self::mapped(Self::address(b)))
    }

    /// The address out of one that serves both families.
    fn of_mapped(bytes: [u8; 16]) -> Self::Address;

    /// Makes a packet the answer that refuses it.
    fn answer(ctx: &TcContext, packet: &Packet<Self::Address>) -> bool;

    /// The question for the way between two ends.
    fn route(ends: &Ends<Self::Address>) -> bpf_fib_lookup;

    // The stages of a packet's way, see `stage`.
    fn look_up(skb: *mut __sk_buff, place: Place) -> Step;
    fn ask(skb: *mut __sk_buff, place: Place);
    fn choose() -> Step;
    fn begin(known: u32) -> Step;
    fn carry_on(slot: u32, place: Place) -> Step;
    fn masquerade(skb: *mut __sk_buff, slot: u32) -> Step;
    fn translate(skb: *mut __sk_buff) -> Step;
    fn redirect(skb: *mut __sk_buff) -> Option<i32>;
    fn pass_on(skb: *mut __sk_buff) -> Option<i32>;
    fn reject(skb: *mut __sk_buff, client: ClientAt) -> Option<i32>;

    /// What a change of address adds to a checksum.
    fn difference(old: Self::Address, new: Self::Address) -> u64;

    /// Writes both addresses into a packet whose IP header is at an offset.
    fn store_addresses(ctx: &TcContext, network: usize, ends: &Ends<Self::Address>) -> Result<(), i64>;

    /// Whether a set of source ranges lists an address.
    fn admits(set: u32, address: Self::Address) -> bool;

    /// What becomes of packets to an address where no frontend claims them.
    fn unclaimed(address: Self::Address) -> Option<Unclaimed>;

    /// The record of a flow.
    fn flow(slot: u32) -> Option<*mut Flow<Self::Bytes>>;

    /// What the ends of a packet lead to.
    fn flow_ref(tuple: &Tuple<Self::Bytes>) -> Option<FlowRef>;

    fn insert_flow_ref(tuple: &Tuple<Self::Bytes>, reference: &FlowRef, replace: bool) -> Result<(), i32>;

    fn remove_flow_ref(tuple: &Tuple<Self::Bytes>);

    /// The address that stands for others on what leaves a device.
    fn masquerade_address(device: u32) -> Option<Self::Address>;

    /// Whether a socket of the node would get what a flow's backend sends to its masquerade address.
    fn has_socket(ctx: *mut c_void, record: *mut Flow<Self::Bytes>) -> bool;
}

/// A backend that was alive when it was read.
#[derive(Clone, Copy)]
pub struct Backend<A> {
    pub address: A,
    pub port: [u8; 2],
    pub flags: BackendFlags,
    pub service: u32,
}

pub struct V4;
pub struct V6;

/// What both families do alike, each with its own maps.
macro_rules! alike {
    ($tables:ident, $admits:expr, $unclaimed:expr, $masquerade:expr, $socket:expr) => {
        #[inline(always)]
        fn frontend(address: Self::Address, port: [u8; 2], protocol: u8) -> Option<u32> {
            frontend::$tables(address, port, protocol)
        }

        #[inline(always)]
        fn backend(reference: BackendRef) -> Option<Backend<Self::Address>> {
            backend::$tables(reference)
        }

        #[inline(always)]
        fn node_address(address: Self::Address) -> Option<NodeAddressFlags> {
            node::$tables(address)
        }

        #[inline(always)]
        fn affinity(key: &AffinityKey) -> Option<AffinityEntry> {
            affinity::$tables::get(key)
        }

        #[inline(always)]
        fn remembered(key: &AffinityKey, seconds: u32, offered: BackendFlags) -> u64 {
            affinity::$tables::remembered(key, seconds, offered)
        }

        #[inline(always)]
        fn set_affinity(key: &AffinityKey, entry: &AffinityEntry) {
            affinity::$tables::set(key, entry);
        }

        #[inline(always)]
        fn admits(set: u32, address: Self::Address) -> bool {
            $admits(set, address)
        }

        #[inline(always)]
        fn unclaimed(address: Self::Address) -> Option<Unclaimed> {
            $unclaimed(address)
        }

        #[inline(always)]
        fn flow(slot: u32) -> Option<*mut Flow<Self::Bytes>> {
            conntrack::$tables::flow(slot)
        }

        #[inline(always)]
        fn flow_ref(tuple: &Tuple<Self::Bytes>) -> Option<FlowRef> {
            conntrack::$tables::flow_ref(tuple)
        }

        #[inline(always)]
        fn insert_flow_ref(
            tuple: &Tuple<Self::Bytes>,
            reference: &FlowRef,
            replace: bool,
        ) -> Result<(), i32> {
            conntrack::$tables::insert(tuple, reference, replace)
        }

        #[inline(always)]
        fn remove_flow_ref(tuple: &Tuple<Self::Bytes>) {
            conntrack::$tables::remove(tuple);
        }

        #[inline(always)]
        fn masquerade_address(device: u32) -> Option<Self::Address> {
            $masquerade(device)
        }

        #[inline(always)]
        fn has_socket(ctx: *mut c_void, record: *mut Flow<Self::Bytes>) -> bool {
            // SAFETY: `record` points into an array map, whose memory lives as long as the program.
            let flow = unsafe { &*record };
            let pair = socket::Pair {
                far: Self::address(flow.backend),
                near: Self::address(flow.masquerade),
                far_port: flow.backend_port,
                near_port: flow.masquerade_port,
            };
            $socket(ctx, flow.protocol, &pair)
        }
    };
}

macro_rules! stages {
    ($look_up:ident, $ask:ident, $choose:ident, $begin:ident, $carry_on:ident, $masquerade:ident, $translate:ident, $redirect:ident, $pass_on:ident,
     $reject:ident) => {
        #[inline(always)]
        fn look_up(skb: *mut __sk_buff, place: Place) -> Step {
            Step(stage::$look_up(skb, place.0))
        }

        #[inline(always)]
        fn ask(skb: *mut __sk_buff, place: Place) {
            stage::$ask(skb, place.0);
        }

        #[inline(always)]
        fn choose() -> Step {
            Step(stage::$choose())
        }

        #[inline(always)]
        fn begin(known: u32) -> Step {
            Step(stage::$begin(known))
        }

        #[inline(always)]
        fn carry_on(slot: u32, place: Place) -> Step {
            Step(stage::$carry_on(slot, place.0))
        }

        #[inline(always)]
        fn masquerade(skb: *mut __sk_buff, slot: u32) -> Step {
            Step(stage::$masquerade(skb, slot))
        }

        #[inline(always)]
        fn translate(skb: *mut __sk_buff) -> Step {
            Step(stage::$translate(skb))
        }

        #[inline(always)]
        fn redirect(skb: *mut __sk_buff) -> Option<i32> {
            Some(stage::$redirect(skb)).filter(|code| *code >= 0)
        }

        #[inline(always)]
        fn pass_on(skb: *mut __sk_buff) -> Option<i32> {
            Some(stage::$pass_on(skb)).filter(|code| *code >= 0)
        }

        #[inline(always)]
        fn reject(skb: *mut __sk_buff, client: ClientAt) -> Option<i32> {
            Some(stage::$reject(skb, (client == ClientAt::OnNode).into())).filter(|code| *code >= 0)
        }
    };
}

impl Family for V4 {
    type Address = u32;
    type Bytes = [u8; 4];

    const UNSPECIFIED: u32 = 0;
    const PODS_ARE_EXTERNAL: ConfigFlags = ConfigFlags::PODS_ARE_EXTERNAL_V4;
    const POD_RANGE: u32 = 0;
    const NETWORK_CHECKSUM: Option<usize> = Some(IPV4_CHECKSUM);
    const HOPS: usize = IPV4_HOPS;
    const ICMP: u8 = 1;

    /// Destination unreachable, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    alike!(v4, network::admits_v4, network::unclaimed_v4, masquerade::address_v4, socket::exists_v4);

    #[inline(always)]
    fn mapped(address: u32) -> Words {
        mapped(address)
    }

    #[inline(always)]
    fn effective(address: u32) -> u32 {
        if address == Self::UNSPECIFIED { LOOPBACK_V4 } else { address }
    }

    #[inline(always)]
    fn bytes(address: u32) -> [u8; 4] {
        address.to_ne_bytes()
    }

    #[inline(always)]
    fn address(bytes: [u8; 4]) -> u32 {
        u32::from_ne_bytes(bytes)
    }

    #[inline(always)]
    fn of_mapped(address: [u8; 16]) -> u32 {
        let [.., v4] = words(address);
        v4
    }

    #[inline(always)]
    fn answer(ctx: &TcContext, packet: &Packet<u32>) -> bool {
        reject::answer_v4(ctx, packet)
    }

    #[inline(always)]
    fn route(ends: &Ends<u32>) -> bpf_fib_lookup {
        let mut route = route::route(AF_INET);
        route.__bindgen_anon_3.ipv4_src = ends.source;
        route.__bindgen_anon_4.ipv4_dst = ends.destination;
        route
    }

    stages!(
        look_up_v4,
        ask_v4,
        choose_v4,
        begin_v4,
        carry_on_v4,
        masquerade_v4,
        translate_v4,
        redirect_v4,
        pass_on_v4,
        reject_v4
    );

    #[inline(always)]
    fn difference(old: u32, new: u32) -> u64 {
        difference(old, new)
    }

    #[inline(always)]
    fn store_addresses(ctx: &TcContext, network: usize, ends: &Ends<u32>) -> Result<(), i64> {
        ctx.store(network + IPV4_ADDRESSES, &[ends.source, ends.destination], 0)
    }
}

impl Family for V6 {
    type Address = Words;
    type Bytes = [u8; 16];

    const UNSPECIFIED: Words = [0; 4];
    const PODS_ARE_EXTERNAL: ConfigFlags = ConfigFlags::PODS_ARE_EXTERNAL_V6;
    const POD_RANGE: u32 = 1;
    const NETWORK_CHECKSUM: Option<usize> = None;
    const HOPS: usize = IPV6_HOPS;
    const ICMP: u8 = 58;

    /// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443, 2.1).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    alike!(
        v6,
        |set, address| network::admits_v6(set, &address),
        |address| network::unclaimed_v6(&address),
        masquerade::address_v6,
        socket::exists_v6
    );

    #[inline(always)]
    fn mapped(address: Words) -> Words {
        address
    }

    #[inline(always)]
    fn effective(address: Words) -> Words {
        if same(address, Self::UNSPECIFIED) { LOOPBACK_V6 } else { address }
    }

    #[inline(always)]
    fn bytes(address: Words) -> [u8; 16] {
        bytes(address)
    }

    #[inline(always)]
    fn address(bytes: [u8; 16]) -> Words {
        words(bytes)
    }

    #[inline(always)]
    fn of_mapped(address: [u8; 16]) -> Words {
        words(address)
    }

    #[inline(always)]
    fn answer(ctx: &TcContext, packet: &Packet<Words>) -> bool {
        reject::answer_v6(ctx, packet)
    }

    #[inline(always)]
    fn route(ends: &Ends<Words>) -> bpf_fib_lookup {
        let mut route = route::route(AF_INET6);
        route.__bindgen_anon_3.ipv6_src = ends.source;
        route.__bindgen_anon_4.ipv6_dst = ends.destination;
        route
    }

    stages!(
        look_up_v6,
        ask_v6,
        choose_v6,
        begin_v6,
        carry_on_v6,
        masquerade_v6,
        translate_v6,
        redirect_v6,
        pass_on_v6,
        reject_v6
    );

    #[inline(always)]
    fn difference([a, b, c, d]: Words, [e, f, g, h]: Words) -> u64 {
        difference(a, e) + difference(b, f) + difference(c, g) + difference(d, h)
    }

    #[inline(always)]
    fn store_addresses(ctx: &TcContext, network: usize, ends: &Ends<Words>) -> Result<(), i64> {
        ctx.store(network + IPV6_ADDRESSES, &[ends.source, ends.destination], 0)
    }
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
pub const LOOPBACK_V4: u32 = u32::from_be(0x7f00_0001);
const LOOPBACK_V6: Words = [0, 0, 0, u32::from_be(1)];
const MAPPED_PREFIX: u32 = u32::from_be(0xffff);

/// An IPv4 address as an IPv4-mapped one.
#[inline(always)]
pub fn mapped(address: u32) -> Words {
    [0, 0, MAPPED_PREFIX, address]
}

/// The IPv4 address in an IPv4-mapped one.
#[inline(always)]
pub fn unmapped(words: Words) -> Option<u32> {
    let [a, b, c, address] = words;
    (a | b | (c ^ MAPPED_PREFIX) == 0).then_some(address)
}

/// Whether two addresses are the same, in one branch: the verifier follows each.
#[inline(always)]
pub fn same([a, b, c, d]: Words, [e, f, g, h]: Words) -> bool {
    (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
}

/// The address as maps hold it.
#[inline(always)]
pub fn bytes(words: Words) -> [u8; 16] {
    // SAFETY: both are 16 bytes without padding, of which every pattern is valid.
    unsafe { transmute(words) }
}

/// An address out of a map.
#[inline(always)]
pub fn words(bytes: [u8; 16]) -> Words {
    // SAFETY: as in `bytes`; a transmutation copies, so alignment does not matter.
    unsafe { transmute(bytes) }
}

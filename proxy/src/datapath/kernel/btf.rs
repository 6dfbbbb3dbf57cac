//! The offsets of fields in a type of the kernel, from its own description (BTF, `Documentation/bpf/btf.rst`).
//!
//! Few fields are wanted, so the description is scanned for each, and no type is kept: as objects they take ten times its 5 MB.

use std::{fs, io, iter, path::Path};

use aya::{Btf, Endianness};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const FORWARD: u32 = 7;
const FUNCTION: u32 = 12;

/// Offsets in `struct sock` and `struct tcp_sock`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFields {
    /// `sk_err`, the error with which a connection ends.
    pub error: u32,
    /// The length of `sk_error_queue`; 0 if it is unknown.
    pub error_queue: u32,
    /// `bytes_acked`, `bytes_received` and `total_retrans`; `None` if one is unknown.
    pub tcp_totals: Option<[u32; 3]>,
    /// `rcv_nxt`, `snd_nxt` and `skc_v6_rcv_saddr`; `None` if one is unknown.
    pub tcp_position: Option<[u32; 3]>,
}

impl SocketFields {
    /// Those of this kernel. Errors: it has no BTF, or another `struct sock`.
    pub fn read() -> io::Result<Self> {
        let btf = fs::read(Path::new(VMLINUX))?;
        let error = field_offset(&btf, "sock", "sk_err").ok_or_else(|| {
            let problem = format!("{VMLINUX} has no field sk_err of struct sock");
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        let queue = field_offset(&btf, "sock", "sk_error_queue");
        let length = field_offset(&btf, "sk_buff_head", "qlen");
        let tcp = |field| field_offset(&btf, "tcp_sock", field);
        let totals = (tcp("bytes_acked"), tcp("bytes_received"), tcp("total_retrans"));
        Ok(Self {
            error,
            error_queue: queue.zip(length).map_or(0, |(queue, length)| queue + length),
            tcp_totals: if let (Some(acked), Some(received), Some(retransmissions)) = totals {
                Some([acked, received, retransmissions])
            } else {
                None
            },
            tcp_position: position(&btf),
        })
    }
}

/// `None` also if `struct sock_common` does not begin as programs expect: the 16 bytes of both ends, then the family.
fn position(btf: &[u8]) -> Option<[u32; 3]> {
    const FAMILY: u32 = 16;
    let common = |field| field_offset(btf, "sock_common", field);
    let tcp = |field| field_offset(btf, "tcp_sock", field);
    (common("skc_family")? == FAMILY).then_some(())?;
    Some([tcp("rcv_nxt")?, tcp("snd_nxt")?, common("skc_v6_rcv_saddr")?])
}

/// The kernel's number of the function by which iterators of a kind are attached, as the `Btf` that aya reads it from. The whole
/// description takes ten times its size as objects: this one has the function at its number, and declarations of nothing before it.
pub fn iterator_btf(kind: &str) -> io::Result<Btf> {
    let name = format!("bpf_iter_{kind}");
    let id = function_number(&fs::read(Path::new(VMLINUX))?, &name).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{VMLINUX} has no function {name}"))
    })?;
    Btf::parse(&only_function(&name, id), Endianness::default()).map_err(io::Error::other)
}

fn only_function(name: &str, id: u32) -> Vec<u8> {
    let names = format!("\0{name}\0");
    // A name, kind and members, and the type of a function or of nothing.
    let declaration = [0, FORWARD << 24, 0].map(u32::to_ne_bytes).concat();
    let mut types = declaration.repeat(id.saturating_sub(1) as usize);
    types.extend([1, FUNCTION << 24, 0].map(u32::to_ne_bytes).concat());
    let length = types.len() as u32;
    let mut btf = MAGIC.to_ne_bytes().to_vec();
    // Version and flags, then the length of the header and the two sections.
    btf.extend([1, 0]);
    btf.extend([24, 0, length, length, names.len() as u32].map(u32::to_ne_bytes).concat());
    btf.extend(types);
    btf.extend(names.bytes());
    btf
}

/// The offset of a field that begins at a byte. `None`: it is not there, or the description is not understood.
fn field_offset(btf: &[u8], structure: &str, field: &str) -> Option<u32> {
    let sections = Sections::of(btf)?;
    let mut structures =
        sections.types().filter(|of| of.kind == STRUCT && sections.is_named(of.name, structure));
    structures.find_map(|of| {
        // With the flag, the upper bits are the size of a bit field.
        let bits = if of.has_flag { 0x00ff_ffff } else { u32::MAX };
        let mut members = (0..of.members).map(|member| of.at + 12 + 12 * member);
        let member = members
            .find(|at| word(sections.types, *at).is_some_and(|name| sections.is_named(name, field)))?;
        let offset = word(sections.types, member + 8)? & bits;
        offset.is_multiple_of(8).then_some(offset / 8)
    })
}

/// The number of a function.
fn function_number(btf: &[u8], function: &str) -> Option<u32> {
    let sections = Sections::of(btf)?;
    let mut numbered = sections.types().zip(1..);
    numbered.find_map(|(of, number)| {
        (of.kind == FUNCTION && sections.is_named(of.name, function)).then_some(number)
    })
}

/// The two sections of a description.
#[derive(Clone, Copy)]
struct Sections<'a> {
    types: &'a [u8],
    names: &'a [u8],
}

/// The head of a `struct btf_type`.
struct Type {
    /// Its first byte in the section.
    at: usize,
    /// The offset of its name.
    name: u32,
    kind: u32,
    members: usize,
    has_flag: bool,
}

impl<'a> Sections<'a> {
    fn of(btf: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*btf.first_chunk()?) != MAGIC {
            return None;
        }
        // `struct btf_header`: magic, version, flags, then the length of the header, and two sections behind it.
        let [header, types_at, types_length, names_at, names_length] =
            [4, 8, 12, 16, 20].map(|at| word(btf, at).map(|word| word as usize));
        let section = |at: usize, length: usize| {
            let start = header?.checked_add(at)?;
            btf.get(start..start.checked_add(length)?)
        };
        Some(Self { types: section(types_at?, types_length?)?, names: section(names_at?, names_length?)? })
    }

    /// The types in the order of their numbers, which begin at 1, up to one that is not understood.
    fn types(self) -> impl Iterator<Item = Type> {
        let mut next = Some(0);
        iter::from_fn(move || {
            let at = next.take()?;
            let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            next = following(kind, members).map(|bytes| at + 12 + bytes);
            Some(Type { at, name, kind, members, has_flag: info >> 31 != 0 })
        })
    }

    fn is_named(self, name: u32, want: &str) -> bool {
        let name = self.names.get(name as usize..).unwrap_or_default();
        name.strip_prefix(want.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// The bytes that follow a type of this kind with so many members. `None`: a kind that is newer than this.
fn following(kind: u32, members: usize) -> Option<usize> {
    match kind {
        // Integers, variables, declaration tags.
        1 | 14 | 17 => Some(4),
        // Arrays.
        3 => Some(12),
        // Structures, unions, sections, enumerations of 64 bits.
        4 | 5 | 15 | 19 => Some(12 * members),
        // Enumerations, parameters of functions.
        6 | 13 => Some(8 * members),
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => Some(0),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer, a structure of another name, and `struct sock` with a bit field before the error.
    fn description(kind_flag: u32) -> Vec<u8> {
        let names = b"\0int\0other\0sock\0bits\0sk_err\0";
        let name = |of: &[u8]| names.windows(of.len()).position(|at| at == of).unwrap() as u32;
        let structure = |members: u32| STRUCT << 24 | members | kind_flag << 31;
        let types: Vec<u32> = [
            &[name(b"int\0"), 1 << 24, 4, 32][..],
            &[name(b"other\0"), structure(1), 4, name(b"sk_err\0"), 1, 0],
            &[name(b"sock\0"), structure(2), 16, name(b"bits\0"), 1, 3 << (24 * kind_flag)],
            &[name(b"sk_err\0"), 1, 96],
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut btf = MAGIC.to_ne_bytes().to_vec();
        btf.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, names.len() as u32] {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(types);
        btf.extend(names);
        btf
    }

    #[test]
    fn a_field_is_found_in_the_structure_of_that_name() {
        for kind_flag in [0, 1] {
            let btf = description(kind_flag);
            assert_eq!(field_offset(&btf, "sock", "sk_err"), Some(12), "flag {kind_flag}");
            assert_eq!(field_offset(&btf, "other", "sk_err"), Some(0));
            assert_eq!(field_offset(&btf, "sock", "sk_er"), None);
            assert_eq!(field_offset(&btf, "soc", "sk_err"), None);
        }
    }

    #[test]
    fn a_function_has_the_number_of_its_place() {
        let btf = only_function("bpf_iter_task", 70_000);
        assert_eq!(function_number(&btf, "bpf_iter_task"), Some(70_000));
        assert_eq!(function_number(&btf, "bpf_iter_tas"), None);
        assert!(Btf::parse(&btf, Endianness::default()).is_ok());
    }

    #[test]
    fn a_description_that_ends_early_or_is_none_has_no_field() {
        let btf = description(0);
        for length in 0..btf.len() {
            // The names are the last part, and "sk_err" with its end the last of them.
            assert_eq!(field_offset(&btf[..length], "sock", "sk_err"), None, "{length} bytes");
        }
        let mut other = btf;
        other[0] ^= 1;
        assert_eq!(field_offset(&other, "sock", "sk_err"), None);
    }
}

//! The offsets of fields in a type of the kernel, from its own description (BTF, `Documentation/bpf/btf.rst`).
//!
//! Few fields are wanted, so the description is scanned for each, and no type is kept: as objects they take ten times its 5 MB.

use std::{fs, io, path::Path};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;

/// Offsets in `struct sock`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFields {
    /// `sk_err`, the error with which a connection ends.
    pub error: u32,
    /// The length of `sk_error_queue`; 0 if it is unknown.
    pub error_queue: u32,
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
        Ok(Self { error, error_queue: queue.zip(length).map_or(0, |(queue, length)| queue + length) })
    }
}

/// The offset of a field that begins at a byte. `None`: it is not there, or the description is not understood.
fn field_offset(btf: &[u8], structure: &str, field: &str) -> Option<u32> {
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
    let (types, names) = (section(types_at?, types_length?)?, section(names_at?, names_length?)?);
    let is_named = |name: u32, want: &str| {
        let name = names.get(name as usize..).unwrap_or_default();
        name.strip_prefix(want.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    };
    let mut at = 0;
    // `struct btf_type`: name, then the number of members, kind and a flag, then a size or another type.
    while let (Some(name), Some(info)) = (word(types, at), word(types, at + 4)) {
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == STRUCT && is_named(name, structure) {
            // With the flag, the upper bits are the size of a bit field.
            let bits = if info >> 31 == 0 { u32::MAX } else { 0x00ff_ffff };
            let mut members = (0..members).map(|member| at + 12 + 12 * member);
            let found = members.find(|member| word(types, *member).is_some_and(|name| is_named(name, field)));
            if let Some(offset) = found.and_then(|member| word(types, member + 8)) {
                let offset = offset & bits;
                return offset.is_multiple_of(8).then_some(offset / 8);
            }
        }
        at += 12 + following(kind, members)?;
    }
    None
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

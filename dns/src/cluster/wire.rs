//! The wire format of answers, with name compression (RFC 1035, section 4.1.4).

use crate::cluster::{
    answer::{Answer, AnswerData, AnswerRecord, Owner, Soa},
    name::QueryName,
    zone::Dashed,
};

/// The length of a message's header.
pub const HEADER: usize = 12;
pub const IN: u16 = 1;
/// The range of a compression pointer: 14 bits.
const MAX_POINTER: usize = 0x3fff;
const POINTER: u16 = 0xc000;
/// Limit of the suffixes that are remembered for compression. In larger answers nearly all names share the
/// first suffixes.
const MAX_SUFFIXES: usize = 256;
const MAX_NAME: usize = 255;

pub struct Writer<'q> {
    out: Vec<u8>,
    /// The limit of octets.
    room: usize,
    question: &'q QueryName,
    /// The suffixes that were written: their hash, and their offset.
    suffixes: Vec<(u32, u16)>,
}

/// The number of records per section.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sections {
    pub answers: u16,
    pub authorities: u16,
    pub additionals: u16,
    pub is_truncated: bool,
}

impl<'q> Writer<'q> {
    /// Starts with a zeroed header and the question.
    pub fn new(question: &[u8], name: &'q QueryName, room: usize) -> Self {
        let mut out = Vec::with_capacity(512);
        out.resize(HEADER, 0);
        out.extend_from_slice(question);
        let mut writer = Self { out, room, question: name, suffixes: Vec::with_capacity(16) };
        let mut hash = Hash::default();
        for n in (0..name.label_count()).rev() {
            hash = hash.below(name.label(n));
            let offset = HEADER + name.octets().len() - name.below(n).len();
            writer.remember(hash, offset);
        }
        writer
    }

    pub fn into_octets(self) -> Vec<u8> {
        self.out
    }

    /// Writes the sections. The additional section is written whole or not at all; if the answers do not fit,
    /// as many as fit are written. Returns `None` if a name is too long.
    pub fn sections(
        &mut self,
        answer: &Answer<'_>,
        soa: Option<AnswerRecord<'_>>,
        minimal: bool,
    ) -> Option<Sections> {
        let mut sections = Sections::default();
        for record in &answer.records {
            if !self.fits(record)? {
                return Some(Sections { is_truncated: true, ..sections });
            }
            sections.answers += 1;
        }
        if let Some(soa) = soa {
            if !self.fits(&soa)? {
                return Some(Sections { is_truncated: true, ..sections });
            }
            sections.authorities = 1;
        }
        let before = self.out.len();
        for record in answer.additional.iter().filter(|_| !minimal) {
            if !self.fits(record)? {
                self.out.truncate(before);
                sections.additionals = 0;
                break;
            }
            sections.additionals += 1;
        }
        Some(Sections { is_truncated: answer.is_cut, ..sections })
    }

    /// Writes a record, or nothing if it does not fit.
    fn fits(&mut self, record: &AnswerRecord<'_>) -> Option<bool> {
        let before = (self.out.len(), self.suffixes.len());
        self.record(record)?;
        let fits = self.out.len() <= self.room;
        if !fits {
            self.out.truncate(before.0);
            self.suffixes.truncate(before.1);
        }
        Some(fits)
    }

    fn record(&mut self, record: &AnswerRecord<'_>) -> Option<()> {
        self.name(record.owner)?;
        self.number(type_number(&record.data));
        self.number(IN);
        self.out.extend_from_slice(&record.ttl.to_be_bytes());
        let len = self.out.len();
        self.number(0);
        self.data(&record.data)?;
        let written = u16::try_from(self.out.len() - len - 2).ok()?;
        self.out[len..len + 2].copy_from_slice(&written.to_be_bytes());
        Some(())
    }

    fn data(&mut self, data: &AnswerData<'_>) -> Option<()> {
        match data {
            AnswerData::A(address) => self.out.extend_from_slice(&address.octets()),
            AnswerData::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            AnswerData::Srv { weight, port, target } => {
                [0, *weight, *port].into_iter().for_each(|field| self.number(field));
                self.name(*target)?;
            }
            AnswerData::Ptr(target) | AnswerData::Ns(target) => self.name(*target)?,
            AnswerData::Cname(target) => self.name(Owner::Whole(target))?,
            AnswerData::Txt(text) => self.text(text)?,
            AnswerData::Soa(soa) => self.soa(*soa)?,
            AnswerData::HostInfo => {
                self.text("RFC8482")?;
                self.text("")?;
            }
        }
        Some(())
    }

    fn soa(&mut self, Soa { zone, serial, minimum }: Soa<'_>) -> Option<()> {
        self.name(Owner::NameServer(zone))?;
        self.labels([b"hostmaster".as_slice()].into_iter().chain(zone.labels()))?;
        let [refresh, retry, expire] = Soa::TIMERS;
        for field in [serial, refresh, retry, expire, minimum] {
            self.out.extend_from_slice(&field.to_be_bytes());
        }
        Some(())
    }

    fn number(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, text: &str) -> Option<()> {
        self.out.push(u8::try_from(text.len()).ok()?);
        self.out.extend_from_slice(text.as_bytes());
        Some(())
    }

    fn name(&mut self, owner: Owner<'_>) -> Option<()> {
        match owner {
            Owner::Question if self.question.label_count() == 0 => self.out.push(0),
            Owner::Question => self.number(POINTER | HEADER as u16),
            Owner::Whole(_) | Owner::NameServer(_) | Owner::Service { .. } => {
                self.labels(owner.labels(&mut Dashed::default()))?;
            }
        }
        Some(())
    }

    /// Writes a name up to the first suffix that is in the message already.
    fn labels<'n>(&mut self, labels: impl Iterator<Item = &'n [u8]>) -> Option<()> {
        let mut all: [&[u8]; MAX_NAME / 2 + 1] = [&[]; MAX_NAME / 2 + 1];
        let (mut count, mut len) = (0, 1);
        for label in labels {
            *all.get_mut(count)? = label;
            (count, len) = (count + 1, len + 1 + label.len());
        }
        let all = all.get(..count).filter(|_| len <= MAX_NAME)?;
        let mut hashes = [Hash::default(); MAX_NAME / 2 + 2];
        for n in (0..count).rev() {
            hashes[n] = hashes[n + 1].below(all[n]);
        }
        for (n, label) in all.iter().enumerate() {
            if let Some(offset) = self.offset_of(hashes[n], &all[n..]) {
                self.number(POINTER | offset);
                return Some(());
            }
            self.remember(hashes[n], self.out.len());
            self.out.push(u8::try_from(label.len()).ok()?);
            self.out.extend_from_slice(label);
        }
        self.out.push(0);
        Some(())
    }

    fn offset_of(&self, hash: Hash, labels: &[&[u8]]) -> Option<u16> {
        let mut offsets = self.suffixes.iter().filter(|(known, _)| *known == hash.0);
        // Clients choose the question, so equal hashes prove nothing.
        offsets.find(|(_, offset)| self.is_at(usize::from(*offset), labels)).map(|(_, offset)| *offset)
    }

    /// Whether the name at an offset consists of exactly these labels.
    fn is_at(&self, mut at: usize, labels: &[&[u8]]) -> bool {
        for label in labels {
            at = self.led(at);
            let end = at + 1 + label.len();
            let stands = self.out.get(at).is_some_and(|len| usize::from(*len) == label.len())
                && self.out.get(at + 1..end).is_some_and(|there| there.eq_ignore_ascii_case(label));
            if !stands {
                return false;
            }
            at = end;
        }
        self.out.get(self.led(at)) == Some(&0)
    }

    /// The offset of the label at `at`, after pointers, which lead to labels.
    fn led(&self, at: usize) -> usize {
        match self.out.get(at..at + 2) {
            Some([high, low]) if *high >= 0xc0 => usize::from(u16::from_be_bytes([*high & 0x3f, *low])),
            Some(_) | None => at,
        }
    }

    fn remember(&mut self, Hash(hash): Hash, offset: usize) {
        if offset <= MAX_POINTER && self.suffixes.len() < MAX_SUFFIXES {
            self.suffixes.push((hash, offset as u16));
        }
    }
}

/// The hash of a name, case-insensitive, from the last label to the first (FNV-1a).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hash(u32);

impl Default for Hash {
    /// The hash of the root.
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Hash {
    fn below(self, label: &[u8]) -> Self {
        let step = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
        let hash = label.iter().fold(self.0, |hash, octet| step(hash, octet.to_ascii_lowercase()));
        // A label has at most 63 octets.
        Self(step(hash, label.len() as u8))
    }
}

fn type_number(data: &AnswerData<'_>) -> u16 {
    match data {
        AnswerData::A(_) => 1,
        AnswerData::Ns(_) => 2,
        AnswerData::Cname(_) => 5,
        AnswerData::Soa(_) => 6,
        AnswerData::Ptr(_) => 12,
        AnswerData::HostInfo => 13,
        AnswerData::Txt(_) => 16,
        AnswerData::Aaaa(_) => 28,
        AnswerData::Srv { .. } => 33,
    }
}

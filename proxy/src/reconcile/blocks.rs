//! Blocks of slots. Frontends of a service port whose views are equal share one: a port with many addresses needs no
//! more slots than one with a single address, and an update writes them once.
//!
//! A block is found by its content and never edited. Its slots are free a grace period after the last descriptor that
//! referenced it was retired.

use std::{
    collections::{
        HashMap,
        hash_map::{DefaultHasher, Entry},
    },
    hash::{Hash as _, Hasher as _},
};

use proxy_ebpf::abi::{BackendRef, Block, Descriptor};

use super::{
    encode,
    ids::Runs,
    maps::{Fill, LbMaps, MapError},
    retired::Retired,
};
use crate::model::address::IpFamily;

#[derive(Debug)]
pub struct Blocks {
    runs: Runs,
    /// The referenced blocks, by offset.
    used: HashMap<u32, UsedBlock>,
    /// Offsets by the hash of the content.
    by_content: HashMap<u64, u32>,
    /// The slots of all referenced blocks.
    referenced: u32,
}

#[derive(Debug)]
struct UsedBlock {
    length: u32,
    /// Number of written descriptors that reference it.
    users: u32,
    hash: u64,
}

impl Blocks {
    /// All slots are free except the runs (offset, length) in `used`, whose users follow.
    pub fn new(capacity: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let runs = Runs::new(capacity, used);
        Self { runs, used: HashMap::new(), by_content: HashMap::new(), referenced: 0 }
    }

    /// Counts a descriptor that an earlier agent published.
    pub fn adopt(&mut self, maps: &impl LbMaps, descriptor: &Descriptor) -> Result<(), MapError> {
        for (offset, count) in owned_runs(descriptor) {
            if let Some(block) = self.used.get_mut(&offset) {
                block.users += 1;
                // They are equal, unless the map is corrupt.
                self.referenced += count.saturating_sub(block.length);
                block.length = block.length.max(count);
                continue;
            }
            let content = maps.slots(Block { offset, count, local: 0 })?;
            self.insert(offset, content_hash(encode::family_of(descriptor), &content), count);
        }
        Ok(())
    }

    /// The blocks of both views of a descriptor whose offsets are not allocated yet. An external view that is a
    /// prefix of the internal one, as is the local set of the same backends, shares its slots.
    pub fn ensure_both(
        &mut self,
        maps: &mut impl LbMaps,
        descriptor: &Descriptor,
        (inside, outside): (&[BackendRef], &[BackendRef]),
    ) -> Result<(Block, Block), MapError> {
        let family = encode::family_of(descriptor);
        let internal = self.ensure(maps, family, inside, descriptor.internal)?;
        if inside.starts_with(outside) {
            return Ok((internal, Block { offset: internal.offset, ..descriptor.external }));
        }
        match self.ensure(maps, family, outside, descriptor.external) {
            Ok(external) => Ok((internal, external)),
            Err(error) => {
                if !inside.is_empty() {
                    self.abandon_run(internal.offset);
                }
                Err(error)
            }
        }
    }

    /// A block with this content for one more descriptor: one in use, else a new one, written now. The offset of
    /// `block` is not allocated yet.
    fn ensure(
        &mut self,
        maps: &mut impl LbMaps,
        family: IpFamily,
        content: &[BackendRef],
        block: Block,
    ) -> Result<Block, MapError> {
        if content.is_empty() {
            return Ok(block);
        }
        let hash = content_hash(family, content);
        if let Some(offset) = self.find(maps, hash, content)? {
            return Ok(Block { offset, ..block });
        }
        let full = MapError::Full { map: "SLOTS", capacity: self.runs.capacity() };
        let offset = self.runs.allocate(block.count).ok_or(full)?;
        maps.write_slots(offset, content).inspect_err(|_| self.runs.free(offset, block.count))?;
        self.insert(offset, hash, block.count);
        Ok(Block { offset, ..block })
    }

    /// Finds a block in use, and counts one more user.
    fn find(
        &mut self,
        maps: &impl LbMaps,
        hash: u64,
        content: &[BackendRef],
    ) -> Result<Option<u32>, MapError> {
        let Some(offset) = self.by_content.get(&hash).copied() else { return Ok(None) };
        let Some(block) = self.used.get_mut(&offset) else { return Ok(None) };
        let whole = Block { offset, count: block.length, local: 0 };
        if maps.slots(whole)? != content {
            return Ok(None);
        }
        block.users += 1;
        Ok(Some(offset))
    }

    fn insert(&mut self, offset: u32, hash: u64, length: u32) {
        self.referenced += length;
        self.used.insert(offset, UsedBlock { length, users: 1, hash });
        self.by_content.insert(hash, offset);
    }

    /// The slots that lose their last user with a descriptor that is no longer published.
    pub fn release(&mut self, descriptor: &Descriptor) -> Vec<Retired> {
        let runs = owned_runs(descriptor);
        let unused = runs.filter_map(|(offset, _)| Some((offset, self.remove_user(offset)?)));
        unused.map(|(offset, length)| Retired::Slots { offset, length }).collect()
    }

    /// Frees the slots that have no other user, for a descriptor that was never published.
    pub fn abandon(&mut self, descriptor: &Descriptor) {
        for (offset, _) in owned_runs(descriptor) {
            self.abandon_run(offset);
        }
    }

    fn abandon_run(&mut self, offset: u32) {
        if let Some(length) = self.remove_user(offset) {
            self.runs.free(offset, length);
        }
    }

    /// Removes a user. Returns the length of the block if that was the last one: it is not found any more.
    fn remove_user(&mut self, offset: u32) -> Option<u32> {
        let Entry::Occupied(mut block) = self.used.entry(offset) else { return None };
        if block.get().users > 1 {
            block.get_mut().users -= 1;
            return None;
        }
        let UsedBlock { length, hash, .. } = block.remove();
        self.referenced = self.referenced.saturating_sub(length);
        if self.by_content.get(&hash) == Some(&offset) {
            self.by_content.remove(&hash);
        }
        Some(length)
    }

    /// The slots of all referenced blocks: those in use, but for the ones that wait for a grace period.
    pub fn referenced(&self) -> u32 {
        self.referenced
    }

    /// Frees slots that no program can read any more.
    pub fn free(&mut self, offset: u32, length: u32) {
        self.runs.free(offset, length);
    }

    pub fn fill(&self) -> Fill {
        Fill { map: "SLOTS", used: self.runs.used(), capacity: self.runs.capacity() }
    }
}

/// Equal contents of the families are two blocks, as their indices are of different tables.
fn content_hash(family: IpFamily, content: &[BackendRef]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (family == IpFamily::V6).hash(&mut hasher);
    for BackendRef { index, generation } in content {
        hasher.write_u32(*index);
        hasher.write_u32(*generation);
    }
    hasher.finish()
}

/// The runs of slots of a descriptor: two, or one that its views share.
pub fn owned_runs(descriptor: &Descriptor) -> impl Iterator<Item = (u32, u32)> + use<> {
    let (internal, external) = (descriptor.internal, descriptor.external);
    let is_shared = external.offset == internal.offset;
    let longest = if is_shared { internal.count.max(external.count) } else { internal.count };
    [(internal.offset, longest), (external.offset, if is_shared { 0 } else { external.count })]
        .into_iter()
        .filter(|(_, length)| *length > 0)
}

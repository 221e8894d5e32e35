//! Where entries are kept: packed one after another in chunks by the second in which they end,
//! and found through a hash table of their places.
//!
//! A chunk is given back whole once everything in it has ended, so that memory follows what is
//! alive. The table is in many small parts, since the one that grows must be laid out anew within
//! a moment in which no payment is decided.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::name::{kind_code, kind_code_of, packed_length, Name, Scratch};
use super::RevocationKind;

#[cfg(test)]
mod tests;

const PARTS: usize = 1_024;
/// A place in a chunk is 16 bits.
const CHUNK_BYTES_MAX: usize = 1 << 16;
const MOMENT_LENGTH: usize = 8;
/// A part that holds more than this for each of its entries, of seven bytes, is made smaller.
const SPARSE_BYTES: usize = 7 * 8;
/// What a part may hold in any case: 64 slots.
const PART_BYTES_MIN: usize = 512;
const PARTS_PER_READING: usize = 4;

/// A record's chunk, in two halves so that it needs six bytes and not eight, and its place there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    chunk: [u16; 2],
    at: u16,
}

impl Place {
    fn chunk(self) -> usize {
        usize::from(self.chunk[0]) | usize::from(self.chunk[1]) << 16
    }

    fn at(self) -> usize {
        usize::from(self.at)
    }
}

/// Records that end in one second. A record is a packed name and, of subjects and clients, the Unix second
/// before which tokens are refused, in eight bytes, low first.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    expires_s: i64,
    /// Everything before this place has been removed.
    removed_to: usize,
}

#[derive(Default)]
struct Chunks {
    slots: Vec<Chunk>,
    free: Vec<usize>,
    /// Chunks by the second in which they end; the last of each is the one being filled.
    due: BTreeMap<i64, Vec<usize>>,
}

pub(super) struct Entries {
    parts: Box<[HashTable<Place>]>,
    hasher: DefaultHashBuilder,
    chunks: Chunks,
    /// Entries of each kind.
    counts: [usize; 4],
    /// Where [`Self::shrink_some`] goes on.
    next_part: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| HashTable::new()).collect(),
            hasher: DefaultHashBuilder::default(),
            chunks: Chunks::default(),
            counts: [0; 4],
            next_part: 0,
        }
    }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    pub(super) fn has(&self, kind: RevocationKind) -> bool {
        self.counts[usize::from(kind_code(kind))] > 0
    }

    pub(super) fn hash(&self, name: &Name<'_>) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Whether there is an entry that refuses a token issued in that Unix second.
    pub(super) fn refuses(&self, name: &Name<'_>, hash: u64, issued_s: i64) -> bool {
        self.parts[part_of(hash)]
            .find(hash, |place| self.chunks.has(*place, name))
            .is_some_and(|place| match self.chunks.not_before_s(*place) {
                Some(not_before_s) => issued_s < not_before_s,
                None => true,
            })
    }

    /// Of two entries for one name the later moment and the later end count.
    pub(super) fn insert(&mut self, name: &Name<'_>, not_before_s: i64, expires_s: i64) {
        let Self {
            parts,
            hasher,
            chunks,
            counts,
            ..
        } = self;
        let hash = hasher.hash_one(name);
        let entry = parts[part_of(hash)].entry(
            hash,
            |place| chunks.has(*place, name),
            |place| chunks.hash_at(*place, hasher),
        );
        match entry {
            Entry::Vacant(vacant) => {
                vacant.insert(chunks.push(name, not_before_s, expires_s));
                counts[usize::from(name.kind)] += 1;
            }
            Entry::Occupied(mut occupied) => {
                let place = *occupied.get();
                let known_s = chunks.not_before_s(place).unwrap_or(not_before_s);
                let not_before_s = known_s.max(not_before_s);
                if chunks.slots[place.chunk()].expires_s < expires_s {
                    // The old record stays behind, found by nothing, until its chunk goes.
                    *occupied.get_mut() = chunks.push(name, not_before_s, expires_s);
                } else {
                    chunks.set_not_before(place, not_before_s);
                }
            }
        }
    }

    /// Removes what has ended by `now_s`, `records_max` records at most.
    pub(super) fn remove_due(&mut self, now_s: i64, records_max: usize) {
        for _ in 0..records_max {
            let Some(place) = self.chunks.next_due(now_s) else {
                return;
            };
            self.remove(place);
        }
        // What was emptied by the last record is given back at once.
        self.chunks.free_emptied(now_s);
    }

    fn remove(&mut self, place: Place) {
        let Self {
            parts,
            hasher,
            chunks,
            counts,
            ..
        } = self;
        let hash = chunks.hash_at(place, hasher);
        let part = &mut parts[part_of(hash)];
        // An entry that was moved to a later chunk is not this record's any more.
        if let Ok(found) = part.find_entry(hash, |seen| *seen == place) {
            found.remove();
            counts[usize::from(kind_code_of(chunks.record(place)))] -= 1;
        }
    }

    /// Makes the next few parts smaller where much was removed; comes round to each in time.
    pub(super) fn shrink_some(&mut self) {
        let Self {
            parts,
            hasher,
            chunks,
            next_part,
            ..
        } = self;
        for _ in 0..PARTS_PER_READING {
            let part = &mut parts[*next_part];
            *next_part = (*next_part + 1) % PARTS;
            let held_bytes = part.allocation_size();
            if held_bytes > PART_BYTES_MIN && held_bytes > part.len() * SPARSE_BYTES {
                let size = part.len() * 2;
                part.shrink_to(size, |place| chunks.hash_at(*place, hasher));
            }
        }
    }
}

/// The table itself uses the lowest bits and the seven highest.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

impl Chunks {
    /// A record, and whatever follows it.
    fn record(&self, place: Place) -> &[u8] {
        &self.slots[place.chunk()].bytes[place.at()..]
    }

    fn has(&self, place: Place, name: &Name<'_>) -> bool {
        let mut scratch = Scratch::default();
        Name::unpack(self.record(place), &mut scratch) == *name
    }

    fn hash_at(&self, place: Place, hasher: &DefaultHashBuilder) -> u64 {
        let mut scratch = Scratch::default();
        hasher.hash_one(Name::unpack(self.record(place), &mut scratch))
    }

    /// `None` for kinds that refuse at any moment.
    fn not_before_s(&self, place: Place) -> Option<i64> {
        let record = self.record(place);
        let moment = &record[packed_length(record)..record_length(record)];
        moment.try_into().ok().map(i64::from_le_bytes)
    }

    fn set_not_before(&mut self, place: Place, not_before_s: i64) {
        let record = &mut self.slots[place.chunk()].bytes[place.at()..];
        let (start, end) = (packed_length(record), record_length(record));
        if end > start {
            record[start..end].copy_from_slice(&not_before_s.to_le_bytes());
        }
    }

    fn push(&mut self, name: &Name<'_>, not_before_s: i64, expires_s: i64) -> Place {
        let mut record = name.packed();
        if moment_length(&record) > 0 {
            record.extend_from_slice(&not_before_s.to_le_bytes());
        }
        let length = record.len();
        let Self { slots, free, due } = self;
        let of_second = due.entry(expires_s).or_default();
        let slot = match of_second.last() {
            Some(slot) if slots[*slot].bytes.len() + length <= CHUNK_BYTES_MAX => *slot,
            _ => {
                let slot = free.pop().unwrap_or_else(|| {
                    slots.push(Chunk::default());
                    slots.len() - 1
                });
                slots[slot].expires_s = expires_s;
                of_second.push(slot);
                slot
            }
        };
        let bytes = &mut slots[slot].bytes;
        let at = bytes.len();
        if bytes.capacity() < at + length {
            // Doubled as a vector does by itself, yet never past what a chunk may hold.
            let size = (2 * bytes.capacity()).clamp(at + length, CHUNK_BYTES_MAX);
            bytes.reserve_exact(size - at);
        }
        bytes.extend_from_slice(&record);
        place(slot, at)
    }

    /// The next record whose second has come, which the caller removes from the table.
    fn next_due(&mut self, now_s: i64) -> Option<Place> {
        self.free_emptied(now_s);
        let (_, of_second) = self
            .due
            .first_key_value()
            .filter(|(end, _)| **end <= now_s)?;
        let slot = *of_second.last()?;
        let chunk = &mut self.slots[slot];
        let at = chunk.removed_to;
        chunk.removed_to += record_length(&chunk.bytes[at..]);
        Some(place(slot, at))
    }

    /// Gives back the chunk in which everything was removed, if there is one. Its record is read
    /// by the caller of [`Self::next_due`] after that returns, hence not then but afterwards.
    fn free_emptied(&mut self, now_s: i64) {
        let Some(mut first) = self.due.first_entry().filter(|first| *first.key() <= now_s) else {
            return;
        };
        let of_second = first.get_mut();
        if let Some(slot) = of_second.last().copied() {
            if self.slots[slot].removed_to == self.slots[slot].bytes.len() {
                self.slots[slot] = Chunk::default();
                self.free.push(slot);
                of_second.pop();
            }
        }
        if first.get().is_empty() {
            first.remove();
        }
    }
}

fn moment_length(record: &[u8]) -> usize {
    let is_bounded = kind_code_of(record) >= kind_code(RevocationKind::Subject);
    if is_bounded {
        MOMENT_LENGTH
    } else {
        0
    }
}

fn record_length(record: &[u8]) -> usize {
    packed_length(record) + moment_length(record)
}

fn place(slot: usize, at: usize) -> Place {
    Place {
        chunk: [slot as u16, (slot >> 16) as u16],
        at: at as u16,
    }
}

//! What it weighs, and that the weight is spread and given back.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;

use super::*;
use crate::revocation::RevocationKind::{Subject, Token};

impl Entries {
    /// What it holds of the heap, but for the tree of seconds.
    pub(in crate::revocation) fn allocated_bytes(&self) -> usize {
        let tables: usize = self.parts.iter().map(HashTable::allocation_size).sum();
        let chunks = self.chunks.slots.iter().map(|chunk| chunk.bytes.capacity());
        tables + chunks.sum::<usize>() + self.chunks.slots.len() * size_of::<Chunk>()
    }

    fn capacities(&self) -> Vec<usize> {
        let chunks = self.chunks.slots.iter();
        chunks.map(|chunk| chunk.bytes.capacity()).collect()
    }
}

/// Entries of one kind by number, packed into 17 bytes each.
fn insert(
    entries: &mut Entries,
    kind: RevocationKind,
    numbers: std::ops::Range<u64>,
    expires_s: i64,
) {
    for number in numbers {
        let bits = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let value = URL_SAFE_NO_PAD.encode(bits.to_be_bytes());
        let name = Name::new(kind, &value).unwrap();
        entries.insert(&name, 1_000, expires_s);
    }
}

#[test]
fn a_chunk_doubles_and_is_never_larger_than_it_may_be() {
    let mut entries = Entries::default();
    let mut next = 0;
    for (count, capacity) in [(1, 17), (2, 34), (3, 68), (4, 68), (5, 136), (9, 272)] {
        insert(&mut entries, Token, next..count, 2_000);
        next = count;
        assert_eq!(vec![capacity], entries.capacities(), "{count}");
    }
    // 3,855 records of 17 bytes are a chunk.
    insert(&mut entries, Token, next..3_855, 2_000);
    assert_eq!(vec![CHUNK_BYTES_MAX], entries.capacities());
    insert(&mut entries, Token, 3_855..3_856, 2_000);
    assert_eq!(vec![CHUNK_BYTES_MAX, 17], entries.capacities());
    insert(&mut entries, Token, 3_856..100_000, 2_000);
    assert_eq!(26, entries.capacities().len());
    assert!(entries
        .capacities()
        .iter()
        .all(|bytes| *bytes <= CHUNK_BYTES_MAX));
}

#[test]
fn records_with_a_moment_fill_their_chunk_too() {
    let mut entries = Entries::default();
    // 2,621 records of 25 bytes are 65,525.
    insert(&mut entries, Subject, 0..2_621, 2_000);
    assert_eq!(vec![CHUNK_BYTES_MAX], entries.capacities());
    insert(&mut entries, Subject, 2_621..2_622, 2_000);
    assert_eq!(vec![CHUNK_BYTES_MAX, 25], entries.capacities());
}

#[test]
fn an_emptied_chunk_is_given_back_and_its_place_taken_again() {
    let mut entries = Entries::default();
    insert(&mut entries, Token, 0..10, 2_000);
    insert(&mut entries, Token, 10..20, 2_001);
    entries.remove_due(2_000, 10);
    assert_eq!((10, vec![0, 272]), (entries.len(), entries.capacities()));
    insert(&mut entries, Token, 20..21, 2_005);
    assert_eq!((11, vec![17, 272]), (entries.len(), entries.capacities()));
}

#[test]
fn the_table_is_spread_over_its_parts() {
    let mut entries = Entries::default();
    let count = 100 * PARTS as u64;
    insert(&mut entries, Token, 0..count, 2_000);
    let sizes: Vec<usize> = entries.parts.iter().map(HashTable::len).collect();
    assert!(
        sizes.iter().all(|size| (40..200).contains(size)),
        "{sizes:?}"
    );
}

fn held_bytes(entries: &Entries) -> Vec<usize> {
    let parts = entries.parts.iter();
    parts.map(HashTable::allocation_size).collect()
}

#[test]
fn a_part_that_is_nearly_empty_is_made_smaller_and_no_other() {
    let parts = PARTS as u64;
    for left in [100, 35, 4, 0] {
        let mut entries = Entries::default();
        insert(&mut entries, Token, 0..left * parts, 3_000);
        insert(&mut entries, Token, left * parts..100 * parts, 2_000);
        entries.remove_due(2_000, usize::MAX);
        let before = held_bytes(&entries);
        for _ in 0..PARTS / PARTS_PER_READING {
            entries.shrink_some();
        }
        let mut smaller = 0;
        for (part, before) in entries.parts.iter().zip(before) {
            let (after, size) = (part.allocation_size(), part.len());
            if before > size * SPARSE_BYTES {
                // What it has still fits twice, so that it does not grow again at once.
                assert!(
                    after < before && part.capacity() >= 2 * size,
                    "{size} in {after}"
                );
                assert!(after <= PART_BYTES_MIN || after <= size * SPARSE_BYTES);
                smaller += 1;
            } else {
                assert_eq!(before, after, "{size}");
            }
        }
        let expected = match left {
            100 => 0..=0,
            35 => 0..=PARTS / 2,
            4 => PARTS / 2..=PARTS,
            _ => PARTS..=PARTS,
        };
        assert!(expected.contains(&smaller), "{smaller} with {left} each");
        assert_eq!(usize::try_from(left * parts).unwrap(), entries.len());
    }
}

#[test]
fn a_small_part_keeps_its_room() {
    let mut entries = Entries::default();
    insert(&mut entries, Token, 0..20 * PARTS as u64, 2_000);
    entries.remove_due(2_000, usize::MAX);
    let before = held_bytes(&entries);
    assert!(before.iter().all(|bytes| *bytes <= PART_BYTES_MIN));
    for _ in 0..PARTS {
        entries.shrink_some();
    }
    assert_eq!(before, held_bytes(&entries));
}

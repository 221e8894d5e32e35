//! What a lookup costs, and what an entry weighs, with 10^3 to 10^7 revocations alive.
//!
//! `cargo bench -p oqim-engine --bench revocation`. Times mean something within one run only.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use oqim_engine::revocation::{RevocationKind, RevocationSet};
use oqim_engine::token::Claims;

/// Seconds over which entries end, as with tokens that live five minutes.
const LIFE_S: u64 = 300;
const LOOKUPS: u64 = 1_000_000;
/// Tokens that ask in turn: many, as callers are, so that a lookup finds the set out of the cache.
const ASKING: u64 = 65_536;

/// Counts what is held of the heap.
struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        System.dealloc(pointer, layout);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn mixed(number: u64) -> u128 {
    u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// 128 bits as the ids of our tokens have them.
fn token_id(number: u64) -> String {
    URL_SAFE_NO_PAD.encode(mixed(number).to_be_bytes())
}

fn other_id(prefix: &str, number: u64) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = mixed(number);
    let digits = (0..26).rev().map(|place| {
        let digit = (bits >> (5 * place)) as usize & 31;
        char::from(ALPHABET[digit])
    });
    prefix.chars().chain(digits).collect()
}

fn claims(number: u64) -> Claims {
    Claims {
        jti: token_id(number),
        sid: other_id("ses_", number),
        sub: other_id("usr_", number),
        client_id: "mobile-app".into(),
        iat: 1_000,
        ..Claims::default()
    }
}

/// Nanoseconds of one question, the least of five runs.
fn lookup_ns(set: &RevocationSet, asking: &[Claims]) -> f64 {
    let run = || {
        let started = Instant::now();
        for index in 0..LOOKUPS {
            black_box(set.refuses(&asking[index as usize % asking.len()]));
        }
        started.elapsed().as_nanos() as f64 / LOOKUPS as f64
    };
    (0..5).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Entries of kinds as they come: most are single tokens and sessions, some are subjects.
fn fill(set: &mut RevocationSet, count: u64) -> (f64, u128) {
    let (mut busy_ns, mut longest_us) = (0_u128, 0);
    for number in 0..count {
        let (kind, value) = match number % 4 {
            0 | 1 => (RevocationKind::Token, token_id(number)),
            2 => (RevocationKind::Session, other_id("ses_", number)),
            _ => (RevocationKind::Subject, other_id("usr_", number)),
        };
        let expires_s = 2_000 + (number * LIFE_S / count) as i64;
        let started = Instant::now();
        set.apply(number as i64, kind, &value, 900, expires_s);
        let taken = started.elapsed();
        busy_ns += taken.as_nanos();
        longest_us = longest_us.max(taken.as_micros());
    }
    (busy_ns as f64 / count as f64, longest_us)
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("half single tokens, a quarter sessions, a quarter subjects; four lookups a question");
    println!("   alive | not revoked ns | revoked ns | bytes each | apply ns | longest apply us | longest expire us");
    for power in 3..=7 {
        let count = 10_u64.pow(power);
        let before = HELD_BYTES.load(Ordering::Relaxed);
        let mut set = RevocationSet::default();
        // The empty table is a fixed cost, told apart from what an entry adds.
        let empty = HELD_BYTES.load(Ordering::Relaxed);
        let (apply_ns, longest_apply_us) = fill(&mut set, count);
        let bytes = (HELD_BYTES.load(Ordering::Relaxed) - empty) as f64 / count as f64;
        let strangers: Vec<Claims> = (0..ASKING).map(|n| claims(count + n)).collect();
        let revoked: Vec<Claims> = (0..ASKING.min(count / 4))
            .map(|n| claims(n * (count / 4 / ASKING.min(count / 4)) * 4))
            .collect();
        assert!(!strangers.iter().any(|one| set.refuses(one)));
        assert!(revoked.iter().all(|one| set.refuses(one)));
        let free_ns = lookup_ns(&set, &strangers);
        let refused_ns = lookup_ns(&set, &revoked);
        let mut longest_expire_us = 0;
        let mut now_s = 2_000;
        loop {
            let started = Instant::now();
            let left = set.expire(now_s);
            longest_expire_us = longest_expire_us.max(started.elapsed().as_micros());
            if left == 0 {
                break;
            }
            now_s += 1;
        }
        drop((strangers, revoked));
        println!(
            "{count:>8} | {free_ns:>14.0} | {refused_ns:>10.0} | {bytes:>10.1} | {apply_ns:>8.0} | \
             {longest_apply_us:>16} | {longest_expire_us:>17}"
        );
        drop(set);
        assert_eq!(
            before,
            HELD_BYTES.load(Ordering::Relaxed),
            "memory is given back"
        );
    }
}

//! What is refused and what is not; then the same against a plain model, by chance; then size.

use std::collections::HashMap;

use proptest::prelude::*;

use super::name::{packed_length, Scratch};
use super::RevocationKind::{Client, Session, Subject, Token};
use super::*;

const KINDS: [RevocationKind; 4] = [Token, Session, Subject, Client];

fn claims() -> Claims {
    Claims {
        sub: "usr_1".into(),
        client_id: "app".into(),
        sid: "ses_1".into(),
        jti: "j1".into(),
        iat: 1_000,
        exp: 2_000,
        ..Claims::default()
    }
}

/// Claims that name `value` as that kind and nothing as any other.
fn naming(kind: RevocationKind, value: &str, iat: i64) -> Claims {
    let mut claims = Claims {
        iat,
        ..Claims::default()
    };
    let field = match kind {
        Token => &mut claims.jti,
        Session => &mut claims.sid,
        Subject => &mut claims.sub,
        Client => &mut claims.client_id,
    };
    value.clone_into(field);
    claims
}

/// 128 bits as our tokens' ids have them, in base64url, different for every number.
fn random_id(number: u64) -> String {
    use base64::Engine as _;
    let bits = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits.to_be_bytes())
}

#[test]
fn each_kind_refuses_what_it_names_and_nothing_else() {
    for (kind, value, not_before, refused) in [
        (Token, "j1", 0, true),
        (Token, "j2", 0, false),
        (Token, "ses_1", 0, false),
        (Session, "ses_1", 0, true),
        (Session, "j1", 0, false),
        (Session, "usr_1", 0, false),
        (Subject, "usr_1", 1_001, true),
        (Subject, "usr_1", 1_000, false),
        (Subject, "usr_2", 5_000, false),
        (Subject, "app", 5_000, false),
        (Client, "app", 1_001, true),
        (Client, "app", 1_000, false),
        (Client, "usr_1", 5_000, false),
    ] {
        let mut set = RevocationSet::default();
        set.apply(1, kind, value, not_before, 2_000);
        let row = format!("{kind:?} {value} {not_before}");
        assert_eq!(refused, set.refuses(&claims()), "{row}");
    }
}

#[test]
fn a_kind_is_read_from_the_name_it_has_in_the_log() {
    let read = ["jti", "sid", "sub", "client", "JTI", ""].map(RevocationKind::parse);
    let expected = [
        Some(Token),
        Some(Session),
        Some(Subject),
        Some(Client),
        None,
        None,
    ];
    assert_eq!(expected, read);
}

#[test]
fn what_names_nobody_refuses_nobody() {
    let mut set = RevocationSet::default();
    for (seq, kind) in KINDS.into_iter().enumerate() {
        set.apply(seq as i64, kind, "", i64::MAX, 2_000);
        set.apply(seq as i64, kind, &"x".repeat(4_097), i64::MAX, 2_000);
    }
    assert!(!set.refuses(&Claims::default()));
    assert_eq!(0, set.expire(0));
    assert_eq!(3, set.applied_seq());
}

#[test]
fn entries_leave_when_their_tokens_have() {
    let mut set = RevocationSet::default();
    set.apply(7, Token, "j1", 0, 2_000);
    assert_eq!(1, set.expire(1_999));
    assert!(set.refuses(&claims()));
    assert_eq!(0, set.expire(2_000));
    assert!(!set.refuses(&claims()));
    assert_eq!(7, set.applied_seq());
}

#[test]
fn a_clock_that_goes_back_brings_nothing_back() {
    let mut set = RevocationSet::default();
    set.apply(1, Token, "j1", 0, 2_000);
    set.expire(2_000);
    set.apply(2, Token, "j2", 0, 3_000);
    assert_eq!(1, set.expire(1_000));
    assert_eq!(0, set.expire(3_000));
}

#[test]
fn repeated_and_late_revocations_keep_the_later_moment_and_the_later_end() {
    let moments = [(1_001, 2_000), (500, 5_000), (900, 3_000)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
        let mut set = RevocationSet::default();
        for index in order {
            let (not_before, expires) = moments[index];
            set.apply(index as i64 + 1, Subject, "usr_1", not_before, expires);
        }
        assert_eq!(1, set.expire(4_999), "{order:?}");
        assert!(set.refuses(&naming(Subject, "usr_1", 1_000)), "{order:?}");
        assert!(!set.refuses(&naming(Subject, "usr_1", 1_001)), "{order:?}");
        assert_eq!(0, set.expire(5_000), "{order:?}");
        assert_eq!(3, set.applied_seq());
    }
}

#[test]
fn a_token_revoked_twice_is_refused_until_the_later_end() {
    for ends in [[2_000, 3_000], [3_000, 2_000], [3_000, 3_000]] {
        let mut set = RevocationSet::default();
        for (seq, expires) in ends.into_iter().enumerate() {
            set.apply(seq as i64, Token, "j1", 0, expires);
        }
        assert_eq!(1, set.expire(2_999), "{ends:?}");
        assert!(set.refuses(&claims()), "{ends:?}");
        assert_eq!(0, set.expire(3_000), "{ends:?}");
    }
}

#[test]
fn a_set_is_stale_until_marked_and_after_its_age() {
    let mut set = RevocationSet::default();
    assert!(set.is_stale(10_000, 5_000));
    set.mark_fresh(10_000);
    assert!(!set.is_stale(15_000, 5_000));
    assert!(set.is_stale(15_001, 5_000));
    set.mark_fresh(9_000);
    assert!(!set.is_stale(15_000, 5_000));
    assert!(set.is_stale(i64::MAX, 5_000));
    set.mark_fresh(i64::MAX);
    assert!(!set.is_stale(i64::MIN, 5_000));
}

/// Values that differ in one character, one bit, case, form or length, none of which is another.
#[test]
fn values_that_are_nearly_the_same_are_not() {
    let values = [
        "AAAAAAAAAAAAAAAAAAAAAA",
        // The same 128 bits, were spare bits ignored.
        "AAAAAAAAAAAAAAAAAAAAAB",
        "AAAAAAAAAAAAAAAAAAAAAQ",
        "BAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAA==",
        "+AAAAAAAAAAAAAAAAAAAAA",
        "-AAAAAAAAAAAAAAAAAAAAA",
        "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS",
        "ses_01KAJ7Y8W0ABCDEFGHJKMNPQRS",
        "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRT",
        "usr_01kaj7y8w0abcdefghjkmnpqrs",
        "USR_01KAJ7Y8W0ABCDEFGHJKMNPQRS",
        "usr-01KAJ7Y8W0ABCDEFGHJKMNPQRS",
        // Crockford readers take I and L for 1, O for 0; these are other texts.
        "usr_01KAJ7Y8W0ABCDEFGHJKMNPQR1",
        "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRI",
        "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRL",
        // 130 bits: the first digit beyond seven would be lost.
        "usr_71KAJ7Y8W0ABCDEFGHJKMNPQRS",
        "usr_81KAJ7Y8W0ABCDEFGHJKMNPQRS",
        "usr_Z1KAJ7Y8W0ABCDEFGHJKMNPQRS",
        "a",
        "a\0",
        "\0",
        "Ўзбек",
    ];
    for kind in KINDS {
        for revoked in values {
            let mut set = RevocationSet::default();
            set.apply(1, kind, revoked, 10, 2_000);
            for asked in values {
                let refused = set.refuses(&naming(kind, asked, 9));
                assert_eq!(revoked == asked, refused, "{kind:?} {revoked} {asked}");
            }
        }
    }
}

#[test]
fn the_ids_we_make_are_packed_into_their_bits() {
    let length = |kind, value: &str| Name::new(kind, value).unwrap().packed().len();
    for kind in KINDS {
        for number in 0..2_000 {
            assert_eq!(17, length(kind, &random_id(number)));
        }
        for id in [
            "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS",
            "ses_00000000000000000000000000",
            "mer_7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "opr_56789ABCDEFGHJKMNPQRSTVWXY",
        ] {
            assert_eq!(20, length(kind, id), "{id}");
        }
        assert_eq!(3 + 10, length(kind, "mobile-app"));
        assert_eq!(3 + 22, length(kind, "AAAAAAAAAAAAAAAAAAAAAB"));
        assert_eq!(3 + 30, length(kind, "usr_81KAJ7Y8W0ABCDEFGHJKMNPQRS"));
    }
}

#[test]
fn plain_values_are_whole_at_every_length() {
    let mut set = RevocationSet::default();
    let value = |length: usize| "v".repeat(length);
    let lengths = [1, 21, 23, 29, 31, 36, 37, 38, 255, 256, 4_096];
    for (seq, length) in lengths.into_iter().enumerate() {
        set.apply(seq as i64, Session, &value(length), 0, 2_000);
    }
    for length in 1..=4_097 {
        let refused = set.refuses(&naming(Session, &value(length), 0));
        assert_eq!(lengths.contains(&length), refused, "{length}");
    }
    assert_eq!(lengths.len(), set.expire(1_999));
    assert_eq!(0, set.expire(2_000));
}

#[test]
fn one_reading_removes_a_bounded_number_and_the_next_ones_the_rest() {
    let mut set = RevocationSet::default();
    let count = 3 * REMOVED_PER_READING_MAX + 5;
    for number in 0..count {
        set.apply(number as i64, Token, &random_id(number as u64), 0, 2_000);
    }
    for left in [
        2 * REMOVED_PER_READING_MAX + 5,
        REMOVED_PER_READING_MAX + 5,
        5,
        0,
        0,
    ] {
        assert_eq!(left, set.expire(2_000));
    }
}

#[test]
fn what_is_applied_again_takes_no_more_room() {
    let mut set = RevocationSet::default();
    for kind in KINDS {
        set.apply(0, kind, "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS", 500, 2_000);
    }
    let once = set.entries.allocated_bytes();
    for _ in 0..1_000 {
        for kind in KINDS {
            set.apply(0, kind, "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS", 500, 2_000);
        }
    }
    assert_eq!(once, set.entries.allocated_bytes());
    assert_eq!(4, set.expire(1_999));
}

/// Each second has a chunk of its own; their numbers need more than sixteen bits here.
#[test]
fn entries_that_end_in_many_different_seconds_are_told_apart() {
    let mut set = RevocationSet::default();
    let count = 70_000;
    for number in 0..count {
        let expires = 2_000 + i64::try_from(number).unwrap();
        set.apply(0, Token, &random_id(number), 0, expires);
    }
    for number in (0..2 * count).step_by(7) {
        let refused = set.refuses(&naming(Token, &random_id(number), 0));
        assert_eq!(number < count, refused, "{number}");
    }
    for now_s in (1_999..72_000).step_by(1_000) {
        let left = usize::try_from(71_999 - now_s).unwrap();
        assert_eq!(left, set.expire(now_s));
    }
}

/// Were what has ended removed slower than what comes, memory would have no bound.
#[test]
fn what_has_ended_goes_faster_than_what_comes() {
    let mut set = RevocationSet::default();
    let count = 4 * REMOVED_PER_READING_MAX;
    for number in 0..count {
        set.apply(0, Token, &random_id(number as u64), 0, 2_000);
    }
    set.expire(2_000);
    for number in count..2 * count {
        set.apply(0, Token, &random_id(number as u64), 0, 3_000);
    }
    assert_eq!(count, set.entries.len());
}

#[test]
fn memory_is_given_back() {
    let mut set = RevocationSet::default();
    for number in 0..100_000 {
        let expires = 2_000 + i64::try_from(number % 300).unwrap();
        set.apply(0, Token, &random_id(number), 0, expires);
    }
    let full = set.entries.allocated_bytes();
    // Each part is looked at in its turn.
    for _ in 0..300 {
        set.expire(2_298);
    }
    assert_eq!(333, set.expire(2_298));
    let emptied = set.entries.allocated_bytes();
    assert!(emptied * 6 < full, "{emptied} of {full} bytes are kept");
    for number in 0..100_000 {
        let refused = set.refuses(&naming(Token, &random_id(number), 0));
        assert_eq!(number % 300 == 299, refused, "{number}");
    }
}

#[test]
fn a_hundred_thousand_are_told_from_as_many_others() {
    let kind_of = |number: u64| KINDS[(number / 2 % 4) as usize];
    let mut set = RevocationSet::default();
    let count = 100_000;
    for number in (0..2 * count).step_by(2) {
        set.apply(0, kind_of(number), &random_id(number), 500, 2_000);
    }
    assert_eq!(count as usize, set.expire(0));
    for number in 0..2 * count {
        let refused = set.refuses(&naming(kind_of(number), &random_id(number), 499));
        assert_eq!(number % 2 == 0, refused, "{number}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The kind, the value, the moment, and in how many seconds it ends.
    Apply(RevocationKind, String, i64, i64),
    Expire(i64),
}

/// Few values and few seconds, so that the same ones meet often.
fn any_step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        (0_u64..6).prop_map(random_id),
        (0_u8..6).prop_map(|n| format!("usr_01KAJ7Y8W0ABCDEFGHJKMNPQ{n:02}")),
        (0_u8..6).prop_map(|n| format!("client-{n}")),
        (0_u8..3).prop_map(|n| format!("{n}{}", "long".repeat(20))),
    ];
    let kind = prop::sample::select(KINDS.as_slice());
    prop_oneof![
        6 => (kind, value, 0_i64..8, 1_i64..30).prop_map(|(kind, value, not_before, life)| {
            Step::Apply(kind, value, not_before, life)
        }),
        1 => (0_i64..60).prop_map(Step::Expire),
    ]
}

proptest! {
    #[test]
    fn it_answers_as_a_plain_map_would(steps in prop::collection::vec(any_step(), 1..200)) {
        let mut set = RevocationSet::default();
        let mut model: HashMap<(RevocationKind, String), (i64, i64)> = HashMap::new();
        let mut now_s = 0;
        for (seq, step) in steps.iter().enumerate() {
            match step {
                Step::Apply(kind, value, not_before, life) => {
                    let expires = now_s + life;
                    set.apply(seq as i64, *kind, value, *not_before, expires);
                    let entry = model.entry((*kind, value.clone())).or_insert((i64::MIN, i64::MIN));
                    *entry = (entry.0.max(*not_before), entry.1.max(expires));
                }
                Step::Expire(at) => {
                    now_s = now_s.max(*at);
                    let left = set.expire(*at);
                    model.retain(|_, (_, expires)| *expires > now_s);
                    prop_assert_eq!(model.len(), left);
                }
            }
            for ((kind, value), (not_before, expires)) in &model {
                prop_assert!(*expires > now_s);
                for iat in 0..9 {
                    let bounded = matches!(kind, Subject | Client);
                    let expected = !bounded || iat < *not_before;
                    prop_assert_eq!(expected, set.refuses(&naming(*kind, value, iat)));
                }
            }
        }
    }

    #[test]
    fn a_name_is_packed_without_loss(
        value in "[0-9A-Za-z_-]{22}|[a-z]{3}_[0-7][0-9A-HJKMNP-TV-Z]{25}|.{1,40}",
        kind in prop::sample::select(KINDS.as_slice()),
    ) {
        let name = Name::new(kind, &value).unwrap();
        let packed = name.packed();
        let mut scratch = Scratch::default();
        prop_assert_eq!(packed.len(), packed_length(&packed));
        prop_assert_eq!(name, Name::unpack(&packed, &mut scratch));
    }
}

//! What is revoked: tokens, sessions, everything of a subject or client issued before a moment.
//!
//! Entries are exact, so nothing is refused by mistake, and leave when the last token they could
//! refuse has expired.

use hashbrown::HashMap;

use crate::token::Claims;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevocationKind {
    /// One token, by `jti`.
    Token,
    /// One session, by `sid`.
    Session,
    /// Everything of a subject issued before a moment.
    Subject,
    /// Everything of a client issued before a moment.
    Client,
}

impl RevocationKind {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "jti" => Self::Token,
            "sid" => Self::Session,
            "sub" => Self::Subject,
            "client" => Self::Client,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Tokens issued before this, in Unix seconds, are refused; `i64::MAX` refuses all.
    not_before_s: i64,
    /// When no token that this entry refuses can be alive any more, in Unix seconds.
    expires_s: i64,
}

/// The set of one worker, applied in sequence.
#[derive(Debug, Default)]
pub struct RevocationSet {
    entries: HashMap<RevocationKind, HashMap<String, Entry>>,
    applied_seq: i64,
    fresh_at_ms: i64,
}

impl RevocationSet {
    /// Applies one revocation. `not_before_s` matters for subjects and clients only.
    pub fn apply(
        &mut self,
        seq: i64,
        kind: RevocationKind,
        value: &str,
        not_before_s: i64,
        expires_s: i64,
    ) {
        let not_before_s = match kind {
            RevocationKind::Token | RevocationKind::Session => i64::MAX,
            RevocationKind::Subject | RevocationKind::Client => not_before_s,
        };
        let entry = self
            .entries
            .entry(kind)
            .or_default()
            .entry(value.to_owned())
            .or_insert(Entry {
                not_before_s,
                expires_s,
            });
        entry.not_before_s = entry.not_before_s.max(not_before_s);
        entry.expires_s = entry.expires_s.max(expires_s);
        self.applied_seq = self.applied_seq.max(seq);
    }

    pub fn refuses(&self, claims: &Claims) -> bool {
        let issued_before_moment = |kind, value: &str| {
            self.entries
                .get(&kind)
                .and_then(|entries| entries.get(value))
                .is_some_and(|entry| claims.iat < entry.not_before_s)
        };
        issued_before_moment(RevocationKind::Token, &claims.jti)
            || issued_before_moment(RevocationKind::Session, &claims.sid)
            || issued_before_moment(RevocationKind::Subject, &claims.sub)
            || issued_before_moment(RevocationKind::Client, &claims.client_id)
    }

    /// Forgets entries whose tokens are all expired; returns how many are left.
    pub fn expire(&mut self, now_s: i64) -> usize {
        self.entries
            .values_mut()
            .map(|entries| {
                entries.retain(|_, entry| entry.expires_s > now_s);
                entries.len()
            })
            .sum()
    }

    /// Says that at `now_ms` everything up to the last applied number was known.
    pub fn mark_fresh(&mut self, now_ms: i64) {
        self.fresh_at_ms = self.fresh_at_ms.max(now_ms);
    }

    pub fn is_stale(&self, now_ms: i64, age_ms_max: i64) -> bool {
        now_ms - self.fresh_at_ms > age_ms_max
    }

    pub fn applied_seq(&self) -> i64 {
        self.applied_seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn each_kind_refuses_what_it_names_and_nothing_else() {
        use RevocationKind::{Client, Session, Subject, Token};
        for (kind, value, not_before, refused) in [
            (Token, "j1", 0, true),
            (Token, "j2", 0, false),
            (Session, "ses_1", 0, true),
            (Subject, "usr_1", 1_001, true),
            (Subject, "usr_1", 1_000, false),
            (Subject, "usr_2", 5_000, false),
            (Client, "app", 1_001, true),
        ] {
            let mut set = RevocationSet::default();
            set.apply(1, kind, value, not_before, 2_000);
            assert_eq!(
                refused,
                set.refuses(&claims()),
                "{kind:?} {value} {not_before}"
            );
        }
    }

    #[test]
    fn entries_leave_when_their_tokens_have() {
        let mut set = RevocationSet::default();
        set.apply(7, RevocationKind::Token, "j1", 0, 2_000);
        assert_eq!(1, set.expire(1_999));
        assert_eq!(0, set.expire(2_000));
        assert_eq!(7, set.applied_seq());
    }

    #[test]
    fn a_set_is_stale_until_marked_and_after_its_age() {
        let mut set = RevocationSet::default();
        assert!(set.is_stale(10_000, 5_000));
        set.mark_fresh(10_000);
        assert!(!set.is_stale(15_000, 5_000));
        assert!(set.is_stale(15_001, 5_000));
    }
}

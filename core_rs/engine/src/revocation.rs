//! What is revoked: tokens, sessions, everything of a subject or client issued before a moment.
//!
//! Owns one worker's set, which is exact both ways: entries hold the whole value, so nothing is
//! refused by mistake, and leave only when the last token they could refuse has expired. Knows no
//! clock; how long an entry lives is told with it.

mod entries;
mod name;

#[cfg(test)]
mod tests;

use crate::token::Claims;
use entries::Entries;
use name::Name;

/// Due entries that one reading of the clock removes: a millisecond or two of work when none of
/// them is in the processor's cache.
const REMOVED_PER_READING_MAX: usize = 2_048;
/// Due entries that each new one removes. More than one, so that they go faster than they come.
const REMOVED_PER_ENTRY_MAX: usize = 2;

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

/// The set of one worker, applied in sequence.
#[derive(Default)]
pub struct RevocationSet {
    entries: Entries,
    applied_seq: i64,
    fresh_at_ms: i64,
    now_s: i64,
}

impl RevocationSet {
    /// Applies one revocation; again, or in another order, changes nothing of the outcome.
    ///
    /// Args:
    ///   `value`: whom it names. The empty one, and one longer than any token, names nobody.
    ///   `not_before_s`: of subjects and clients, tokens issued before this Unix second.
    ///   `expires_s`: the Unix second at which no token that it refuses is alive any more.
    pub fn apply(
        &mut self,
        seq: i64,
        kind: RevocationKind,
        value: &str,
        not_before_s: i64,
        expires_s: i64,
    ) {
        self.applied_seq = self.applied_seq.max(seq);
        if let Some(name) = Name::new(kind, value) {
            self.entries.insert(&name, not_before_s, expires_s);
        }
        self.entries.remove_due(self.now_s, REMOVED_PER_ENTRY_MAX);
    }

    pub fn refuses(&self, claims: &Claims) -> bool {
        use RevocationKind::{Client, Session, Subject, Token};
        let named = [
            (Token, &claims.jti),
            (Session, &claims.sid),
            (Subject, &claims.sub),
            (Client, &claims.client_id),
        ];
        // All are hashed before the first is looked for: a lookup in a large table waits for
        // memory, and so they wait together.
        let names = named.map(|(kind, value)| {
            let name = Name::new(kind, value).filter(|_| self.entries.has(kind))?;
            Some((name, self.entries.hash(&name)))
        });
        names
            .iter()
            .flatten()
            .any(|(name, hash)| self.entries.refuses(name, *hash, claims.iat))
    }

    /// Forgets entries whose tokens have all expired, a bounded number of them; returns how many
    /// entries are left.
    pub fn expire(&mut self, now_s: i64) -> usize {
        self.now_s = self.now_s.max(now_s);
        self.entries.remove_due(self.now_s, REMOVED_PER_READING_MAX);
        self.entries.shrink_some();
        self.entries.len()
    }

    /// Says that at `now_ms` everything up to the last applied number was known.
    pub fn mark_fresh(&mut self, now_ms: i64) {
        self.fresh_at_ms = self.fresh_at_ms.max(now_ms);
    }

    pub fn is_stale(&self, now_ms: i64, age_ms_max: i64) -> bool {
        now_ms.saturating_sub(self.fresh_at_ms) > age_ms_max
    }

    pub fn applied_seq(&self) -> i64 {
        self.applied_seq
    }
}

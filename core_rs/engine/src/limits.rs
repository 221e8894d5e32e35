//! Limits as states of subjects: one small binary state each, all its windows inside.
//!
//! The database holds the states; [`Book`] holds a bounded copy of them. A payment is evaluated
//! twice: when it is admitted, on the copy plus everything admitted and not yet committed, and
//! again when its batch is staged, on the copy alone and in the batch's order. What is staged is
//! written with `WHERE version = expected`, so a copy that was stale can lose a round trip but
//! never let a payment over a limit.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use thiserror::Error;

use crate::rules::{Policy, SubjectKind};
use crate::window::{rfc3339, Window};

const STATE_FORMAT: u8 = 1;
const COUNTER_BYTES: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LimitsError {
    #[error("a stored limit state cannot be read")]
    State,
    #[error("a stored reservation cannot be read")]
    Reservation,
    #[error("a limit's count does not fit")]
    Overflow,
}

/// What one policy has counted in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counter {
    id: u64,
    window: i32,
    amount: i64,
    count: u32,
}

impl Counter {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.window.to_le_bytes());
        out.extend_from_slice(&self.amount.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: u64::from_le_bytes(bytes.get(0..8)?.try_into().ok()?),
            window: i32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
            amount: i64::from_le_bytes(bytes.get(12..20)?.try_into().ok()?),
            count: u32::from_le_bytes(bytes.get(20..24)?.try_into().ok()?),
        })
    }
}

/// Everything counted for one subject. Layout: a format byte, then counters of 24 bytes each
/// (id u64, window i32, amount i64, count u32, little-endian).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    counters: Vec<Counter>,
}

impl State {
    pub fn read(bytes: &[u8]) -> Result<Self, LimitsError> {
        let Some((format, counters)) = bytes.split_first() else {
            return Ok(Self::default());
        };
        if *format != STATE_FORMAT || counters.len() % COUNTER_BYTES != 0 {
            return Err(LimitsError::State);
        }
        let counters = counters
            .chunks_exact(COUNTER_BYTES)
            .map(|chunk| Counter::read(chunk).ok_or(LimitsError::State))
            .collect::<Result<_, _>>()?;
        Ok(Self { counters })
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.counters.len() * COUNTER_BYTES);
        out.push(STATE_FORMAT);
        for counter in &self.counters {
            counter.write(&mut out);
        }
        out
    }

    fn used(&self, id: u64, window: i32) -> (i64, u32) {
        self.counters
            .iter()
            .find(|counter| counter.id == id && counter.window == window)
            .map_or((0, 0), |counter| (counter.amount, counter.count))
    }

    /// Counts a reservation. Windows two behind it are forgotten: the one before is kept, for
    /// payments that end after their window did.
    fn take(&mut self, taken: &Taken) -> Result<(), LimitsError> {
        self.counters
            .retain(|counter| counter.id != taken.counter || counter.window >= taken.window - 1);
        let found = self
            .counters
            .iter_mut()
            .find(|counter| counter.id == taken.counter && counter.window == taken.window);
        match found {
            Some(counter) => {
                counter.amount = counter
                    .amount
                    .checked_add(taken.amount)
                    .ok_or(LimitsError::Overflow)?;
                counter.count = counter
                    .count
                    .checked_add(taken.count)
                    .ok_or(LimitsError::Overflow)?;
            }
            None => self.counters.push(Counter {
                id: taken.counter,
                window: taken.window,
                amount: taken.amount,
                count: taken.count,
            }),
        }
        Ok(())
    }

    /// Gives back, into the window in which it was taken; a window forgotten has nothing to get.
    fn give_back(&mut self, taken: &Taken) {
        for counter in &mut self.counters {
            if counter.id == taken.counter && counter.window == taken.window {
                counter.amount = (counter.amount - taken.amount).max(0);
                counter.count = counter.count.saturating_sub(taken.count);
            }
        }
        self.counters
            .retain(|counter| counter.amount > 0 || counter.count > 0);
    }
}

/// Headroom taken by one payment from one counter of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub subject: Arc<str>,
    counter: u64,
    window: i32,
    amount: i64,
    count: u32,
}

/// Writes what a payment took, to be stored with it. Layout, each: subject length u8, subject
/// (UTF-8), then a counter of 24 bytes.
pub fn write_reservation(taken: &[Taken]) -> Vec<u8> {
    let mut out = Vec::with_capacity(taken.len() * 64);
    for one in taken {
        out.push(u8::try_from(one.subject.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(one.subject.as_bytes());
        Counter {
            id: one.counter,
            window: one.window,
            amount: one.amount,
            count: one.count,
        }
        .write(&mut out);
    }
    out
}

/// Reads a stored reservation, or the part of it that `amount_minor` is: `None` for all of it with
/// its count, `Some` for that amount while the payment goes on counting as one.
pub fn read_reservation(
    mut bytes: &[u8],
    amount_minor: Option<i64>,
) -> Result<Vec<Taken>, LimitsError> {
    let mut all = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let length = usize::from(*length);
        let subject = rest.get(..length).ok_or(LimitsError::Reservation)?;
        let subject = std::str::from_utf8(subject).map_err(|_| LimitsError::Reservation)?;
        let counter = rest
            .get(length..length + COUNTER_BYTES)
            .and_then(Counter::read);
        let counter = counter.ok_or(LimitsError::Reservation)?;
        all.push(Taken {
            subject: Arc::from(subject),
            counter: counter.id,
            window: counter.window,
            amount: amount_minor.map_or(counter.amount, |amount| amount.min(counter.amount)),
            count: if amount_minor.is_some() {
                0
            } else {
                counter.count
            },
        });
        bytes = &rest[length + COUNTER_BYTES..];
    }
    Ok(all)
}

/// One policy met by one payment: what is asked of which counter, and the caps it must stay under.
#[derive(Debug, Clone)]
pub struct Ask {
    pub policy: Arc<Policy>,
    /// `None` for an operation window: nothing is counted.
    pub taken: Option<Taken>,
    pub amount: i64,
    pub resets_at_ms: Option<i64>,
}

impl Ask {
    pub fn new(policy: &Arc<Policy>, subject: Arc<str>, amount_minor: i64, at_ms: i64) -> Self {
        let (taken, resets_at_ms) = match policy.window {
            Window::Operation {} => (None, None),
            Window::Calendar { unit } => {
                let taken = Taken {
                    subject,
                    counter: policy.counter,
                    window: unit.index(at_ms),
                    amount: amount_minor,
                    count: 1,
                };
                (Some(taken), Some(unit.resets_at_ms(at_ms)))
            }
        };
        Self {
            policy: Arc::clone(policy),
            taken,
            amount: amount_minor,
            resets_at_ms,
        }
    }

    /// What stops this ask when `used` is counted already.
    fn breach(&self, used: (i64, u32)) -> Option<Breach> {
        let policy = &self.policy;
        let over_amount = policy.max_amount.is_some_and(|cap| {
            used.0
                .checked_add(self.amount)
                .is_none_or(|asked| asked > cap)
        });
        let over_count = policy
            .max_count
            .is_some_and(|cap| used.1.checked_add(1).is_none_or(|n| n > cap));
        let under = policy.min_amount.is_some_and(|floor| self.amount < floor);
        (over_amount || over_count || under).then(|| Breach {
            policy: policy.id.clone(),
            version: policy.version,
            subject: policy.subject,
            used_amount: used.0,
            used_count: used.1,
            asked: self.amount,
            min_amount: policy.min_amount,
            max_amount: policy.max_amount,
            max_count: policy.max_count,
            resets_at_ms: self.resets_at_ms,
        })
    }
}

/// Why a limit refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub policy: String,
    pub version: u32,
    pub subject: SubjectKind,
    pub used_amount: i64,
    pub used_count: u32,
    pub asked: i64,
    pub min_amount: Option<i64>,
    pub max_amount: Option<i64>,
    pub max_count: Option<u32>,
    pub resets_at_ms: Option<i64>,
}

impl Breach {
    /// A sentence for the one whose limit it is.
    pub fn detail(&self) -> String {
        let subject = self.subject.name().replace('_', " ");
        let until = self.resets_at_ms.map_or_else(String::new, |at| {
            format!("; it grows again at {}", rfc3339(at))
        });
        if self.min_amount.is_some_and(|floor| self.asked < floor) {
            return format!(
                "limit {}: the amount is below the least accepted",
                self.policy
            );
        }
        match (self.max_amount, self.max_count) {
            (Some(cap), _) if self.used_amount.saturating_add(self.asked) > cap => {
                let left = (cap - self.used_amount).max(0);
                format!(
                    "limit {} on this {subject}: {left} minor units are left{until}",
                    self.policy
                )
            }
            _ => format!(
                "limit {} on this {subject}: no more payments{until}",
                self.policy
            ),
        }
    }
}

#[derive(Debug, Default)]
struct Subject {
    /// What the database is known to hold; `None` when it must be read again.
    committed: Option<(i64, State)>,
    /// Admitted and not yet committed.
    outstanding: State,
    /// Written by a batch that has not come back.
    staged: Option<State>,
    was_used: bool,
}

impl Subject {
    fn is_idle(&self) -> bool {
        self.outstanding.counters.is_empty() && self.staged.is_none()
    }
}

/// What a staged batch must write: `(subject, expected version, next state)`, in subject order.
pub type Write = (Arc<str>, i64, Vec<u8>);

/// What became of a batch's members, by their place in it.
#[derive(Debug, Default)]
pub struct Staged {
    pub writes: Vec<Write>,
    pub admitted: Vec<usize>,
    pub refused: Vec<(usize, Vec<Breach>)>,
    /// Touch a subject that another batch has in flight: for the next batch.
    pub deferred: Vec<usize>,
    /// Subjects to read before the deferred can be staged.
    pub missing: Vec<Arc<str>>,
    /// Reservations of the admitted, settled by `commit`.
    reserved: Vec<Taken>,
}

/// The bounded copy of subject states in one worker.
#[derive(Debug)]
pub struct Book {
    subjects: HashMap<Arc<str>, Subject>,
    size_max: usize,
}

impl Book {
    pub fn new(size_max: usize) -> Self {
        Self {
            subjects: HashMap::new(),
            size_max,
        }
    }

    pub fn is_known(&self, subject: &str) -> bool {
        self.subjects
            .get(subject)
            .is_some_and(|subject| subject.committed.is_some())
    }

    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Takes what the database holds. A subject with no row has version 0 and no bytes.
    pub fn load(&mut self, subject: &str, version: i64, bytes: &[u8]) -> Result<(), LimitsError> {
        let state = State::read(bytes)?;
        self.make_room();
        let entry = self.subjects.entry_ref(subject).or_default();
        entry.was_used = true;
        let is_older = entry
            .committed
            .as_ref()
            .is_some_and(|(known, _)| *known > version);
        if entry.staged.is_none() && !is_older {
            entry.committed = Some((version, state));
        }
        Ok(())
    }

    /// Drops subjects that nobody used since the last time the book was full.
    fn make_room(&mut self) {
        if self.subjects.len() < self.size_max {
            return;
        }
        self.subjects.retain(|_, subject| {
            let keep = subject.was_used || !subject.is_idle();
            subject.was_used = false;
            keep
        });
    }

    /// What is counted for an ask: committed, and admitted but not yet committed.
    pub fn used(&self, taken: &Taken) -> (i64, u32) {
        self.subjects.get(&taken.subject).map_or((0, 0), |subject| {
            let committed = subject
                .committed
                .as_ref()
                .map_or((0, 0), |(_, state)| state.used(taken.counter, taken.window));
            let outstanding = subject.outstanding.used(taken.counter, taken.window);
            (
                committed.0.saturating_add(outstanding.0),
                committed.1.saturating_add(outstanding.1),
            )
        })
    }

    /// Every breach of `asks`, in their order. Empty: they may be reserved.
    pub fn breaches(&self, asks: &[Ask]) -> Vec<Breach> {
        asks.iter()
            .filter_map(|ask| ask.breach(ask.taken.as_ref().map_or((0, 0), |t| self.used(t))))
            .collect()
    }

    pub fn reserve(&mut self, asks: &[Ask]) -> Result<(), LimitsError> {
        for taken in asks.iter().filter_map(|ask| ask.taken.as_ref()) {
            let subject = self.subjects.entry_ref(&*taken.subject).or_default();
            subject.was_used = true;
            subject.outstanding.take(taken)?;
        }
        Ok(())
    }

    /// Undoes `reserve` for a payment that was not committed.
    pub fn release(&mut self, asks: &[Ask]) {
        for taken in asks.iter().filter_map(|ask| ask.taken.as_ref()) {
            if let Some(subject) = self.subjects.get_mut(&taken.subject) {
                subject.outstanding.give_back(taken);
            }
        }
    }

    /// Prepares a batch of reservations: each member is evaluated again, on what is committed and
    /// on the members before it. The refused are released; the deferred stay reserved.
    pub fn stage(&mut self, batch: &[&[Ask]]) -> Result<Staged, LimitsError> {
        let mut staged = Staged::default();
        let mut next: HashMap<Arc<str>, (i64, State)> = HashMap::new();
        for (index, asks) in batch.iter().enumerate() {
            let counted: Vec<&Taken> = asks.iter().filter_map(|ask| ask.taken.as_ref()).collect();
            if !self.is_stageable(&counted, &mut staged.missing) {
                staged.deferred.push(index);
                continue;
            }
            self.copy_committed(&counted, &mut next);
            let breaches: Vec<Breach> = asks
                .iter()
                .filter_map(|ask| {
                    let used = ask.taken.as_ref().map_or((0, 0), |taken| {
                        next.get(&taken.subject)
                            .map_or((0, 0), |(_, state)| state.used(taken.counter, taken.window))
                    });
                    ask.breach(used)
                })
                .collect();
            if !breaches.is_empty() {
                self.release(asks);
                staged.refused.push((index, breaches));
                continue;
            }
            for taken in counted {
                if let Some((_, state)) = next.get_mut(&taken.subject) {
                    state.take(taken)?;
                }
                staged.reserved.push(taken.clone());
            }
            staged.admitted.push(index);
        }
        let touched: HashSet<Arc<str>> = staged
            .reserved
            .iter()
            .map(|taken| Arc::clone(&taken.subject))
            .collect();
        next.retain(|subject, _| touched.contains(subject));
        self.put_in_flight(next, &mut staged);
        Ok(staged)
    }

    /// Prepares headroom given back; each member is a stored reservation or a part of one.
    pub fn stage_give_back(&mut self, batch: &[Vec<Taken>]) -> Staged {
        let mut staged = Staged::default();
        let mut next: HashMap<Arc<str>, (i64, State)> = HashMap::new();
        for (index, taken) in batch.iter().enumerate() {
            let counted: Vec<&Taken> = taken.iter().collect();
            if !self.is_stageable(&counted, &mut staged.missing) {
                staged.deferred.push(index);
                continue;
            }
            self.copy_committed(&counted, &mut next);
            for taken in counted {
                if let Some((_, state)) = next.get_mut(&taken.subject) {
                    state.give_back(taken);
                }
            }
            staged.admitted.push(index);
        }
        self.put_in_flight(next, &mut staged);
        staged
    }

    fn is_stageable(&self, counted: &[&Taken], missing: &mut Vec<Arc<str>>) -> bool {
        let mut is_stageable = true;
        for taken in counted {
            let subject = self.subjects.get(&taken.subject);
            if subject.is_some_and(|subject| subject.staged.is_some()) {
                is_stageable = false;
            } else if subject.is_none_or(|subject| subject.committed.is_none()) {
                is_stageable = false;
                if !missing.contains(&taken.subject) {
                    missing.push(Arc::clone(&taken.subject));
                }
            }
        }
        is_stageable
    }

    fn copy_committed(&self, counted: &[&Taken], next: &mut HashMap<Arc<str>, (i64, State)>) {
        for taken in counted {
            if next.contains_key(&taken.subject) {
                continue;
            }
            let committed = self
                .subjects
                .get(&taken.subject)
                .and_then(|s| s.committed.clone());
            if let Some(committed) = committed {
                next.insert(Arc::clone(&taken.subject), committed);
            }
        }
    }

    fn put_in_flight(&mut self, next: HashMap<Arc<str>, (i64, State)>, staged: &mut Staged) {
        for (subject, (version, state)) in next {
            staged
                .writes
                .push((Arc::clone(&subject), version, state.write()));
            if let Some(entry) = self.subjects.get_mut(&subject) {
                entry.staged = Some(state);
            }
        }
        staged.writes.sort_by(|left, right| left.0.cmp(&right.0));
    }

    /// The batch is durable: its states are the committed ones now.
    pub fn commit(&mut self, staged: &Staged) {
        for (subject, version, _) in &staged.writes {
            if let Some(entry) = self.subjects.get_mut(subject) {
                entry.committed = entry.staged.take().map(|state| (version + 1, state));
            }
        }
        for taken in &staged.reserved {
            if let Some(entry) = self.subjects.get_mut(&taken.subject) {
                entry.outstanding.give_back(taken);
            }
        }
    }

    /// The batch was not written, and nothing was wrong with its states: its members are staged
    /// again or released.
    pub fn unstage(&mut self, staged: &Staged) {
        for (subject, _, _) in &staged.writes {
            if let Some(entry) = self.subjects.get_mut(subject) {
                entry.staged = None;
            }
        }
    }

    /// The batch did not become durable, or nobody knows: its subjects must be read again. Its
    /// members stay reserved until they are staged again or released.
    pub fn roll_back(&mut self, staged: &Staged) {
        for (subject, _, _) in &staged.writes {
            if let Some(entry) = self.subjects.get_mut(subject) {
                entry.staged = None;
                entry.committed = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Facts, Rules};
    use proptest::prelude::*;

    const AT: i64 = 1_795_287_600_000;

    fn policy(caps: &str) -> Arc<Policy> {
        let text = format!(
            r#"{{"limit_policies":[{{"id":"card-day","version":1,"subject":"card",
                "currency":"UZS","window":{{"kind":"calendar","unit":"day"}},{caps}}}]}}"#
        );
        let rules = Rules::read(text.as_bytes()).unwrap();
        let facts = Facts {
            operation: "purchase",
            currency: "UZS",
            ..Facts::default()
        };
        let found = rules.policies_for(&facts).next().unwrap().clone();
        found
    }

    fn ask(policy: &Arc<Policy>, amount: i64, at: i64) -> Vec<Ask> {
        vec![Ask::new(policy, Arc::from("card:1"), amount, at)]
    }

    fn stage_one(book: &mut Book, asks: &[Ask]) -> Staged {
        book.stage(&[asks]).unwrap()
    }

    fn book() -> Book {
        let mut book = Book::new(100);
        book.load("card:1", 0, b"").unwrap();
        book
    }

    #[test]
    fn a_thousand_a_day_passes_600_refuses_500_passes_400() {
        let policy = policy(r#""max_amount":1000"#);
        let mut book = book();
        for (amount, passes) in [(600, true), (500, false), (400, true), (1, false)] {
            let asks = ask(&policy, amount, AT);
            assert_eq!(passes, book.breaches(&asks).is_empty(), "{amount}");
            if passes {
                book.reserve(&asks).unwrap();
                let staged = stage_one(&mut book, &asks);
                assert_eq!(vec![0], staged.admitted);
                book.commit(&staged);
            }
        }
        assert!(book
            .breaches(&ask(&policy, 1000, AT + 86_400_000))
            .is_empty());
    }

    #[test]
    fn what_was_admitted_and_not_committed_counts_as_used() {
        let policy = policy(r#""max_count":1"#);
        let mut book = book();
        let first = ask(&policy, 5, AT);
        book.reserve(&first).unwrap();
        assert_eq!(1, book.breaches(&ask(&policy, 5, AT)).len());
        book.release(&first);
        assert!(book.breaches(&ask(&policy, 5, AT)).is_empty());
    }

    #[test]
    fn a_stale_copy_is_evaluated_again_on_what_the_database_holds() {
        let policy = policy(r#""max_amount":1000"#);
        let mut book = book();
        let asks = ask(&policy, 600, AT);
        book.reserve(&asks).unwrap();
        let staged = stage_one(&mut book, &asks);
        book.roll_back(&staged);
        // Another worker took 500 meanwhile.
        let mut other = State::default();
        other
            .take(ask(&policy, 500, AT)[0].taken.as_ref().unwrap())
            .unwrap();
        assert_eq!(
            vec![Arc::from("card:1")],
            stage_one(&mut book, &asks).missing
        );
        book.load("card:1", 1, &other.write()).unwrap();
        let staged = stage_one(&mut book, &asks);
        assert_eq!(1, staged.refused.len());
        assert_eq!(500, staged.refused[0].1[0].used_amount);
        assert!(staged.writes.is_empty());
        assert!(book.breaches(&ask(&policy, 500, AT)).is_empty());
    }

    #[test]
    fn a_subject_in_flight_defers_the_next_batch() {
        let policy = policy(r#""max_amount":1000"#);
        let mut book = book();
        let asks = ask(&policy, 100, AT);
        book.reserve(&asks).unwrap();
        let first = stage_one(&mut book, &asks);
        book.reserve(&asks).unwrap();
        assert_eq!(vec![0], stage_one(&mut book, &asks).deferred);
        book.commit(&first);
        let second = stage_one(&mut book, &asks);
        assert_eq!(1, second.writes[0].1);
    }

    #[test]
    fn headroom_returns_into_the_window_it_was_taken_from() {
        let policy = policy(r#""max_amount":1000"#);
        let mut book = book();
        let asks = ask(&policy, 600, AT - 1);
        book.reserve(&asks).unwrap();
        let staged = stage_one(&mut book, &asks);
        book.commit(&staged);
        let stored = write_reservation(&[asks[0].taken.clone().unwrap()]);
        // The next day has begun and used 700 of its own.
        let today = ask(&policy, 700, AT);
        book.reserve(&today).unwrap();
        let staged = stage_one(&mut book, &today);
        book.commit(&staged);
        let staged = book.stage_give_back(&[read_reservation(&stored, None).unwrap()]);
        book.commit(&staged);
        assert_eq!((700, 1), book.used(today[0].taken.as_ref().unwrap()));
        assert_eq!((0, 0), book.used(asks[0].taken.as_ref().unwrap()));
    }

    #[test]
    fn a_part_given_back_leaves_the_payment_counted() {
        let policy = policy(r#""max_amount":1000"#);
        let mut book = book();
        let asks = ask(&policy, 123, AT);
        book.reserve(&asks).unwrap();
        let staged = stage_one(&mut book, &asks);
        book.commit(&staged);
        let stored = write_reservation(&[asks[0].taken.clone().unwrap()]);
        let part = read_reservation(&stored, Some(23)).unwrap();
        let staged = book.stage_give_back(&[part]);
        book.commit(&staged);
        assert_eq!((100, 1), book.used(asks[0].taken.as_ref().unwrap()));
    }

    #[test]
    fn the_book_is_bounded_and_keeps_what_is_outstanding() {
        let policy = policy(r#""max_amount":1000"#);
        let mut book = book();
        book.reserve(&ask(&policy, 1, AT)).unwrap();
        for number in 0..10_000 {
            book.load(&format!("card:x{number}"), 0, b"").unwrap();
        }
        assert!(book.len() <= 201, "{}", book.len());
        assert_eq!(
            (1, 1),
            book.used(ask(&policy, 1, AT)[0].taken.as_ref().unwrap())
        );
    }

    proptest! {
        #[test]
        fn stored_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = State::read(&bytes);
            let _ = read_reservation(&bytes, None);
        }

        /// Two workers, each with its own book, against one database with versions: whatever the
        /// interleaving, the committed amount never passes the cap, and ends at what was admitted.
        #[test]
        fn two_books_never_exceed_a_cap(steps in proptest::collection::vec((0usize..2, 1i64..400), 1..60)) {
            let policy = policy(r#""max_amount":1000"#);
            let mut row: (i64, Vec<u8>) = (0, Vec::new());
            let mut books = [book(), book()];
            let mut admitted = 0;
            for (worker, amount) in steps {
                let book = &mut books[worker];
                let asks = ask(&policy, amount, AT);
                if !book.is_known("card:1") {
                    book.load("card:1", row.0, &row.1).unwrap();
                }
                if !book.breaches(&asks).is_empty() {
                    continue;
                }
                book.reserve(&asks).unwrap();
                loop {
                    let staged = stage_one(book, &asks);
                    if !staged.missing.is_empty() {
                        book.load("card:1", row.0, &row.1).unwrap();
                        continue;
                    }
                    if staged.admitted.is_empty() {
                        break;
                    }
                    if staged.writes[0].1 == row.0 {
                        row = (row.0 + 1, staged.writes[0].2.clone());
                        book.commit(&staged);
                        admitted += amount;
                        break;
                    }
                    book.roll_back(&staged);
                }
                let used = State::read(&row.1).unwrap();
                let total = used.counters.first().map_or(0, |counter| counter.amount);
                prop_assert_eq!(admitted, total);
                prop_assert!(total <= 1000);
            }
        }
    }
}

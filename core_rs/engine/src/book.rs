//! The bounded copy of subject states in one worker.
//!
//! The database holds the states; [`Book`] holds a copy of some. A payment is judged twice: when it
//! is admitted, on the copy plus everything admitted and not yet committed, and again when its
//! batch is staged, on the copy alone and in the batch's order. What is staged is written with
//! `WHERE version = expected`, so a copy that was stale can lose a round trip but never let a
//! payment over a limit.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::cache::Use;
use crate::limits::{judge, Ask, Counts, Judgement, Verdict};
use crate::state::{Counter, State, StateError, Taken, Usage};
use crate::window::Place;

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
        self.outstanding.is_empty() && self.staged.is_none()
    }

    fn committed(&self) -> Option<&State> {
        self.committed.as_ref().map(|(_, state)| state)
    }

    fn used(&self, taken: &Taken, place: Place) -> Usage {
        let committed = self
            .committed()
            .map_or_else(Usage::default, |state| state.used(taken.counter, place));
        committed.plus(self.outstanding.used(taken.counter, place))
    }
}

/// What a staged batch must write: `(subject, expected version, next state)`, in subject order.
pub type Write = (Arc<str>, i64, Vec<u8>);

/// One payment to be staged.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    pub asks: &'a [Ask],
    pub is_stepped_up: bool,
}

/// What became of a batch's members, by their place in it.
#[derive(Debug, Default)]
pub struct Staged {
    pub writes: Vec<Write>,
    pub admitted: Vec<(usize, Judgement)>,
    /// Refused, or to be stepped up: released either way.
    pub refused: Vec<(usize, Judgement)>,
    /// Touch a subject that another batch has in flight: for the next batch.
    pub deferred: Vec<usize>,
    /// Subjects to read before the deferred can be staged.
    pub missing: Vec<Arc<str>>,
    /// Reservations of the admitted, settled by `commit`.
    reserved: Vec<Taken>,
}

/// States as a batch makes them, member after member.
#[derive(Debug, Default)]
struct Next {
    states: HashMap<Arc<str>, (i64, State)>,
}

impl Counts for Next {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        self.states
            .get(&taken.subject)
            .map_or_else(Usage::default, |(_, state)| {
                state.used(taken.counter, place)
            })
    }

    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter> {
        self.states
            .get(&taken.subject)
            .map_or_else(Vec::new, |(_, state)| {
                state.counted(taken.counter, place).copied().collect()
            })
    }
}

#[derive(Debug)]
pub struct Book {
    subjects: HashMap<Arc<str>, Subject>,
    size_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Committed, and admitted but not yet committed.
impl Counts for Book {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        self.subjects
            .get(&taken.subject)
            .map_or_else(Usage::default, |subject| subject.used(taken, place))
    }

    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter> {
        let Some(subject) = self.subjects.get(&taken.subject) else {
            return Vec::new();
        };
        [subject.committed(), Some(&subject.outstanding)]
            .into_iter()
            .flatten()
            .flat_map(|state| state.counted(taken.counter, place))
            .copied()
            .collect()
    }
}

/// A book that is asked, and notes which subjects would have to be read first: a judgement made
/// when there are some means nothing.
#[derive(Debug)]
pub struct Known<'a> {
    book: &'a Book,
    unknown: RefCell<Vec<Arc<str>>>,
}

impl<'a> Known<'a> {
    pub fn new(book: &'a Book) -> Self {
        let unknown = RefCell::default();
        Self { book, unknown }
    }

    /// What was asked for in vain, in the order that it was asked for.
    pub fn unknown(self) -> Vec<Arc<str>> {
        self.unknown.into_inner()
    }
}

impl Counts for Known<'_> {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        if let Some(subject) = self.book.known(&taken.subject) {
            return subject.used(taken, place);
        }
        let mut unknown = self.unknown.borrow_mut();
        unknown.push(Arc::clone(&taken.subject));
        Usage::default()
    }

    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter> {
        self.book.counted(taken, place)
    }
}

impl Book {
    pub fn new(size_max: usize) -> Self {
        Self {
            subjects: HashMap::new(),
            size_max,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Whether a payment may be judged by the copy, without reading the subject; counted as a use.
    pub fn is_known(&self, subject: &str) -> bool {
        self.known(subject).is_some()
    }

    fn known(&self, subject: &str) -> Option<&Subject> {
        let known = self
            .subjects
            .get(subject)
            .filter(|subject| subject.committed.is_some());
        let asked = match known {
            Some(_) => &self.hits,
            None => &self.misses,
        };
        // Not one atomic step, which is dear: only whoever has the core asks, and these are figures.
        asked.store(asked.load(Relaxed).wrapping_add(1), Relaxed);
        known
    }

    /// How the copies were used so far.
    pub fn usage(&self) -> Use {
        Use {
            size: self.len(),
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
        }
    }

    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Takes what the database holds. A subject with no row has version 0 and no bytes.
    pub fn load(&mut self, subject: &str, version: i64, bytes: &[u8]) -> Result<(), StateError> {
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

    pub fn reserve(&mut self, asks: &[Ask]) {
        for (taken, place) in asks.iter().filter_map(|ask| ask.counted.as_ref()) {
            let subject = self.subjects.entry_ref(&*taken.subject).or_default();
            subject.was_used = true;
            subject.outstanding.take(taken, place.kept_from);
        }
    }

    /// Undoes `reserve` for a payment that was not committed.
    pub fn release(&mut self, asks: &[Ask]) {
        for taken in asks.iter().filter_map(Ask::taken) {
            if let Some(subject) = self.subjects.get_mut(&taken.subject) {
                subject.outstanding.give_back(taken);
            }
        }
    }

    /// Prepares a batch of reservations: each member is judged again, on what is committed and on
    /// the members before it. The refused are released; the deferred stay reserved.
    pub fn stage(&mut self, batch: &[Member<'_>]) -> Staged {
        let mut staged = Staged::default();
        let mut next = Next::default();
        for (index, member) in batch.iter().enumerate() {
            let counted: Vec<&Taken> = member.asks.iter().filter_map(Ask::taken).collect();
            if !self.is_stageable(&counted, &mut staged.missing) {
                staged.deferred.push(index);
                continue;
            }
            self.copy_committed(&counted, &mut next);
            let judgement = judge(member.asks, member.is_stepped_up, &next);
            if judgement.verdict != Verdict::Admit {
                self.release(member.asks);
                staged.refused.push((index, judgement));
                continue;
            }
            for (taken, place) in member.asks.iter().filter_map(|ask| ask.counted.as_ref()) {
                if let Some((_, state)) = next.states.get_mut(&taken.subject) {
                    state.take(taken, place.kept_from);
                }
                staged.reserved.push(taken.clone());
            }
            staged.admitted.push((index, judgement));
        }
        let touched: HashSet<Arc<str>> = staged
            .reserved
            .iter()
            .map(|taken| Arc::clone(&taken.subject))
            .collect();
        next.states.retain(|subject, _| touched.contains(subject));
        self.put_in_flight(next, &mut staged);
        staged
    }

    /// Prepares headroom given back; each member is what one payment gives back.
    pub fn stage_give_back(&mut self, batch: &[Vec<Taken>]) -> Staged {
        let mut staged = Staged::default();
        let mut next = Next::default();
        for (index, taken) in batch.iter().enumerate() {
            let counted: Vec<&Taken> = taken.iter().collect();
            if !self.is_stageable(&counted, &mut staged.missing) {
                staged.deferred.push(index);
                continue;
            }
            self.copy_committed(&counted, &mut next);
            for taken in counted {
                if let Some((_, state)) = next.states.get_mut(&taken.subject) {
                    state.give_back(taken);
                }
            }
            let judgement = judge(&[], false, &next);
            staged.admitted.push((index, judgement));
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

    fn copy_committed(&self, counted: &[&Taken], next: &mut Next) {
        for taken in counted {
            if next.states.contains_key(&taken.subject) {
                continue;
            }
            let committed = self
                .subjects
                .get(&taken.subject)
                .and_then(|s| s.committed.clone());
            if let Some(committed) = committed {
                next.states.insert(Arc::clone(&taken.subject), committed);
            }
        }
    }

    fn put_in_flight(&mut self, next: Next, staged: &mut Staged) {
        for (subject, (version, state)) in next.states {
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
mod tests;

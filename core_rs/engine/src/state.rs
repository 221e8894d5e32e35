//! What has been counted: one small binary state a subject, all its windows inside.

use std::sync::Arc;

use thiserror::Error;

use crate::window::Place;

const STATE_FORMAT: u8 = 2;
const COUNTER_BYTES: usize = 28;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a stored limit state cannot be read")]
pub struct StateError;

/// What one policy has counted in one window, or in one part of a rolling one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    pub id: u64,
    pub window: i64,
    pub amount: i64,
    pub count: u32,
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
            window: i64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?),
            amount: i64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?),
            count: u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?),
        })
    }
}

/// An amount and a number of payments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub amount: i64,
    pub count: u32,
}

impl Usage {
    /// More than fits is as much as fits: it is over every cap.
    pub fn plus(self, other: Self) -> Self {
        Self {
            amount: self.amount.saturating_add(other.amount),
            count: self.count.saturating_add(other.count),
        }
    }
}

/// Headroom taken by one payment from one counter of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub subject: Arc<str>,
    pub counter: u64,
    pub window: i64,
    pub usage: Usage,
}

/// Everything counted for one subject. Layout: a format byte, then counters of 28 bytes each
/// (id u64, window i64, amount i64, count u32, little-endian).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    counters: Vec<Counter>,
}

impl State {
    pub fn read(bytes: &[u8]) -> Result<Self, StateError> {
        let Some((format, counters)) = bytes.split_first() else {
            return Ok(Self::default());
        };
        if *format != STATE_FORMAT || counters.len() % COUNTER_BYTES != 0 {
            return Err(StateError);
        }
        let counters = counters
            .chunks_exact(COUNTER_BYTES)
            .map(|chunk| Counter::read(chunk).ok_or(StateError))
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

    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    /// What counts at a place: one window, or every part of a rolling one that has not ended.
    pub fn counted(&self, id: u64, place: Place) -> impl Iterator<Item = &Counter> {
        self.counters.iter().filter(move |counter| {
            counter.id == id && (place.counted_from..=place.counted_to).contains(&counter.window)
        })
    }

    pub fn used(&self, id: u64, place: Place) -> Usage {
        self.counted(id, place)
            .fold(Usage::default(), |sum, counter| {
                sum.plus(Usage {
                    amount: counter.amount,
                    count: counter.count,
                })
            })
    }

    /// Counts what is taken; windows below `kept_from` are forgotten.
    pub fn take(&mut self, taken: &Taken, kept_from: i64) {
        self.counters
            .retain(|counter| counter.id != taken.counter || counter.window >= kept_from);
        let found = self
            .counters
            .iter_mut()
            .find(|counter| counter.id == taken.counter && counter.window == taken.window);
        match found {
            Some(counter) => {
                counter.amount = counter.amount.saturating_add(taken.usage.amount);
                counter.count = counter.count.saturating_add(taken.usage.count);
            }
            None => self.counters.push(Counter {
                id: taken.counter,
                window: taken.window,
                amount: taken.usage.amount,
                count: taken.usage.count,
            }),
        }
    }

    /// Gives back, into the window in which it was taken; a window forgotten has nothing to get.
    pub fn give_back(&mut self, taken: &Taken) {
        for counter in &mut self.counters {
            if counter.id == taken.counter && counter.window == taken.window {
                counter.amount = counter.amount.saturating_sub(taken.usage.amount).max(0);
                counter.count = counter.count.saturating_sub(taken.usage.count);
            }
        }
        self.counters
            .retain(|counter| counter.amount > 0 || counter.count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stored_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = State::read(&bytes);
        }

        #[test]
        fn what_is_written_is_read(counters in proptest::collection::vec(
            (any::<u64>(), any::<i64>(), any::<i64>(), any::<u32>()), 0..9)) {
            let counters = counters.into_iter()
                .map(|(id, window, amount, count)| Counter { id, window, amount, count })
                .collect();
            let state = State { counters };
            prop_assert_eq!(Ok(state.clone()), State::read(&state.write()));
        }
    }
}

//! How much a subject may still do, and when it grows.

use serde::Serialize;

use crate::book::Book;
use crate::limits::{Ask, Counts as _};
use crate::rates::RateError;
use crate::state::Usage;
use crate::window::rfc3339;

/// One policy's headroom, in the policy's currency. An absent remainder has no cap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headroom {
    pub policy: String,
    pub version: u32,
    pub subject: &'static str,
    pub window: &'static str,
    pub currency: String,
    pub min_amount: Option<i64>,
    pub max_amount: Option<i64>,
    pub max_count: Option<u32>,
    pub used_amount: i64,
    pub used_count: u32,
    pub remaining_amount: Option<i64>,
    pub remaining_count: Option<u32>,
    pub resets_at: Option<String>,
}

/// The least over all policies, in the currency that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Least {
    pub amount: Option<i64>,
    pub count: Option<u32>,
    /// When the policy that leaves the least amount, or the least count, first leaves more.
    pub grows_at_ms: Option<i64>,
}

fn resets_at_ms(book: &Book, ask: &Ask) -> Option<i64> {
    let (taken, place) = ask.counted.as_ref()?;
    let window = ask.policy.window;
    if place.counted_to == place.index {
        return window.frees_at_ms(taken.window);
    }
    let counted = book.counted(taken, *place);
    let oldest = counted.iter().map(|counter| counter.window).min()?;
    window.frees_at_ms(oldest)
}

pub fn of(book: &Book, asks: &[Ask]) -> Result<(Vec<Headroom>, Least), RateError> {
    let mut least = Least::default();
    let mut all = Vec::with_capacity(asks.len());
    for ask in asks {
        let used = ask
            .counted
            .as_ref()
            .map_or_else(Usage::default, |(taken, place)| book.used(taken, *place));
        let policy = &ask.policy;
        let caps = policy.caps;
        let remaining_amount = caps.max_amount.map(|cap| (cap - used.amount).max(0));
        let remaining_count = caps.max_count.map(|cap| cap.saturating_sub(used.count));
        let resets_at_ms = resets_at_ms(book, ask);
        if let Some(amount) = remaining_amount {
            let amount = ask.factor.largest_within(amount)?;
            if least.amount.is_none_or(|known| amount < known) {
                least.amount = Some(amount);
                least.grows_at_ms = resets_at_ms;
            }
        }
        if let Some(count) = remaining_count {
            if least.count.is_none_or(|known| count < known) {
                least.count = Some(count);
                if count == 0 || least.amount.is_none() {
                    least.grows_at_ms = resets_at_ms;
                }
            }
        }
        all.push(Headroom {
            policy: policy.id.clone(),
            version: policy.version,
            subject: policy.subject.name(),
            window: policy.window.name(),
            currency: policy.currency.clone(),
            min_amount: caps.min_amount,
            max_amount: caps.max_amount,
            max_count: caps.max_count,
            used_amount: used.amount,
            used_count: used.count,
            remaining_amount,
            remaining_count,
            resets_at: resets_at_ms.map(rfc3339),
        });
    }
    Ok((all, least))
}

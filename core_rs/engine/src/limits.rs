//! What a payment asks of the limit policies it meets, and what stops it.

use std::sync::Arc;

use crate::rates::{Factor, RateError};
use crate::rules::{Facts, OnBreach, Policy, RuleSet, SubjectKind};
use crate::state::{Counter, Taken, Usage};
use crate::window::{self, rfc3339, Place};

/// One policy met by one payment: what is asked of which counter.
#[derive(Debug, Clone)]
pub struct Ask {
    pub policy: Arc<Policy>,
    /// Minor units of the policy's currency.
    pub amount: i64,
    /// From the payment's currency to the policy's.
    pub factor: Factor,
    /// `None` for an operation window: nothing is counted.
    pub counted: Option<(Taken, Place)>,
}

impl Ask {
    pub fn taken(&self) -> Option<&Taken> {
        self.counted.as_ref().map(|(taken, _)| taken)
    }

    /// What stops this ask when `used` is counted already.
    pub fn breach(&self, used: Usage) -> Option<Measure> {
        let caps = self.policy.caps;
        if caps.min_amount.is_some_and(|floor| self.amount < floor) {
            return Some(Measure::Floor);
        }
        // What does not fit is over any cap, and over none as well.
        let over = |cap: i64| {
            let asked = used.amount.checked_add(self.amount);
            asked.is_none_or(|asked| asked > cap)
        };
        if over(caps.max_amount.unwrap_or(i64::MAX)) {
            return Some(Measure::Amount);
        }
        let one_more = used.count.checked_add(1);
        let cap = caps.max_count.unwrap_or(u32::MAX);
        one_more
            .is_none_or(|count| count > cap)
            .then_some(Measure::Count)
    }
}

/// What of a policy was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Floor,
    Amount,
    Count,
}

/// The matching policies on the payment's subjects, in the precedence of their reasons. A payment
/// that lacks a subject is not counted.
pub fn asks_of(
    rules: &RuleSet,
    facts: &Facts<'_>,
    amount_minor: i64,
    at_ms: i64,
) -> Result<Vec<Ask>, RateError> {
    // Which ask counts a subject first: the others share its name.
    let mut firsts = [None; SubjectKind::ALL.len()];
    let mut name = String::with_capacity(64);
    let policies = rules.policies_for(facts, at_ms);
    let mut asks: Vec<Ask> = Vec::with_capacity(policies.len());
    for policy in policies {
        let Some(id) = facts.subject(policy.subject) else {
            continue;
        };
        let factor = if policy.currency == facts.currency {
            Factor::ONE
        } else {
            let day = window::day(at_ms);
            rules.rates.factor(facts.currency, &policy.currency, day)?
        };
        let amount = factor.up(amount_minor)?;
        let counted = policy.window.place(at_ms).map(|place| {
            let first = &mut firsts[policy.subject as usize];
            let subject = match first.and_then(|first: usize| asks[first].taken()) {
                Some(taken) => Arc::clone(&taken.subject),
                None => {
                    *first = Some(asks.len());
                    name.clear();
                    policy.subject.write(id, &mut name);
                    Arc::from(name.as_str())
                }
            };
            let taken = Taken {
                subject,
                counter: policy.counter,
                window: place.index,
                usage: Usage { amount, count: 1 },
            };
            (taken, place)
        });
        asks.push(Ask {
            policy: Arc::clone(policy),
            amount,
            factor,
            counted,
        });
    }
    Ok(asks)
}

/// An ask that was broken, with what had been counted.
#[derive(Debug, Clone)]
pub struct Breach {
    pub policy: Arc<Policy>,
    pub measure: Measure,
    pub used: Usage,
    /// Minor units of the policy's currency.
    pub asked: i64,
    /// When the headroom first grows, in Unix milliseconds.
    pub resets_at_ms: Option<i64>,
    /// When what was asked would pass, if nothing else happened.
    pub passes_at_ms: Option<i64>,
    /// The largest amount, in the payment's currency, that would have passed this policy.
    pub passes_amount: Option<i64>,
}

impl Breach {
    /// Describes a broken ask; `counted` is what counts for it, from the oldest window on.
    pub fn of(ask: &Ask, measure: Measure, used: Usage, mut counted: Vec<Counter>) -> Self {
        counted.sort_unstable_by_key(|counter| counter.window);
        let window = ask.policy.window;
        let resets_at_ms = match (&ask.counted, counted.first()) {
            (Some((taken, place)), _) if place.counted_to == place.index => {
                window.frees_at_ms(taken.window)
            }
            (_, Some(oldest)) => window.frees_at_ms(oldest.window),
            _ => None,
        };
        let mut left = used;
        let mut passes_at_ms = None;
        for counter in counted {
            left.amount -= counter.amount;
            left.count = left.count.saturating_sub(counter.count);
            if ask.breach(left).is_none() {
                passes_at_ms = window.frees_at_ms(counter.window);
                break;
            }
        }
        let room = ask
            .policy
            .caps
            .max_amount
            .map(|cap| cap.saturating_sub(used.amount));
        let passes_amount = match (measure, room) {
            (Measure::Amount, Some(room)) if room > 0 => ask.factor.largest_within(room).ok(),
            _ => None,
        };
        Self {
            policy: Arc::clone(&ask.policy),
            measure,
            used,
            asked: ask.amount,
            resets_at_ms,
            passes_at_ms,
            passes_amount: passes_amount.filter(|amount| *amount > 0),
        }
    }

    /// `(used, asked, cap)` of what was broken.
    pub fn figures(&self) -> (i64, i64, i64) {
        let caps = self.policy.caps;
        match self.measure {
            Measure::Floor => (0, self.asked, caps.min_amount.unwrap_or(0)),
            Measure::Amount => (
                self.used.amount,
                self.asked,
                caps.max_amount.unwrap_or(i64::MAX),
            ),
            Measure::Count => (
                i64::from(self.used.count),
                1,
                i64::from(caps.max_count.unwrap_or(u32::MAX)),
            ),
        }
    }

    /// A sentence for the one whose limit it is.
    pub fn detail(&self) -> String {
        let policy = &self.policy;
        let subject = policy.subject.name().replace('_', " ");
        let until = self.resets_at_ms.map_or_else(String::new, |at| {
            format!("; it grows again at {}", rfc3339(at))
        });
        match self.measure {
            Measure::Floor => format!(
                "limit {}: the amount is below the least accepted",
                policy.id
            ),
            Measure::Amount => {
                let (used, _, cap) = self.figures();
                let left = cap.saturating_sub(used).max(0);
                let currency = &policy.currency;
                format!(
                    "limit {} on this {subject}: {left} minor units of {currency} are left{until}",
                    policy.id
                )
            }
            Measure::Count => {
                format!(
                    "limit {} on this {subject}: no more payments{until}",
                    policy.id
                )
            }
        }
    }
}

/// What the limits say to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Admit,
    Refuse,
    /// It passes once a stronger authentication is given.
    StepUp,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Refuse => "refuse",
            Self::StepUp => "step_up",
        }
    }
}

/// All must pass, save those that a stronger authentication, once given, has passed.
fn verdict<'a>(breaches: impl Iterator<Item = &'a Breach>, is_stepped_up: bool) -> Verdict {
    let mut verdict = Verdict::Admit;
    for breach in breaches {
        match breach.policy.on_breach {
            OnBreach::Refuse => return Verdict::Refuse,
            OnBreach::StepUp if !is_stepped_up => verdict = Verdict::StepUp,
            OnBreach::StepUp => {}
        }
    }
    verdict
}

/// Where the counts are.
pub trait Counts {
    fn used(&self, taken: &Taken, place: Place) -> Usage;
    /// The counters that make up what is used.
    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter>;
}

/// Every ask, judged on what is counted already.
#[derive(Debug, Clone)]
pub struct Judgement {
    pub verdict: Verdict,
    /// What was counted for each ask, same order.
    pub used: Vec<Usage>,
    /// The asks that were broken, by their number, in their order.
    pub breaches: Vec<(usize, Breach)>,
}

pub fn judge(asks: &[Ask], is_stepped_up: bool, counts: &impl Counts) -> Judgement {
    let mut used = Vec::with_capacity(asks.len());
    let mut breaches = Vec::new();
    for (number, ask) in asks.iter().enumerate() {
        let found = ask.counted.as_ref();
        let usage = found.map_or_else(Usage::default, |(taken, place)| counts.used(taken, *place));
        used.push(usage);
        if let Some(measure) = ask.breach(usage) {
            let counted =
                found.map_or_else(Vec::new, |(taken, place)| counts.counted(taken, *place));
            breaches.push((number, Breach::of(ask, measure, usage, counted)));
        }
    }
    let verdict = verdict(breaches.iter().map(|(_, breach)| breach), is_stepped_up);
    Judgement {
        verdict,
        used,
        breaches,
    }
}

#[cfg(test)]
mod tests;

//! What if: recorded decisions, made again by a draft of the rules.
//!
//! Each decision is made again on its own facts, at its own moment, by the set of rules that
//! decided it with the draft put in. What had been counted is what was recorded, moved by what the
//! draft has let through or stopped so far in this replay; so with nothing changed, nothing
//! differs. A counter that was not kept at the time is built up from the replay's own beginning.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::Serialize;
use thiserror::Error;

use crate::commission::{self, Commission, Line, LineKind};
use crate::limits::{asks_of, judge, Ask, Counts, Verdict};
use crate::record::{Change, Record, RecordError};
use crate::rules::RuleSet;
use crate::state::{Counter, Taken, Usage};
use crate::window::Place;

const MERCHANTS_MAX: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SimulationError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("stored commission lines cannot be read")]
    Lines,
    #[error("the rules of generation {0} were not given")]
    Rules(u64),
}

/// One thing that happened, in order of time.
#[derive(Debug, Clone, Copy)]
pub enum Happened<'a> {
    /// A decision, and the stored commission lines of one that was admitted.
    Decision {
        id: &'a str,
        record: &'a [u8],
        lines: &'a str,
    },
    /// What became of a payment that was admitted.
    Change {
        id: &'a str,
        record: &'a [u8],
        change: Change,
    },
}

type Key = (Arc<str>, u64, i64);

#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    amount: i64,
    count: i64,
}

impl Moved {
    fn by(&mut self, usage: Usage, sign: i64) {
        self.amount = self
            .amount
            .saturating_add(usage.amount.saturating_mul(sign));
        self.count = self.count.saturating_add(i64::from(usage.count) * sign);
    }
}

/// How often something changed, and for how much in each currency.
#[derive(Debug, Clone, Default, Serialize)]
struct Sum {
    count: u64,
    sum: BTreeMap<String, i64>,
}

impl Sum {
    fn add(&mut self, currency: &str, amount: i64) {
        self.count += 1;
        let sum = self.sum.entry(currency.to_owned()).or_default();
        *sum = sum.saturating_add(amount);
    }
}

#[derive(Debug, Default)]
struct Changed {
    all: Sum,
    merchants: HashMap<String, Sum>,
}

impl Changed {
    fn add(&mut self, record: &Record<'_>) {
        let facts = record.facts();
        self.all.add(facts.currency, record.amount);
        if !facts.merchant.is_empty() {
            let of_merchant = self.merchants.entry_ref(facts.merchant).or_default();
            of_merchant.add(facts.currency, record.amount);
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Charged {
    before: i64,
    after: i64,
}

/// A payment whose recorded counts no longer say what the replay has counted.
#[derive(Debug)]
struct Follow {
    /// Was counted in the record, and is not in the replay.
    is_stopped: bool,
    /// What the replay counts that the record did not, by the draft's own asks.
    taken: Vec<(Ask, Taken)>,
}

/// One replay.
#[derive(Debug, Default)]
pub struct Simulation {
    rules: HashMap<u64, Arc<RuleSet>>,
    /// What the recorded counts are to be moved by.
    moved: HashMap<Key, Moved>,
    /// Counters that no record holds, built up here.
    built: HashMap<(Arc<str>, u64), BTreeMap<i64, Moved>>,
    follow: HashMap<String, Follow>,
    decisions: u64,
    newly_refused: Changed,
    newly_allowed: Changed,
    newly_stepped_up: Changed,
    differing: u64,
    charged: BTreeMap<(String, String, &'static str, String), Charged>,
}

/// The counts of one decision in the replay.
struct Replayed<'a> {
    simulation: &'a Simulation,
    record: &'a Record<'a>,
}

impl Replayed<'_> {
    fn moved(&self, taken: &Taken, place: Place) -> Moved {
        // A record holds what counted at its own place, whatever windows that spans.
        let mut sum = Moved::default();
        for window in place.counted_from..=place.index {
            let key = (Arc::clone(&taken.subject), taken.counter, window);
            if let Some(moved) = self.simulation.moved.get(&key) {
                sum.amount = sum.amount.saturating_add(moved.amount);
                sum.count = sum.count.saturating_add(moved.count);
            }
        }
        sum
    }
}

impl Counts for Replayed<'_> {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        let recorded = self
            .record
            .asks
            .iter()
            .find(|ask| ask.counter() == taken.counter);
        let (base, moved) = match recorded {
            Some(ask) => (ask.used, self.moved(taken, place)),
            None => {
                let key = (Arc::clone(&taken.subject), taken.counter);
                let mut sum = Moved::default();
                if let Some(windows) = self.simulation.built.get(&key) {
                    for moved in windows.range(place.counted_from..=place.counted_to) {
                        sum.amount = sum.amount.saturating_add(moved.1.amount);
                        sum.count = sum.count.saturating_add(moved.1.count);
                    }
                }
                (Usage::default(), sum)
            }
        };
        let count = i64::from(base.count).saturating_add(moved.count).max(0);
        Usage {
            amount: base.amount.saturating_add(moved.amount).max(0),
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }
    }

    fn counted(&self, _taken: &Taken, _place: Place) -> Vec<Counter> {
        // When it would pass is not asked of a replay.
        Vec::new()
    }
}

impl Simulation {
    /// Gives the set that decisions of a generation are made again by.
    pub fn use_rules(&mut self, generation: u64, rules: Arc<RuleSet>) {
        self.rules.insert(generation, rules);
    }

    pub fn feed(&mut self, happened: Happened<'_>) -> Result<(), SimulationError> {
        match happened {
            Happened::Decision { id, record, lines } => self.decision(id, record, lines),
            Happened::Change { id, record, change } => self.change(id, record, change),
        }
    }

    fn rules_of(&self, generation: u64) -> Result<Arc<RuleSet>, SimulationError> {
        self.rules
            .get(&generation)
            .map(Arc::clone)
            .ok_or(SimulationError::Rules(generation))
    }

    fn decision(&mut self, id: &str, record: &[u8], lines: &str) -> Result<(), SimulationError> {
        let record = Record::read(record)?;
        let is_about_rules = matches!(
            &*record.code,
            "" | "limit-exceeded"
                | "commission-plan-missing"
                | "commission-exceeds-amount"
                | "exchange-rate-missing"
                | "amount-out-of-range"
        );
        self.decisions += 1;
        if !is_about_rules {
            return Ok(());
        }
        let (verdict, commission, asks) = self.made_again(&record)?;
        if verdict != record.verdict {
            self.differing += 1;
            match (record.verdict, verdict) {
                (_, Verdict::Refuse) => self.newly_refused.add(&record),
                (Verdict::Refuse, Verdict::Admit) => self.newly_allowed.add(&record),
                (Verdict::StepUp, Verdict::Admit) => self.newly_allowed.add(&record),
                (_, Verdict::StepUp) => self.newly_stepped_up.add(&record),
                (Verdict::Admit, Verdict::Admit) => {}
            }
        }
        if record.verdict == Verdict::Admit {
            let lines: Vec<Line> =
                serde_json::from_str(lines).map_err(|_| SimulationError::Lines)?;
            self.charge(&record, &lines, commission.as_ref(), verdict);
        }
        self.count(id, &record, verdict, asks);
        Ok(())
    }

    fn made_again(
        &self,
        record: &Record<'_>,
    ) -> Result<(Verdict, Option<Commission>, Vec<Ask>), SimulationError> {
        let facts = record.facts();
        let rules = self.rules_of(record.generation)?;
        let (priced_generation, priced_at_ms) =
            record.priced.unwrap_or((record.generation, record.at_ms));
        let pricing = self.rules_of(priced_generation)?;
        let commission = pricing
            .plan_for(&facts, priced_at_ms)
            .and_then(|plan| commission::compute(plan, record.amount).ok());
        let Some(commission) = commission else {
            return Ok((Verdict::Refuse, None, Vec::new()));
        };
        let Ok(asks) = asks_of(&rules, &facts, record.amount, record.at_ms) else {
            return Ok((Verdict::Refuse, Some(commission), Vec::new()));
        };
        let counts = Replayed {
            simulation: self,
            record,
        };
        let judgement = judge(&asks, record.is_stepped_up, &counts);
        Ok((judgement.verdict, Some(commission), asks))
    }

    /// Counts in the replay what differs from what was recorded.
    fn count(&mut self, id: &str, record: &Record<'_>, verdict: Verdict, asks: Vec<Ask>) {
        let was_counted = record.verdict == Verdict::Admit;
        let is_counted = verdict == Verdict::Admit;
        if was_counted && !is_counted {
            for taken in record.given_back(Change::Ended) {
                self.move_recorded(&taken, -1);
            }
        }
        let mut held = Vec::new();
        if is_counted {
            for ask in asks {
                let Some(taken) = ask.taken().cloned() else {
                    continue;
                };
                let is_recorded = record
                    .asks
                    .iter()
                    .any(|recorded| recorded.counter() == taken.counter);
                match (is_recorded, was_counted) {
                    (true, true) => continue,
                    (true, false) => self.move_recorded(&taken, 1),
                    (false, _) => self.build(&taken, taken.usage, 1),
                }
                held.push((ask, taken));
            }
        }
        if (was_counted && !is_counted) || !held.is_empty() {
            let follow = Follow {
                is_stopped: was_counted && !is_counted,
                taken: held,
            };
            self.follow.insert(id.to_owned(), follow);
        }
    }

    fn change(&mut self, id: &str, record: &[u8], change: Change) -> Result<(), SimulationError> {
        let Some(follow) = self.follow.get(id) else {
            return Ok(());
        };
        if follow.is_stopped {
            // The record's later counts are without it already: they need no moving any more.
            for taken in Record::read(record)?.given_back(change) {
                self.move_recorded(&taken, 1);
            }
            return Ok(());
        }
        let record = Record::read(record)?;
        let mut back = Vec::new();
        for (ask, taken) in &follow.taken {
            let counted = |amount: i64| ask.factor.up(amount).unwrap_or(0);
            let part = |from: i64, to: i64| Usage {
                amount: counted(from) - counted(to),
                count: 0,
            };
            let usage = match change {
                Change::Ended => taken.usage,
                Change::Captured { amount } => part(record.amount, amount),
                Change::Refunded { .. } if !ask.policy.restore_on_refund => continue,
                Change::Refunded {
                    captured,
                    before,
                    after,
                } => part(captured - before, captured - after),
            };
            back.push((taken.clone(), usage));
        }
        for (taken, usage) in back {
            self.build(&taken, usage, -1);
        }
        Ok(())
    }

    fn move_recorded(&mut self, taken: &Taken, sign: i64) {
        let key = (Arc::clone(&taken.subject), taken.counter, taken.window);
        self.moved.entry(key).or_default().by(taken.usage, sign);
    }

    fn build(&mut self, taken: &Taken, usage: Usage, sign: i64) {
        let key = (Arc::clone(&taken.subject), taken.counter);
        let windows = self.built.entry(key).or_default();
        windows.entry(taken.window).or_default().by(usage, sign);
    }

    fn charge(
        &mut self,
        record: &Record<'_>,
        lines: &[Line],
        commission: Option<&Commission>,
        verdict: Verdict,
    ) {
        let currency = record.facts().currency.to_owned();
        let after = commission.filter(|_| verdict == Verdict::Admit).into_iter();
        let key = |plan: &str, line: &Line| {
            let kind = match line.kind {
                LineKind::Vat => "vat",
                _ => "commission",
            };
            (
                plan.to_owned(),
                line.component.clone(),
                kind,
                currency.clone(),
            )
        };
        for line in lines {
            let charged = self.charged.entry(key(record.plan, line)).or_default();
            charged.before = charged.before.saturating_add(line.amount);
        }
        for commission in after {
            for line in &commission.lines {
                let charged = self.charged.entry(key(&commission.plan, line)).or_default();
                charged.after = charged.after.saturating_add(line.amount);
            }
        }
    }

    /// What differs so far, as JSON.
    pub fn report(&self) -> Vec<u8> {
        let report = Report {
            decisions: self.decisions,
            differing: self.differing,
            newly_refused: changed(&self.newly_refused),
            newly_allowed: changed(&self.newly_allowed),
            newly_stepped_up: changed(&self.newly_stepped_up),
            commission: self
                .charged
                .iter()
                .filter(|(_, charged)| charged.before != charged.after)
                .map(
                    |((plan, component, kind, currency), charged)| CommissionChange {
                        plan,
                        component,
                        kind,
                        currency,
                        before: charged.before,
                        after: charged.after,
                        change: charged.after.saturating_sub(charged.before),
                    },
                )
                .collect(),
        };
        serde_json::to_vec(&report).unwrap_or_default()
    }
}

fn changed(changed: &Changed) -> ChangedReport<'_> {
    let mut merchants: Vec<_> = changed.merchants.iter().collect();
    merchants.sort_by(|left, right| (right.1.count, left.0).cmp(&(left.1.count, right.0)));
    ChangedReport {
        all: &changed.all,
        merchants: merchants
            .into_iter()
            .take(MERCHANTS_MAX)
            .map(|(merchant, sum)| MerchantReport { merchant, sum })
            .collect(),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    decisions: u64,
    differing: u64,
    newly_refused: ChangedReport<'a>,
    newly_allowed: ChangedReport<'a>,
    newly_stepped_up: ChangedReport<'a>,
    commission: Vec<CommissionChange<'a>>,
}

#[derive(Serialize)]
struct ChangedReport<'a> {
    #[serde(flatten)]
    all: &'a Sum,
    merchants: Vec<MerchantReport<'a>>,
}

#[derive(Serialize)]
struct MerchantReport<'a> {
    merchant: &'a str,
    #[serde(flatten)]
    sum: &'a Sum,
}

#[derive(Serialize)]
struct CommissionChange<'a> {
    plan: &'a str,
    component: &'a str,
    kind: &'a str,
    currency: &'a str,
    before: i64,
    after: i64,
    change: i64,
}

#[cfg(test)]
mod tests;

//! A stored decision, told: what each limit had counted, and what would have passed.

use serde::Serialize;

use crate::limits::{Measure, Verdict};
use crate::record::{Record, RecordedAsk};
use crate::rules::OnBreach;
use crate::window::rfc3339;

#[derive(Serialize)]
struct Told<'a> {
    at: String,
    generation: u64,
    verdict: &'static str,
    code: Option<&'a str>,
    is_stepped_up: bool,
    revocation_seq: i64,
    session: Option<&'a str>,
    operation: &'a str,
    amount: i64,
    currency: &'a str,
    source_scheme: Option<&'a str>,
    destination_scheme: Option<&'a str>,
    issuer_bin: Option<&'a str>,
    tier: Option<&'a str>,
    channel: Option<&'a str>,
    merchant: Option<&'a str>,
    mcc: Option<&'a str>,
    country: Option<&'a str>,
    user: Option<&'a str>,
    device: Option<&'a str>,
    plan: Option<&'a str>,
    plan_version: Option<u32>,
    is_quoted: bool,
    limits: Vec<Limit<'a>>,
    nearest: Nearest,
}

#[derive(Serialize)]
struct Limit<'a> {
    policy: &'a str,
    version: u32,
    subject: &'static str,
    window: &'static str,
    currency: &'a str,
    used_amount: i64,
    used_count: u32,
    asked: i64,
    min_amount: Option<i64>,
    max_amount: Option<i64>,
    max_count: Option<u32>,
    resets_at: Option<String>,
    passes_at: Option<String>,
    on_breach: &'static str,
    is_breached: bool,
    /// What was broken: `min_amount`, `max_amount` or `max_count`.
    broken: Option<&'static str>,
}

/// The nearest change that would have passed; of one that passed, none.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// Minor units of the payment's currency, less than was asked, or more when too little was.
    pub amount: Option<i64>,
    /// If nothing else happened.
    pub at: Option<String>,
    pub step_up: bool,
}

fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// JSON of a decision.
pub fn json(record: &Record<'_>) -> Vec<u8> {
    let facts = record.facts();
    let told = Told {
        at: rfc3339(record.at_ms),
        generation: record.generation,
        verdict: record.verdict.name(),
        code: present(&record.code),
        is_stepped_up: record.is_stepped_up,
        revocation_seq: record.revocation_seq,
        session: present(&record.session),
        operation: facts.operation,
        amount: record.amount,
        currency: facts.currency,
        source_scheme: present(facts.source_scheme),
        destination_scheme: present(facts.destination_scheme),
        issuer_bin: present(facts.issuer_bin),
        tier: present(facts.tier),
        channel: present(facts.channel),
        merchant: present(facts.merchant),
        mcc: present(facts.mcc),
        country: present(facts.country),
        user: present(facts.user),
        device: present(facts.device),
        plan: present(record.plan),
        plan_version: present(record.plan).map(|_| record.plan_version),
        is_quoted: record.priced.is_some(),
        limits: record.asks.iter().map(limit).collect(),
        nearest: nearest(record),
    };
    serde_json::to_vec(&told).unwrap_or_default()
}

fn limit<'a>(ask: &'a RecordedAsk<'_>) -> Limit<'a> {
    let broken = ask.broken;
    let resets_at_ms = match broken {
        Some(broken) => broken.resets_at_ms,
        None => ask.window.frees_at_ms(ask.window_number),
    };
    Limit {
        policy: ask.policy,
        version: ask.version,
        subject: ask.subject.name(),
        window: ask.window.name(),
        currency: &ask.currency,
        used_amount: ask.used.amount,
        used_count: ask.used.count,
        asked: ask.amount,
        min_amount: ask.caps.min_amount,
        max_amount: ask.caps.max_amount,
        max_count: ask.caps.max_count,
        resets_at: resets_at_ms.map(rfc3339),
        passes_at: broken.and_then(|broken| broken.passes_at_ms).map(rfc3339),
        on_breach: match ask.on_breach {
            OnBreach::Refuse => "refuse",
            OnBreach::StepUp => "step_up",
        },
        is_breached: broken.is_some(),
        broken: broken.map(|broken| match broken.measure {
            Measure::Floor => "min_amount",
            Measure::Amount => "max_amount",
            Measure::Count => "max_count",
        }),
    }
}

pub fn nearest(record: &Record<'_>) -> Nearest {
    let broken: Vec<_> = record
        .asks
        .iter()
        .filter_map(|ask| ask.broken.map(|broken| (ask, broken)))
        .collect();
    if record.verdict == Verdict::Admit || broken.is_empty() {
        return Nearest::default();
    }
    let passing: Option<Vec<i64>> = broken.iter().map(|(_, one)| one.passes_at_ms).collect();
    Nearest {
        amount: nearest_amount(record),
        at: passing.and_then(|all| all.into_iter().max()).map(rfc3339),
        step_up: broken
            .iter()
            .all(|(ask, _)| ask.on_breach == OnBreach::StepUp),
    }
}

/// The amount nearest to the one asked that every limit would have let pass now.
fn nearest_amount(record: &Record<'_>) -> Option<i64> {
    let mut least = 1;
    let mut most = i64::MAX;
    for ask in &record.asks {
        let is_full = ask.caps.max_count.is_some_and(|cap| ask.used.count >= cap);
        if is_full {
            return None;
        }
        if let Some(cap) = ask.caps.max_amount {
            let room = cap.checked_sub(ask.used.amount).filter(|room| *room > 0)?;
            most = most.min(ask.factor.largest_within(room).ok()?);
        }
        if let Some(floor) = ask.caps.min_amount {
            // The least amount that reaches the floor is one more than the largest below it.
            let below = ask.factor.largest_within(floor - 1).ok()?;
            least = least.max(below + 1);
        }
    }
    let nearest = record.amount.clamp(least, most.max(least));
    (nearest <= most && nearest != record.amount).then_some(nearest)
}

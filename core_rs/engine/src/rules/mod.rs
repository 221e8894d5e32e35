//! Commission plans, limit policies and rates as one set of versioned data.
//!
//! A set is read once ([`read`]), complete or not at all, and never changes; what is not
//! understood is refused when it is read, never met by a payment. Finding what matches a payment
//! costs the same whatever else the set holds.

mod form;
mod index;

use std::sync::Arc;

use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};

use crate::money::Rounding;
use crate::problem::FieldError;
use crate::rates::Rates;
use crate::window::Window;

pub use index::MatchKey;
use index::{Index, Match};

pub const OPERATIONS: [&str; 3] = ["purchase", "transfer", "payout"];

/// What is known of one payment when rules are applied to it. An absent fact is empty, and no list
/// contains it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    pub operation: &'a str,
    pub currency: &'a str,
    pub source_scheme: &'a str,
    pub destination_scheme: &'a str,
    pub tier: &'a str,
    pub channel: &'a str,
    pub merchant: &'a str,
    pub mcc: &'a str,
    pub country: &'a str,
    pub source_card: &'a str,
    pub destination_card: &'a str,
    pub issuer_bin: &'a str,
    pub user: &'a str,
    pub device: &'a str,
}

impl<'a> Facts<'a> {
    fn get(&self, key: MatchKey) -> &'a str {
        match key {
            MatchKey::Operation => self.operation,
            MatchKey::Scheme | MatchKey::SourceScheme => self.source_scheme,
            MatchKey::DestinationScheme => self.destination_scheme,
            MatchKey::Tier => self.tier,
            MatchKey::Channel => self.channel,
            MatchKey::Merchant => self.merchant,
            MatchKey::Mcc => self.mcc,
            MatchKey::Country => self.country,
            MatchKey::Currency => self.currency,
        }
    }

    /// Who or what a limit of this kind counts for; `None` when the payment lacks it.
    pub fn subject(&self, kind: SubjectKind) -> Option<&'a str> {
        let id = match kind {
            SubjectKind::Card => self.source_card,
            SubjectKind::DestinationCard => self.destination_card,
            SubjectKind::User => self.user,
            SubjectKind::Merchant => self.merchant,
            SubjectKind::Device => self.device,
            SubjectKind::IssuerBin => self.issuer_bin,
            SubjectKind::Scheme => self.source_scheme,
            SubjectKind::Platform => "oqim",
        };
        Some(id).filter(|id| !id.is_empty())
    }
}

/// `[from, to)` in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Effective {
    from_ms: i64,
    to_ms: i64,
}

impl Effective {
    fn contains(&self, at_ms: i64) -> bool {
        self.from_ms <= at_ms && at_ms < self.to_ms
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.from_ms < other.to_ms && other.from_ms < self.to_ms
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    Sender,
    Receiver,
    Bank,
}

impl Payer {
    const ALL: [(&'static str, Self); 4] = [
        ("sender", Self::Sender),
        ("receiver", Self::Receiver),
        // The receiver of a purchase, by its name.
        ("merchant", Self::Receiver),
        ("bank", Self::Bank),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
            Self::Bank => "bank",
        }
    }
}

/// What becomes of a commission when the payment is refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRefund {
    /// It is kept.
    None,
    /// It is given back once the refunds reach the whole amount.
    Full,
    /// It is given back in proportion.
    Proportional,
}

impl OnRefund {
    const ALL: [(&'static str, Self); 3] = [
        ("none", Self::None),
        ("full", Self::Full),
        ("proportional", Self::Proportional),
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierMode {
    /// The whole amount at the tier it falls in.
    Volume,
    /// Each slice at its own tier.
    Graduated,
}

impl TierMode {
    const ALL: [(&'static str, Self); 2] =
        [("volume", Self::Volume), ("graduated", Self::Graduated)];
}

/// Amounts over the tier before it, up to and with `up_to`; the last has no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    pub up_to: Option<i64>,
    pub percent_millionths: i64,
    pub fixed_minor: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentKind {
    Fixed { amount_minor: i64 },
    Percent { percent_millionths: i64 },
    Tiered { mode: TierMode, tiers: Vec<Tier> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub name: String,
    pub kind: ComponentKind,
    pub rounding: Rounding,
    /// The rounded value is clamped to `[min, max]`; a fixed component has neither.
    pub min_minor: i64,
    pub max_minor: i64,
    pub vat_millionths: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub party: String,
    pub share_millionths: i64,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub id: String,
    pub version: u32,
    pub payer: Payer,
    pub components: Vec<Component>,
    pub split: Vec<Share>,
    pub on_refund: OnRefund,
    priority: i64,
    matching: Match,
    effective: Effective,
}

/// Who or what a limit counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubjectKind {
    Card,
    DestinationCard,
    User,
    Merchant,
    Device,
    IssuerBin,
    Scheme,
    Platform,
}

impl SubjectKind {
    pub const ALL: [(&'static str, Self); 8] = [
        ("card", Self::Card),
        ("destination_card", Self::DestinationCard),
        ("user", Self::User),
        ("merchant", Self::Merchant),
        ("device", Self::Device),
        ("issuer_bin", Self::IssuerBin),
        ("scheme", Self::Scheme),
        ("platform", Self::Platform),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Who or what is counted, by its kind and id.
    pub fn of(self, id: &str) -> String {
        let mut subject = String::new();
        self.write(id, &mut subject);
        subject
    }

    /// Write `of` to a text.
    pub fn write(self, id: &str, out: &mut String) {
        out.push_str(self.name());
        out.push(':');
        out.push_str(id);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBreach {
    Refuse,
    /// The payment passes once a stronger authentication is given.
    StepUp,
}

impl OnBreach {
    const ALL: [(&'static str, Self); 2] = [("refuse", Self::Refuse), ("step_up", Self::StepUp)];
}

/// What a policy allows. At least one of them is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    pub min_amount: Option<i64>,
    pub max_amount: Option<i64>,
    pub max_count: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct Policy {
    pub id: String,
    pub version: u32,
    pub subject: SubjectKind,
    pub window: Window,
    pub caps: Caps,
    pub currency: String,
    pub on_breach: OnBreach,
    pub restore_on_refund: bool,
    /// Names this policy's counters in a subject's state.
    pub counter: u64,
    priority: i64,
    matching: Match,
    effective: Effective,
    /// Its place in the precedence of reasons.
    rank: usize,
}

/// The name of a policy's counters: the same for all its versions that count the same thing, so
/// that a changed cap applies to the counts already made.
pub fn counter_of(id: &str, subject: SubjectKind, window: Window, currency: &str) -> u64 {
    let seconds = match window {
        Window::Rolling { seconds } => seconds,
        _ => 0,
    };
    let name = format!(
        "{id}\n{}\n{}{seconds}\n{currency}",
        subject.name(),
        window.name()
    );
    let digest = Sha256::digest(name.as_bytes());
    let mut counter = [0; 8];
    counter.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(counter)
}

/// One consistent set of rules.
#[derive(Debug, Default)]
pub struct RuleSet {
    plans: Vec<Arc<Plan>>,
    plan_index: Index,
    /// In the precedence of their reasons.
    policies: Vec<Arc<Policy>>,
    policy_index: Index,
    versions: HashMap<String, Vec<(u32, usize)>>,
    pub rates: Rates,
}

/// Reads `{"commission_plans": [...], "limit_policies": [...], "rates": [...]}`: the set, or
/// everything that is wrong with it, each with a pointer from the document's root.
pub fn read(text: &[u8]) -> Result<RuleSet, Vec<FieldError>> {
    let form = form::read(text)?;
    let mut faults = Vec::new();
    let plans = index::Rules::of(&form.plans, |plan| index::Rule {
        id: &plan.id,
        version: plan.version,
        matching: &plan.matching,
        effective: plan.effective,
    });
    plans.twins("/commission_plans", &mut faults);
    plans.collisions(
        "/commission_plans",
        |number| form.plans[number].priority,
        &mut faults,
    );
    let plan_index = plans.index();
    let mut policies = form.policies;
    index::Rules::of(&policies, policy_rule).twins("/limit_policies", &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    // The precedence of reasons: operation windows, then priority, then id.
    policies.sort_by(|left, right| {
        let key = |policy: &Policy| {
            (
                policy.window != Window::Operation,
                std::cmp::Reverse(policy.priority),
            )
        };
        key(left)
            .cmp(&key(right))
            .then_with(|| left.id.cmp(&right.id))
    });
    for (rank, policy) in policies.iter_mut().enumerate() {
        policy.rank = rank;
    }
    let policy_index = index::Rules::of(&policies, policy_rule).index();
    let mut versions: HashMap<String, Vec<(u32, usize)>> = HashMap::new();
    for (number, plan) in form.plans.iter().enumerate() {
        let of_plan = versions.entry_ref(plan.id.as_str()).or_default();
        of_plan.push((plan.version, number));
    }
    Ok(RuleSet {
        plans: form.plans.into_iter().map(Arc::new).collect(),
        plan_index,
        policies: policies.into_iter().map(Arc::new).collect(),
        policy_index,
        versions,
        rates: form.rates,
    })
}

fn policy_rule(policy: &Policy) -> index::Rule<'_> {
    index::Rule {
        id: &policy.id,
        version: policy.version,
        matching: &policy.matching,
        effective: policy.effective,
    }
}

impl RuleSet {
    /// The plan of the highest priority that matches at a moment.
    pub fn plan_for(&self, facts: &Facts<'_>, at_ms: i64) -> Option<&Arc<Plan>> {
        let mut found: Option<&Arc<Plan>> = None;
        self.plan_index.matching(facts, at_ms, |number| {
            let plan = &self.plans[number];
            if found.is_none_or(|best| best.priority < plan.priority) {
                found = Some(plan);
            }
        });
        found
    }

    /// A version of a plan, for what was authorised under it.
    pub fn plan_version(&self, id: &str, version: u32) -> Option<&Arc<Plan>> {
        let versions = self.versions.get(id)?;
        let (_, number) = versions.iter().find(|(known, _)| *known == version)?;
        Some(&self.plans[*number])
    }

    /// All policies that match at a moment, in the precedence of their reasons.
    pub fn policies_for(&self, facts: &Facts<'_>, at_ms: i64) -> Vec<&Arc<Policy>> {
        let mut found = Vec::with_capacity(8);
        self.policy_index.matching(facts, at_ms, |number| {
            found.push(&self.policies[number]);
        });
        found.sort_unstable_by_key(|policy| policy.rank);
        found
    }
}

#[cfg(test)]
mod tests;

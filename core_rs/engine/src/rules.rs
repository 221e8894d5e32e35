//! Commission plans and limit policies as versioned data: their form, and which of them match.
//!
//! The form is the admin API's JSON. What is not understood is refused when rules are loaded,
//! never met by a payment: unknown members and kinds, windows or components not offered here.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::money::{self, Rounding, AMOUNT_MAX};
use crate::window::{self, Window};

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RulesError {
    #[error("{0}")]
    Form(String),
    #[error("{rule}: {reason}")]
    Rule { rule: String, reason: &'static str },
}

/// What rules can be matched on, of one payment. An absent fact is `None` or empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    pub operation: &'a str,
    pub source_scheme: &'a str,
    pub destination_scheme: &'a str,
    pub tier: &'a str,
    pub channel: &'a str,
    pub merchant: &'a str,
    pub mcc: &'a str,
    pub country: &'a str,
    pub currency: &'a str,
    pub at_ms: i64,
}

impl Facts<'_> {
    fn get(&self, key: MatchKey) -> &str {
        match key {
            MatchKey::Operation => self.operation,
            // A payout has no source; its scheme is the one it goes to.
            MatchKey::Scheme if self.source_scheme.is_empty() => self.destination_scheme,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchKey {
    Operation,
    Scheme,
    SourceScheme,
    DestinationScheme,
    Tier,
    Channel,
    Merchant,
    Mcc,
    Country,
    Currency,
}

type Match = BTreeMap<MatchKey, Vec<String>>;

/// An absent or empty list matches everything; a listed key must contain the payment's value.
fn matches(wanted: &Match, facts: &Facts<'_>) -> bool {
    wanted
        .iter()
        .all(|(key, values)| values.is_empty() || values.iter().any(|v| v == facts.get(*key)))
}

/// `[from, to)` in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Effective {
    from_ms: i64,
    to_ms: i64,
}

impl Effective {
    fn read(rule: &str, from: Option<&str>, to: Option<&str>) -> Result<Self, RulesError> {
        let at = |text: Option<&str>, absent| match text {
            None => Ok(absent),
            Some(text) => window::parse_rfc3339(text).ok_or_else(|| RulesError::Rule {
                rule: rule.to_owned(),
                reason: "effective_from and effective_to are RFC 3339 times with an offset",
            }),
        };
        Ok(Self {
            from_ms: at(from, i64::MIN)?,
            to_ms: at(to, i64::MAX)?,
        })
    }

    fn contains(&self, at_ms: i64) -> bool {
        self.from_ms <= at_ms && at_ms < self.to_ms
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.from_ms < other.to_ms && other.from_ms < self.to_ms
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payer {
    Sender,
    Receiver,
    Bank,
}

impl Payer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
            Self::Bank => "bank",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanForm {
    id: String,
    version: u32,
    effective_from: Option<String>,
    effective_to: Option<String>,
    #[serde(default)]
    priority: i32,
    #[serde(default, rename = "match")]
    matching: Match,
    payer: Payer,
    #[serde(default)]
    components: Vec<ComponentForm>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum ComponentForm {
    Fixed {
        name: String,
        amount: i64,
        #[serde(default)]
        rounding: Rounding,
        vat_percent: Option<String>,
    },
    Percent {
        name: String,
        percent: String,
        min: Option<i64>,
        max: Option<i64>,
        #[serde(default)]
        rounding: Rounding,
        vat_percent: Option<String>,
    },
}

#[derive(Debug, Clone)]
pub enum ComponentKind {
    Fixed {
        amount_minor: i64,
    },
    /// Clamped to `[min, max]` after rounding.
    Percent {
        percent_millionths: i64,
        min_minor: i64,
        max_minor: i64,
    },
}

#[derive(Debug, Clone)]
pub struct Component {
    pub name: String,
    pub kind: ComponentKind,
    pub rounding: Rounding,
    pub vat_millionths: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub id: String,
    pub version: u32,
    pub payer: Payer,
    pub components: Vec<Component>,
    priority: i32,
    matching: Match,
    effective: Effective,
}

impl Plan {
    fn read(form: PlanForm) -> Result<Self, RulesError> {
        let effective = Effective::read(
            &form.id,
            form.effective_from.as_deref(),
            form.effective_to.as_deref(),
        )?;
        let components = form
            .components
            .into_iter()
            .map(|component| Component::read(&form.id, component))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: form.id,
            version: form.version,
            payer: form.payer,
            components,
            priority: form.priority,
            matching: form.matching,
            effective,
        })
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.effective.contains(facts.at_ms) && matches(&self.matching, facts)
    }

    /// Whether some payment at some moment could match both, with nothing to choose between them.
    fn collides_with(&self, other: &Self) -> bool {
        self.priority == other.priority
            && self.effective.overlaps(&other.effective)
            && self.matching.iter().all(|(key, values)| {
                let others = other.matching.get(key).map_or(&[][..], Vec::as_slice);
                values.is_empty() || others.is_empty() || values.iter().any(|v| others.contains(v))
            })
    }
}

impl Component {
    fn read(plan: &str, form: ComponentForm) -> Result<Self, RulesError> {
        let error = |reason| RulesError::Rule {
            rule: plan.to_owned(),
            reason,
        };
        let percent_of = |text: &str| {
            money::parse_percent(text)
                .map_err(|_| error("a percent is a decimal string from 0 to 100"))
        };
        let vat = |text: Option<String>| text.as_deref().map(percent_of).transpose();
        let amount_of = |amount: i64| {
            (0..=AMOUNT_MAX)
                .contains(&amount)
                .then_some(amount)
                .ok_or_else(|| error("amounts of a component are from 0 to 10^15 minor units"))
        };
        match form {
            ComponentForm::Fixed {
                name,
                amount,
                rounding,
                vat_percent,
            } => Ok(Self {
                name,
                kind: ComponentKind::Fixed {
                    amount_minor: amount_of(amount)?,
                },
                rounding,
                vat_millionths: vat(vat_percent)?,
            }),
            ComponentForm::Percent {
                name,
                percent,
                min,
                max,
                rounding,
                vat_percent,
            } => {
                let min_minor = amount_of(min.unwrap_or(0))?;
                let max_minor = amount_of(max.unwrap_or(AMOUNT_MAX))?;
                if min_minor > max_minor {
                    return Err(error("min is over max"));
                }
                let percent_millionths = percent_of(&percent)?;
                Ok(Self {
                    name,
                    kind: ComponentKind::Percent {
                        percent_millionths,
                        min_minor,
                        max_minor,
                    },
                    rounding,
                    vat_millionths: vat(vat_percent)?,
                })
            }
        }
    }
}

/// Who or what a limit counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    pub fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::DestinationCard => "destination_card",
            Self::User => "user",
            Self::Merchant => "merchant",
            Self::Device => "device",
            Self::IssuerBin => "issuer_bin",
            Self::Scheme => "scheme",
            Self::Platform => "platform",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnBreach {
    Refuse,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyForm {
    id: String,
    version: u32,
    effective_from: Option<String>,
    effective_to: Option<String>,
    #[serde(default)]
    priority: i32,
    subject: SubjectKind,
    #[serde(default, rename = "match")]
    matching: Match,
    window: Window,
    min_amount: Option<i64>,
    max_amount: Option<i64>,
    max_count: Option<u32>,
    currency: String,
    #[serde(default = "refuse")]
    on_breach: OnBreach,
    #[serde(default)]
    restore_on_refund: bool,
}

fn refuse() -> OnBreach {
    OnBreach::Refuse
}

#[derive(Debug, Clone)]
pub struct Policy {
    pub id: String,
    pub version: u32,
    pub subject: SubjectKind,
    pub window: Window,
    pub min_amount: Option<i64>,
    pub max_amount: Option<i64>,
    pub max_count: Option<u32>,
    pub currency: String,
    pub restore_on_refund: bool,
    /// Names this policy's counters in a subject's state; the same for all its versions, so that a
    /// changed policy applies to the counts already made.
    pub counter: u64,
    priority: i32,
    matching: Match,
    effective: Effective,
}

impl Policy {
    fn read(form: PolicyForm) -> Result<Self, RulesError> {
        let error = |reason| RulesError::Rule {
            rule: form.id.clone(),
            reason,
        };
        let amounts = [form.min_amount, form.max_amount];
        if amounts.iter().flatten().any(|amount| *amount < 0) {
            return Err(error("amounts of a policy are not negative"));
        }
        if form.min_amount.is_some() && form.window != (Window::Operation {}) {
            return Err(error("min_amount belongs to an operation window"));
        }
        if form.min_amount.is_none() && form.max_amount.is_none() && form.max_count.is_none() {
            return Err(error(
                "a policy has a min_amount, a max_amount or a max_count",
            ));
        }
        let OnBreach::Refuse = form.on_breach;
        let effective = Effective::read(
            &form.id,
            form.effective_from.as_deref(),
            form.effective_to.as_deref(),
        )?;
        let digest = Sha256::digest(form.id.as_bytes());
        let mut counter = [0; 8];
        counter.copy_from_slice(&digest[..8]);
        Ok(Self {
            version: form.version,
            subject: form.subject,
            window: form.window,
            min_amount: form.min_amount,
            max_amount: form.max_amount,
            max_count: form.max_count,
            currency: form.currency,
            restore_on_refund: form.restore_on_refund,
            counter: u64::from_le_bytes(counter),
            priority: form.priority,
            matching: form.matching,
            effective,
            id: form.id,
        })
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.effective.contains(facts.at_ms)
            && self.currency == facts.currency
            && matches(&self.matching, facts)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesForm {
    #[serde(default)]
    commission_plans: Vec<PlanForm>,
    #[serde(default)]
    limit_policies: Vec<PolicyForm>,
}

/// One consistent set of rules, indexed by what every payment has: its operation.
#[derive(Debug, Default)]
pub struct Rules {
    plans: HashMap<String, Vec<Arc<Plan>>>,
    policies: HashMap<String, Vec<Arc<Policy>>>,
    versions: HashMap<(String, u32), Arc<Plan>>,
}

pub const OPERATIONS: [&str; 3] = ["purchase", "transfer", "payout"];

impl Rules {
    /// Reads `{"commission_plans": [...], "limit_policies": [...]}`.
    pub fn read(text: &[u8]) -> Result<Self, RulesError> {
        let form: RulesForm =
            serde_json::from_slice(text).map_err(|error| RulesError::Form(error.to_string()))?;
        let mut plans = form
            .commission_plans
            .into_iter()
            .map(|plan| Plan::read(plan).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        plans.sort_by_key(|plan| std::cmp::Reverse(plan.priority));
        for (index, plan) in plans.iter().enumerate() {
            if plans[..index].iter().any(|other| plan.collides_with(other)) {
                let reason = "another plan of equal priority can match the same payment";
                return Err(RulesError::Rule {
                    rule: plan.id.clone(),
                    reason,
                });
            }
        }
        let mut policies = form
            .limit_policies
            .into_iter()
            .map(|policy| Policy::read(policy).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        // The precedence of reasons: operation windows, then priority, then id.
        policies.sort_by_key(|policy| {
            let is_windowed = policy.window != (Window::Operation {});
            (
                is_windowed,
                std::cmp::Reverse(policy.priority),
                policy.id.clone(),
            )
        });
        let mut rules = Self::default();
        for plan in &plans {
            rules
                .versions
                .insert((plan.id.clone(), plan.version), Arc::clone(plan));
        }
        for operation in OPERATIONS {
            let covers = |matching: &Match| {
                let listed = matching
                    .get(&MatchKey::Operation)
                    .map_or(&[][..], Vec::as_slice);
                listed.is_empty() || listed.iter().any(|listed| listed == operation)
            };
            let of_plans = plans
                .iter()
                .filter(|plan| covers(&plan.matching))
                .cloned()
                .collect();
            let of_policies = policies
                .iter()
                .filter(|policy| covers(&policy.matching))
                .cloned()
                .collect();
            rules.plans.insert(operation.to_owned(), of_plans);
            rules.policies.insert(operation.to_owned(), of_policies);
        }
        Ok(rules)
    }

    /// The plan of the highest priority that matches.
    pub fn plan_for(&self, facts: &Facts<'_>) -> Option<Arc<Plan>> {
        let plans = self.plans.get(facts.operation)?;
        plans.iter().find(|plan| plan.matches(facts)).cloned()
    }

    /// A version of a plan, for what was authorised under it.
    pub fn plan_version(&self, id: &str, version: u32) -> Option<Arc<Plan>> {
        self.versions.get(&(id.to_owned(), version)).cloned()
    }

    /// All matching policies, in the precedence of their reasons.
    pub fn policies_for<'a>(
        &'a self,
        facts: &'a Facts<'a>,
    ) -> impl Iterator<Item = &'a Arc<Policy>> + 'a {
        let policies = self
            .policies
            .get(facts.operation)
            .map_or(&[][..], Vec::as_slice);
        policies.iter().filter(move |policy| policy.matches(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rules, RulesError> {
        Rules::read(text.as_bytes())
    }

    const PLAN: &str = r#"{"id":"p","version":1,"priority":1,"payer":"sender","components":[]"#;

    #[test]
    fn what_is_not_understood_is_refused_on_loading() {
        for text in [
            r#"{"surprise":1}"#.to_owned(),
            format!(r#"{{"commission_plans":[{PLAN},"surprise":1}}]}}"#),
            format!(r#"{{"commission_plans":[{PLAN},"match":{{"colour":["red"]}}}}]}}"#),
            format!(r#"{{"commission_plans":[{PLAN},"effective_from":"tomorrow"}}]}}"#),
            format!(r#"{{"commission_plans":[{PLAN}}},{PLAN}}}]}}"#),
            r#"{"limit_policies":[{"id":"l","version":1,"subject":"card","currency":"UZS",
                "window":{"kind":"rolling","seconds":60},"max_amount":1}]}"#
                .to_owned(),
            r#"{"limit_policies":[{"id":"l","version":1,"subject":"card","currency":"UZS",
                "window":{"kind":"calendar","unit":"day"}}]}"#
                .to_owned(),
            r#"{"limit_policies":[{"id":"l","version":1,"subject":"card","currency":"UZS",
                "window":{"kind":"calendar","unit":"day"},"min_amount":1}]}"#
                .to_owned(),
        ] {
            assert!(read(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn equal_priorities_that_cannot_both_match_are_accepted() {
        let rules = read(&format!(
            r#"{{"commission_plans":[{PLAN},"match":{{"source_scheme":["humo"]}}}},
               {},"match":{{"source_scheme":["visa"]}}}}]}}"#,
            PLAN.replace("\"p\"", "\"q\"")
        ))
        .unwrap();
        let facts = Facts {
            operation: "purchase",
            source_scheme: "visa",
            ..Facts::default()
        };
        assert_eq!("q", rules.plan_for(&facts).unwrap().id);
        let facts = Facts {
            source_scheme: "uzcard",
            ..facts
        };
        assert!(rules.plan_for(&facts).is_none());
    }
}

//! What the bank charges: every component exact, rounded once by its named rule.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::money::{self, Exact, MoneyError, Rounding, PERCENT_HUNDRED};
use crate::rules::{Component, ComponentKind, OnRefund, Payer, Plan, Tier, TierMode};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CommissionError {
    #[error("the commission is larger than the amount")]
    ExceedsAmount,
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// What a line is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    Fixed,
    Percent,
    Tiered,
    Vat,
}

/// One line, with what is needed to compute it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub component: String,
    pub kind: LineKind,
    /// What the line was computed on, in minor units.
    pub basis: i64,
    /// The value before rounding and clamping, `"n"` or `"n/d"` minor units.
    pub exact: String,
    pub rounding: Rounding,
    pub amount: i64,
}

/// A commission and what it makes of the amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commission {
    pub total: i64,
    pub payer: Cow<'static, str>,
    pub plan: String,
    pub version: u32,
    pub lines: Vec<Line>,
    /// What each party has of the total, in the plan's order; empty when it is not divided.
    #[serde(skip)]
    pub split: Vec<(String, i64)>,
    #[serde(skip)]
    pub total_debit: i64,
    #[serde(skip)]
    pub total_credit: i64,
}

impl Commission {
    /// Sum of the VAT lines.
    pub fn vat_total(&self) -> i64 {
        self.lines
            .iter()
            .filter(|line| line.kind == LineKind::Vat)
            .map(|line| line.amount)
            .sum()
    }

    /// JSON array of the lines, to be stored with the payment.
    pub fn lines_json(&self) -> String {
        serde_json::to_string(&self.lines).unwrap_or_default()
    }
}

/// Computes `plan` on `amount_minor`.
pub fn compute(plan: &Plan, amount_minor: i64) -> Result<Commission, CommissionError> {
    let with_vat = plan
        .components
        .iter()
        .filter(|it| it.vat_millionths.is_some());
    let mut lines = Vec::with_capacity(plan.components.len() + with_vat.count());
    let mut total = 0;
    for component in &plan.components {
        let line = component_line(component, amount_minor)?;
        total = money::add(total, line.amount)?;
        let vat = component
            .vat_millionths
            .map(|vat| vat_line(component, line.amount, vat));
        lines.push(line);
        if let Some(vat) = vat.transpose()? {
            total = money::add(total, vat.amount)?;
            lines.push(vat);
        }
    }
    let (total_debit, total_credit) = match plan.payer {
        Payer::Sender => (money::add(amount_minor, total)?, amount_minor),
        Payer::Receiver => (amount_minor, money::subtract(amount_minor, total)?),
        Payer::Bank => (amount_minor, amount_minor),
    };
    if total_credit < 1 {
        return Err(CommissionError::ExceedsAmount);
    }
    Ok(Commission {
        total,
        payer: Cow::Borrowed(plan.payer.name()),
        plan: plan.id.clone(),
        version: plan.version,
        lines,
        split: split_of(plan, total)?,
        total_debit,
        total_credit,
    })
}

fn component_line(component: &Component, basis: i64) -> Result<Line, CommissionError> {
    let (kind, exact) = match &component.kind {
        ComponentKind::Fixed { amount_minor } => (LineKind::Fixed, Exact::whole(*amount_minor)),
        ComponentKind::Percent { percent_millionths } => (
            LineKind::Percent,
            Exact::percent_of(basis, *percent_millionths)?,
        ),
        ComponentKind::Tiered { mode, tiers } => {
            let sum = match mode {
                TierMode::Volume => volume(tiers, basis),
                TierMode::Graduated => graduated(tiers, basis),
            };
            let sum = sum.ok_or(MoneyError::Overflow)?;
            (LineKind::Tiered, Exact::of_percents(sum))
        }
    };
    let rounded = exact.rounded(component.rounding)?;
    Ok(Line {
        component: component.name.clone(),
        kind,
        basis,
        exact: exact.text(),
        rounding: component.rounding,
        amount: rounded.clamp(component.min_minor, component.max_minor),
    })
}

/// A slice at its tier's percent, in minor units times millionths of a percent.
fn slice(slice_minor: i64, tier: &Tier) -> Option<i128> {
    i128::from(slice_minor).checked_mul(i128::from(tier.percent_millionths))
}

fn fixed(tier: &Tier) -> Option<i128> {
    i128::from(tier.fixed_minor).checked_mul(i128::from(PERCENT_HUNDRED))
}

/// The whole amount at the first tier that reaches it.
fn volume(tiers: &[Tier], amount_minor: i64) -> Option<i128> {
    let tier = tiers
        .iter()
        .find(|tier| tier.up_to.is_none_or(|up_to| amount_minor <= up_to))?;
    slice(amount_minor, tier)?.checked_add(fixed(tier)?)
}

/// Each tier's slice at its own percent, with the fixed part of every tier that holds a unit.
fn graduated(tiers: &[Tier], amount_minor: i64) -> Option<i128> {
    let mut sum: i128 = 0;
    let mut below = 0;
    for tier in tiers {
        let top = tier
            .up_to
            .map_or(amount_minor, |up_to| up_to.min(amount_minor));
        if top <= below {
            break;
        }
        sum = sum
            .checked_add(slice(top - below, tier)?)?
            .checked_add(fixed(tier)?)?;
        below = top;
    }
    Some(sum)
}

fn vat_line(
    component: &Component,
    basis: i64,
    vat_millionths: i64,
) -> Result<Line, CommissionError> {
    let exact = Exact::percent_of(basis, vat_millionths)?;
    Ok(Line {
        component: component.name.clone(),
        kind: LineKind::Vat,
        basis,
        exact: exact.text(),
        rounding: component.rounding,
        amount: exact.rounded(component.rounding)?,
    })
}

/// Each share floored, the units left over given one each in the order listed.
fn split_of(plan: &Plan, total: i64) -> Result<Vec<(String, i64)>, MoneyError> {
    let mut parts = Vec::with_capacity(plan.split.len());
    let mut left = total;
    for share in &plan.split {
        let part = Exact::percent_of(total, share.share_millionths)?.rounded(Rounding::Down)?;
        left = money::subtract(left, part)?;
        parts.push((share.party.clone(), part));
    }
    for (_, part) in &mut parts {
        if left == 0 {
            break;
        }
        *part += 1;
        left -= 1;
    }
    Ok(parts)
}

/// What of a commission has been given back once `refunded` of `captured` has been refunded.
///
/// The parts of successive refunds are the differences, so that they always add up.
pub fn returned(
    on_refund: OnRefund,
    total: i64,
    captured: i64,
    refunded: i64,
) -> Result<i64, MoneyError> {
    match on_refund {
        OnRefund::None => Ok(0),
        OnRefund::Full => Ok(if refunded >= captured { total } else { 0 }),
        OnRefund::Proportional => {
            let product = i128::from(total)
                .checked_mul(i128::from(refunded))
                .ok_or(MoneyError::Overflow)?;
            let part = product
                .checked_div_euclid(i128::from(captured))
                .ok_or(MoneyError::Overflow)?;
            i64::try_from(part).map_err(|_| MoneyError::Overflow)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{self, Facts};
    use proptest::prelude::*;

    fn plan(payer: &str, components: &str) -> std::sync::Arc<Plan> {
        let text = format!(
            r#"{{"commission_plans":[{{"id":"p","version":3,"payer":"{payer}",
               "components":{components}}}]}}"#
        );
        let rules = rules::read(text.as_bytes()).unwrap();
        let plan = rules.plan_for(&Facts::default(), 0).unwrap();
        std::sync::Arc::clone(plan)
    }

    const BANK: &str = r#"[{"name":"bank","kind":"percent","percent":"0.5","min":50000,
        "max":5000000,"vat_percent":"12"},{"name":"processor","kind":"fixed","amount":20000}]"#;

    #[test]
    fn a_worked_example_is_met_line_by_line() {
        let commission = compute(&plan("sender", BANK), 150_000_000).unwrap();
        let amounts: Vec<_> = commission
            .lines
            .iter()
            .map(|line| (line.component.as_str(), line.kind, line.amount))
            .collect();
        assert_eq!(
            vec![
                ("bank", LineKind::Percent, 750_000),
                ("bank", LineKind::Vat, 90_000),
                ("processor", LineKind::Fixed, 20_000)
            ],
            amounts
        );
        assert_eq!(860_000, commission.total);
        assert_eq!(90_000, commission.vat_total());
        assert_eq!(
            (150_860_000, 150_000_000),
            (commission.total_debit, commission.total_credit)
        );
    }

    #[test]
    fn the_payer_decides_who_carries_it() {
        let of = |payer| {
            let commission = compute(&plan(payer, BANK), 1_000_000).unwrap();
            (
                commission.total,
                commission.total_debit,
                commission.total_credit,
            )
        };
        assert_eq!((76_000, 1_076_000, 1_000_000), of("sender"));
        assert_eq!((76_000, 1_000_000, 924_000), of("receiver"));
        assert_eq!((76_000, 1_000_000, 1_000_000), of("bank"));
    }

    #[test]
    fn a_credit_below_one_is_refused() {
        let plan = plan("receiver", r#"[{"name":"b","kind":"fixed","amount":100}]"#);
        assert_eq!(Err(CommissionError::ExceedsAmount), compute(&plan, 100));
        assert_eq!(1, compute(&plan, 101).unwrap().total_credit);
    }

    #[test]
    fn the_exact_value_is_kept_as_a_fraction() {
        let plan = plan(
            "sender",
            r#"[{"name":"b","kind":"percent","percent":"0.333333"}]"#,
        );
        let commission = compute(&plan, 1_000).unwrap();
        assert_eq!("333333/100000", commission.lines[0].exact);
        assert_eq!(3, commission.total);
    }

    fn total_of(components: &str, amount: i64) -> i64 {
        compute(&plan("sender", components), amount).unwrap().total
    }

    #[test]
    fn tiers_meet_their_known_answers() {
        // Scaled by 10,000, so that the published whole units stay exact.
        let graduated = r#"[{"name":"v","kind":"tiered","mode":"graduated","tiers":[
            {"up_to":10000000,"percent":"1","fixed":2000000},
            {"up_to":100000000,"percent":"2","fixed":3000000},
            {"up_to":null,"percent":"3","fixed":4000000}]}]"#;
        for (amount, total) in [(500, 205), (1_050, 511), (5_050, 591)] {
            assert_eq!(
                total * 10_000,
                total_of(graduated, amount * 10_000),
                "{amount}"
            );
        }
        let tiers = r#""tiers":[{"up_to":100000,"percent":"10"},{"up_to":1000000,"percent":"5"},
            {"up_to":null,"percent":"1"}]}]"#;
        let of = |mode: &str| format!(r#"[{{"name":"v","kind":"tiered","mode":"{mode}",{tiers}"#);
        assert_eq!(15_000, total_of(&of("volume"), 1_500_000));
        assert_eq!(60_000, total_of(&of("graduated"), 1_500_000));
        // An amount at the edge lies wholly in the lower tier.
        assert_eq!(10_000, total_of(&of("volume"), 100_000));
        assert_eq!(5_000, total_of(&of("volume"), 100_001));
        assert_eq!(10_000, total_of(&of("graduated"), 100_001));
    }

    #[test]
    fn a_split_gives_the_units_left_over_in_order() {
        for (total, shares, parts) in [
            (99, &[50, 50][..], &[50, 49][..]),
            (99, &[20, 20, 20, 20, 20], &[20, 20, 20, 20, 19]),
            (100, &[80, 14, 3, 3], &[80, 14, 3, 3]),
            (0, &[100], &[0]),
        ] {
            let split: Vec<String> = shares
                .iter()
                .enumerate()
                .map(|(n, share)| format!(r#"{{"party":"p{n}","share":"{share}"}}"#))
                .collect();
            let text = format!(
                r#"{{"commission_plans":[{{"id":"p","payer":"sender","split":[{}],
                   "components":[{{"name":"b","kind":"fixed","amount":{total}}}]}}]}}"#,
                split.join(",")
            );
            let rules = rules::read(text.as_bytes()).unwrap();
            let plan = rules.plan_for(&Facts::default(), 0).unwrap();
            let got: Vec<i64> = compute(plan, 7)
                .unwrap()
                .split
                .into_iter()
                .map(|(_, part)| part)
                .collect();
            assert_eq!(parts, got);
        }
    }

    #[test]
    fn each_refund_behaviour_meets_its_table() {
        use OnRefund::{Full, None, Proportional};
        for (on_refund, refunded, given_back) in [
            (None, 100, 0),
            (Full, 99, 0),
            (Full, 100, 7),
            (Proportional, 0, 0),
            (Proportional, 33, 2),
            (Proportional, 99, 6),
            (Proportional, 100, 7),
        ] {
            assert_eq!(Ok(given_back), returned(on_refund, 7, 100, refunded));
        }
    }

    proptest! {
        #[test]
        fn debit_and_credit_differ_by_what_a_customer_pays(amount in 1i64..=1_000_000_000_000_000) {
            for payer in ["sender", "receiver", "bank"] {
                if let Ok(commission) = compute(&plan(payer, BANK), amount) {
                    let carried = if payer == "bank" { 0 } else { commission.total };
                    prop_assert_eq!(carried, commission.total_debit - commission.total_credit);
                    prop_assert!(commission.total_credit >= 1);
                }
            }
        }
    }
}

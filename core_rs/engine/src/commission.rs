//! What the bank charges: every component exact, rounded once by its named rule.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::money::{self, Exact, MoneyError};
use crate::rules::{Component, ComponentKind, Payer, Plan};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CommissionError {
    #[error("the commission is larger than the amount")]
    ExceedsAmount,
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// One line, with what is needed to compute it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub component: String,
    /// `fixed`, `percent` or `vat`.
    pub kind: String,
    /// What the line was computed on, in minor units.
    pub basis: i64,
    /// The value before rounding and clamping, `"n"` or `"n/d"` minor units.
    pub exact: String,
    pub rounding: money::Rounding,
    pub amount: i64,
}

/// A commission and what it makes of the amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commission {
    pub total: i64,
    pub payer: String,
    pub plan: String,
    pub version: u32,
    pub lines: Vec<Line>,
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
            .filter(|line| line.kind == "vat")
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
    let mut lines = Vec::with_capacity(plan.components.len() * 2);
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
        payer: plan.payer.name().to_owned(),
        plan: plan.id.clone(),
        version: plan.version,
        lines,
        total_debit,
        total_credit,
    })
}

fn component_line(component: &Component, basis: i64) -> Result<Line, CommissionError> {
    let (kind, exact, amount) = match &component.kind {
        ComponentKind::Fixed { amount_minor } => {
            ("fixed", Exact::whole(*amount_minor), *amount_minor)
        }
        ComponentKind::Percent {
            percent_millionths,
            min_minor,
            max_minor,
        } => {
            let exact = Exact::percent_of(basis, *percent_millionths)?;
            let rounded = exact.rounded(component.rounding)?;
            ("percent", exact, rounded.clamp(*min_minor, *max_minor))
        }
    };
    Ok(Line {
        component: component.name.clone(),
        kind: kind.to_owned(),
        basis,
        exact: exact.to_string(),
        rounding: component.rounding,
        amount,
    })
}

fn vat_line(
    component: &Component,
    basis: i64,
    vat_millionths: i64,
) -> Result<Line, CommissionError> {
    let exact = Exact::percent_of(basis, vat_millionths)?;
    Ok(Line {
        component: component.name.clone(),
        kind: "vat".to_owned(),
        basis,
        exact: exact.to_string(),
        rounding: component.rounding,
        amount: exact.rounded(component.rounding)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Facts, Rules};
    use proptest::prelude::*;

    fn plan(payer: &str, components: &str) -> std::sync::Arc<Plan> {
        let text = format!(
            r#"{{"commission_plans":[{{"id":"p","version":3,"payer":"{payer}",
               "components":{components}}}]}}"#
        );
        let rules = Rules::read(text.as_bytes()).unwrap();
        rules
            .plan_for(&Facts {
                operation: "transfer",
                ..Facts::default()
            })
            .unwrap()
    }

    const BANK: &str = r#"[{"name":"bank","kind":"percent","percent":"0.5","min":50000,
        "max":5000000,"vat_percent":"12"},{"name":"processor","kind":"fixed","amount":20000}]"#;

    #[test]
    fn a_worked_example_is_met_line_by_line() {
        let commission = compute(&plan("sender", BANK), 150_000_000).unwrap();
        let amounts: Vec<_> = commission
            .lines
            .iter()
            .map(|line| (line.component.as_str(), line.kind.as_str(), line.amount))
            .collect();
        assert_eq!(
            vec![
                ("bank", "percent", 750_000),
                ("bank", "vat", 90_000),
                ("processor", "fixed", 20_000)
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

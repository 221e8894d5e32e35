//! Integer money and exact rationals, rounded once by a named rule.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::push_number;

/// The largest amount accepted from outside, in minor units.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000_000;

/// One hundred percent, in millionths of a percent.
pub const PERCENT_HUNDRED: i64 = 100 * PERCENT_SCALE;
const PERCENT_SCALE: i64 = 1_000_000;
const PERCENT_FRACTION_DIGITS_MAX: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MoneyError {
    #[error("an amount does not fit")]
    Overflow,
    #[error("a percent is a decimal string from 0 to 100 with up to 6 fraction digits")]
    Percent,
}

/// How an exact value becomes minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Ties away from zero.
    #[default]
    HalfUp,
    HalfEven,
    /// Any remainder goes up.
    Up,
    Down,
}

impl Rounding {
    pub const ALL: [(&'static str, Self); 4] = [
        ("half_up", Self::HalfUp),
        ("half_even", Self::HalfEven),
        ("up", Self::Up),
        ("down", Self::Down),
    ];
}

/// A non-negative exact value, `numerator / denominator` minor units, in lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    numerator: i128,
    denominator: i128,
}

impl Exact {
    pub fn whole(amount_minor: i64) -> Self {
        Self {
            numerator: i128::from(amount_minor),
            denominator: 1,
        }
    }

    /// `amount_minor x percent`, `percent` in millionths of a percent.
    pub fn percent_of(amount_minor: i64, percent_millionths: i64) -> Result<Self, MoneyError> {
        let product = i128::from(amount_minor)
            .checked_mul(i128::from(percent_millionths))
            .ok_or(MoneyError::Overflow)?;
        Ok(Self::of_percents(product))
    }

    /// A sum of amounts times millionths of a percent.
    pub fn of_percents(sum: i128) -> Self {
        Self {
            numerator: sum,
            denominator: i128::from(PERCENT_HUNDRED),
        }
        .reduced()
    }

    fn reduced(self) -> Self {
        let divisor = greatest_common_divisor(self.numerator, self.denominator).max(1);
        Self {
            numerator: divided(self.numerator, divisor).0,
            denominator: divided(self.denominator, divisor).0,
        }
    }

    /// `"7"` or `"15/2"`.
    pub fn text(self) -> String {
        let mut text = String::with_capacity(24);
        push_number(self.numerator, &mut text);
        if self.denominator != 1 {
            text.push('/');
            push_number(self.denominator, &mut text);
        }
        text
    }

    pub fn rounded(self, rounding: Rounding) -> Result<i64, MoneyError> {
        let (quotient, remainder) = divided(self.numerator, self.denominator);
        let twice = remainder.checked_mul(2).ok_or(MoneyError::Overflow)?;
        let goes_up = match rounding {
            Rounding::Down => false,
            Rounding::Up => remainder > 0,
            Rounding::HalfUp => twice >= self.denominator,
            Rounding::HalfEven => {
                twice > self.denominator || (twice == self.denominator && quotient % 2 != 0)
            }
        };
        i64::try_from(quotient + i128::from(goes_up)).map_err(|_| MoneyError::Overflow)
    }
}

/// Quotient and remainder. Nearly every amount fits 64 bits, and is divided by the processor; what
/// does not is divided by a routine.
fn divided(value: i128, by: i128) -> (i128, i128) {
    match (u64::try_from(value), u64::try_from(by)) {
        (Ok(value), Ok(by)) => (i128::from(value / by), i128::from(value % by)),
        _ => (value.div_euclid(by), value.rem_euclid(by)),
    }
}

pub fn greatest_common_divisor(mut left: i128, mut right: i128) -> i128 {
    while right != 0 {
        if let (Ok(left), Ok(right)) = (u64::try_from(left), u64::try_from(right)) {
            return i128::from(greatest_common_divisor_of_64(left, right));
        }
        (left, right) = (right, left % right);
    }
    left.abs()
}

fn greatest_common_divisor_of_64(mut left: u64, mut right: u64) -> u64 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

pub fn add(left: i64, right: i64) -> Result<i64, MoneyError> {
    left.checked_add(right).ok_or(MoneyError::Overflow)
}

pub fn subtract(left: i64, right: i64) -> Result<i64, MoneyError> {
    left.checked_sub(right).ok_or(MoneyError::Overflow)
}

/// Reads `"0.5"` as 500000 millionths of a percent.
pub fn parse_percent(text: &str) -> Result<i64, MoneyError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole)
        || whole.len() > 3
        || (text.contains('.') && !digits(fraction))
        || fraction.len() > PERCENT_FRACTION_DIGITS_MAX
    {
        return Err(MoneyError::Percent);
    }
    let padded = format!("{fraction:0<width$}", width = PERCENT_FRACTION_DIGITS_MAX);
    let whole: i64 = whole.parse().map_err(|_| MoneyError::Percent)?;
    let fraction: i64 = padded.parse().map_err(|_| MoneyError::Percent)?;
    let millionths = whole * PERCENT_SCALE + fraction;
    if millionths > PERCENT_HUNDRED {
        return Err(MoneyError::Percent);
    }
    Ok(millionths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_rounding_rule_meets_its_table() {
        // (numerator, denominator, half_up, half_even, up, down)
        let rows = [
            (5, 2, 3, 2, 3, 2),
            (7, 2, 4, 4, 4, 3),
            (1, 3, 0, 0, 1, 0),
            (2, 3, 1, 1, 1, 0),
            (4, 2, 2, 2, 2, 2),
            (0, 9, 0, 0, 0, 0),
        ];
        for (numerator, denominator, half_up, half_even, up, down) in rows {
            let exact = Exact {
                numerator,
                denominator,
            };
            let got = [
                Rounding::HalfUp,
                Rounding::HalfEven,
                Rounding::Up,
                Rounding::Down,
            ]
            .map(|rounding| exact.rounded(rounding).unwrap());
            assert_eq!(
                [half_up, half_even, up, down],
                got,
                "{numerator}/{denominator}"
            );
        }
    }

    #[test]
    fn percent_text_is_exact_or_refused() {
        assert_eq!(Ok(500_000), parse_percent("0.5"));
        assert_eq!(Ok(100_000_000), parse_percent("100"));
        assert_eq!(Ok(1), parse_percent("0.000001"));
        for bad in [
            "",
            ".5",
            "5.",
            "-1",
            "100.000001",
            "0.0000001",
            "1e2",
            "٣",
            " 1",
            "1000",
        ] {
            assert_eq!(Err(MoneyError::Percent), parse_percent(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn rounding_is_within_one_unit(amount in 0..=AMOUNT_MAX, percent in 0..=PERCENT_HUNDRED) {
            let exact = Exact::percent_of(amount, percent).unwrap();
            let down = exact.rounded(Rounding::Down).unwrap();
            let up = exact.rounded(Rounding::Up).unwrap();
            prop_assert!(up - down <= 1);
            for rounding in [Rounding::HalfUp, Rounding::HalfEven] {
                let rounded = exact.rounded(rounding).unwrap();
                prop_assert!(rounded == down || rounded == up);
            }
        }
    }
}

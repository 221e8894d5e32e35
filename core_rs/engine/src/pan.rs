//! A card's number as a type of its own, which nothing prints and nothing leaves behind.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroizing;

/// A primary account number: 12 to 19 ASCII digits with a valid check digit (ISO/IEC 7812-1).
///
/// `Debug` shows no digit, there is neither `Display` nor a way to serialize it, and its memory is
/// overwritten when it is dropped. Whoever needs the digits dereferences it, where that can be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Pan(Zeroizing<String>);

impl Pan {
    /// Takes the number, or gives `None` for what is not one; its memory is overwritten either way.
    pub fn new(digits: String) -> Option<Self> {
        let digits = Zeroizing::new(digits);
        is_pan(&digits).then_some(Self(digits))
    }
}

impl Deref for Pan {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pan(..)")
    }
}

/// Says whether a text is a card's number: 12 to 19 ASCII digits with a valid check digit.
pub fn is_pan(text: &str) -> bool {
    if !(12..=19).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = text
        .bytes()
        .rev()
        .enumerate()
        .map(|(index, byte)| {
            let digit = u32::from(byte - b'0');
            match (index % 2, digit) {
                (0, digit) => digit,
                (_, digit) if digit > 4 => digit * 2 - 9,
                (_, digit) => digit * 2,
            }
        })
        .sum();
    sum % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "8600000000000015";

    #[test]
    fn nothing_printed_shows_a_digit() {
        let pan = Pan::new(DIGITS.into()).expect("a number");
        for shown in [format!("{pan:?}"), format!("{:?}", Some(&pan))] {
            assert!(!shown.bytes().any(|byte| byte.is_ascii_digit()), "{shown}");
        }
        assert_eq!(DIGITS, &*pan);
    }

    #[test]
    fn only_a_number_is_taken() {
        for wrong in ["", "8600000000000016", "86000000000", "860000000000001a"] {
            assert!(Pan::new(wrong.into()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn luhn_is_checked_on_ascii_digits_only() {
        for good in [
            "8600000000000015",
            "5614680000000014",
            "9860000000000018",
            "4242420000000018",
        ] {
            assert!(is_pan(good), "{good}");
        }
        for bad in [
            "",
            "0",
            "86000000000",
            "86000000000000000015",
            "8600000000000010",
        ] {
            assert!(!is_pan(bad), "{bad}");
        }
    }
}

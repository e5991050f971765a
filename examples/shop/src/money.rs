//! Money, exact to the cent. Never a float.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount in cents of a dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cents(pub(crate) i64);

impl AddAssign for Cents {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        Self(all.map(|cents| cents.0).sum())
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, cents) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "{sign}{}.{:02}", thousands(cents / 100), cents % 100)
    }
}

/// `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, rest) = digits.split_at(first);
    let groups = rest.as_bytes().chunks(3).map(|group| str::from_utf8(group).expect("digits"));
    let head = (!head.is_empty()).then_some(head);
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

impl FromStr for Cents {
    type Err = &'static str;

    /// `12.5`, `12.50` or `12`: at most two decimals.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "an amount in dollars has the form 12.34";
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let (dollars, cents) = digits.split_once('.').unwrap_or((digits, "00"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(dollars) || !all_digits(cents) || cents.len() > 2 {
            return Err(WRONG);
        }
        let dollars: i64 = dollars.parse().map_err(|_| WRONG)?;
        let cents: i64 = format!("{cents:0<2}").parse().map_err(|_| WRONG)?;
        let total = dollars.checked_mul(100).and_then(|hundreds| hundreds.checked_add(cents));
        total.map(|total| Self(sign * total)).ok_or(WRONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_shown_to_the_cent() {
        for (text, cents, shown) in [
            ("11.77", 1_177, "11.77"),
            ("0", 0, "0.00"),
            ("5.5", 550, "5.50"),
            ("2500315.63", 250_031_563, "2,500,315.63"),
        ] {
            assert_eq!(text.parse(), Ok(Cents(cents)), "{text}");
            assert_eq!(Cents(cents).to_string(), shown);
        }
        for wrong in ["", ".", "1.", ".5", "1.234", "1e3", "1,000", "NaN", "--1", "99999999999999999999"] {
            assert!(wrong.parse::<Cents>().is_err(), "{wrong}");
        }
    }
}

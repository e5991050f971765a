//! The place of a message among those of its key: what relays write, and inboxes compare.

use std::fmt;
use std::str::FromStr;

use es_core::{BoxError, Position, Timestamp};
use serde::{Deserialize, Serialize};

/// How many messages may have one number: texts with more digits would not sort as their numbers.
pub(crate) const PARTS: u32 = 10_000;

/// The place of a message among those of its key: a number (of a relay, the position of the event), and another one where
/// several messages have that (`12`, `12.1`, `12.2`). They are compared as numbers, however many digits they are written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sequence {
    number: u64,
    part: u32,
}

impl Sequence {
    /// Of an event, and which of its messages.
    pub(crate) const fn of_event(position: Position, ordinal: u32) -> Self {
        Self { number: position.0, part: ordinal }
    }

    /// The event of it, if a relay has written it.
    pub(crate) const fn event(self) -> Position {
        Position(self.number)
    }

    /// A message without an order has the time at which it came, in microseconds since 1970.
    pub(super) fn of_time(time: Timestamp) -> Self {
        Self { number: u64::try_from(time.as_microsecond()).unwrap_or_default(), part: 0 }
    }
}

/// In 20 digits, and 4 behind a point: so texts sort as the numbers.
impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.number)?;
        if self.part > 0 { write!(f, ".{:04}", self.part) } else { Ok(()) }
    }
}

impl FromStr for Sequence {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<Self, BoxError> {
        let (number, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(number) || !digits(part) {
            return Err("it is not a number, or two with a point between them".into());
        }
        let read = || Some(Self { number: number.parse().ok()?, part: part.parse().ok()? });
        read().filter(|sequence| sequence.part < PARTS).ok_or_else(|| "it is empty, or too large".into())
    }
}

impl TryFrom<String> for Sequence {
    type Error = BoxError;
    fn try_from(text: String) -> Result<Self, BoxError> {
        text.parse()
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> Self {
        sequence.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_sort_as_numbers_and_as_texts() {
        let all = ["0", "2", "00010", "10.1", "10.0009", "10.10", "11", "18446744073709551615.9999"];
        let all = all.map(|text| text.parse::<Sequence>().unwrap());
        assert!(all.is_sorted() && all.map(|sequence| sequence.to_string()).is_sorted());
        assert!(all.iter().all(|sequence| sequence.to_string().parse::<Sequence>().unwrap() == *sequence));
        assert_eq!(all[3].to_string(), "00000000000000000010.0001");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "x", "+1", "-1", " 1", "1.", ".1", "1.2.3", "18446744073709551616", "1.10000"] {
            assert!(text.parse::<Sequence>().is_err(), "{text:?}");
        }
    }
}

//! Keys of rows that sort as what they are made of.
//!
//! Rows are read in the bytewise order of their keys. So a number has a fixed width, a text of the user's is escaped so
//! that it cannot hold a separator, or is replaced by its hash, and the length of the whole is checked.

use std::fmt::Write as _;

use jiff::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::limits::{self, LimitError};
use crate::slices::{SLICES, slice_of};

/// A number for some texts, the same on every machine and for ever: what is stored is found by it.
#[must_use]
pub fn digest<const N: usize>(parts: [&[u8]; N]) -> u128 {
    let mut hash = Xxh3::new();
    for part in parts {
        // With its length: two parts never read as two others.
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest128()
}

/// A key in the making: its parts, with `:` between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Key {
    text: String,
    parts: usize,
    /// What cannot be a part of a key.
    wrong: Option<LimitError>,
}

impl Key {
    /// A key that begins with a slice, by which it is shared out: see [`slice_of_row`].
    pub fn in_slice(slice: u16) -> Self {
        let why = "is not below 1,024";
        let wrong = || LimitError::Invalid { field: "slice", value: slice.to_string(), why };
        let wrong = (slice >= SLICES).then(wrong);
        Self { wrong, ..Self::default() }.part(format_args!("{slice:04}"))
    }

    fn part(mut self, part: std::fmt::Arguments<'_>) -> Self {
        if self.parts > 0 {
            self.text.push(':');
        }
        self.parts += 1;
        self.text.write_fmt(part).expect("writing to a string");
        self
    }

    /// A number, in twenty digits.
    pub fn number(self, number: u64) -> Self {
        self.part(format_args!("{number:020}"))
    }

    /// A time, in whole microseconds since 1970. Times before that are the same as 1970.
    pub fn time(self, time: Timestamp) -> Self {
        self.number(u64::try_from(time.as_microsecond()).unwrap_or_default())
    }

    /// An id, in 32 digits. Those of version 7 sort by their age.
    pub fn id(self, id: Uuid) -> Self {
        self.part(format_args!("{}", id.simple()))
    }

    /// A text, with `%`, `:` and control characters escaped as in an address.
    pub fn text(self, text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_control() || matches!(c, ':' | '%') {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    write!(escaped, "%{byte:02X}").expect("writing to a string");
                }
            } else {
                escaped.push(c);
            }
        }
        self.part(format_args!("{escaped}"))
    }

    /// The hash of a text (xxh3, 64 bits), in 16 digits: for texts of any length. Two texts may have one.
    pub fn hash(self, text: &str) -> Self {
        self.part(format_args!("{:016x}", xxh3_64(text.as_bytes())))
    }

    /// What the keys of all rows below this one begin with.
    #[must_use]
    pub fn prefix(mut self) -> String {
        self.text.push(':');
        self.text
    }

    /// The key.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if it is empty or longer than a key may be, or its slice is none.
    pub fn build(self) -> Result<String, LimitError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        limits::row_key(&self.text)?;
        Ok(self.text)
    }
}

/// The first key behind all that begin with a prefix, for [`Span::before`](crate::store::Span::before); empty for an empty
/// prefix.
#[must_use]
pub fn behind(prefix: &str) -> String {
    let mut text = prefix.to_owned();
    match text.pop() {
        Some(last) if last < '\x7f' => text.extend(char::from_u32(u32::from(last) + 1)),
        // Behind every key that anybody would make of it.
        Some(last) => text.extend([last, char::MAX]),
        None => {}
    }
    text
}

/// The slice by which a row is shared out: the one that its key [begins with](Key::in_slice), else that of the key.
#[must_use]
pub fn slice_of_row(key: &str) -> u16 {
    let digits = |slice: &&str| slice.len() == 4 && slice.bytes().all(|b| b.is_ascii_digit());
    let own = key.split_once(':').map(|(slice, _)| slice).filter(digits).and_then(|slice| slice.parse().ok());
    own.filter(|slice| *slice < SLICES).unwrap_or_else(|| slice_of(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored: keys are found by the same text for ever.
    #[test]
    fn keys_are_pinned() {
        let time = Timestamp::from_microsecond(1_700_000_000_000_001).unwrap();
        let id = Uuid::from_u128(0xab);
        let key = Key::in_slice(7).time(time).number(42).id(id).text("a:b%\n").hash("ada").build().unwrap();
        let parts = [
            "0007",
            "00001700000000000001",
            "00000000000000000042",
            "000000000000000000000000000000ab",
            "a%3Ab%25%0A",
            "691d4463952c802f",
        ];
        assert_eq!(key, parts.join(":"));
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let keys = [0, 1, 9, 10, 99, u64::MAX].map(|n| Key::default().number(n).build().unwrap());
        assert!(keys.is_sorted());
        let prefix = Key::in_slice(7).prefix();
        assert!(
            behind(&prefix) > format!("{prefix}\u{10ffff}") && behind(&prefix) < Key::in_slice(8).prefix()
        );
    }

    #[test]
    fn behind_a_prefix_is_nothing_that_begins_with_it() {
        for prefix in ["a:", "ä", "a\x7f", "\u{10ffff}"] {
            let behind = behind(prefix);
            assert!(*behind > *prefix && *behind > *format!("{prefix}zz"), "{prefix:?}");
        }
        assert_eq!(behind(""), "");
    }

    #[test]
    fn a_row_is_in_the_slice_that_its_key_begins_with() {
        assert_eq!(slice_of_row("0007:x"), 7);
        for key in ["7:x", "1024:x", "ada", "0007", ":x", "+007:x"] {
            assert_eq!(slice_of_row(key), slice_of(key), "{key}");
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        assert!(Key::default().text(&"a".repeat(256)).build().is_err());
        assert!(Key::default().build().is_err());
        assert!(Key::in_slice(1_024).text("a").build().is_err());
        let first_is_empty = Key::default().text("").text("a").build().unwrap();
        assert_eq!(first_is_empty, ":a", "no part is lost");
    }
}

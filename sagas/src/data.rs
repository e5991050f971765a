//! A value of the user's as JSON text, as it is stored.

use std::collections::BTreeMap;

use es_core::BoxError;
use es_core::codec::{Codec as _, Json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use serde_json::value::RawValue;

/// A value as JSON text. Kept as text, so that every number is read back as it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Data(Box<RawValue>);

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Data {}

impl Data {
    /// A value, written.
    ///
    /// # Errors
    ///
    /// What JSON cannot hold: a NaN, say.
    pub fn of<T: Serialize>(value: &T) -> Result<Self, BoxError> {
        Self::parse(String::from_utf8(Json::encode(value)?.into())?)
    }

    /// Its text, as it was stored.
    pub(crate) fn parse(text: String) -> Result<Self, BoxError> {
        Ok(Self(RawValue::from_string(text)?))
    }

    /// Nothing.
    pub(crate) fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// Whether another one says the same, in whichever order its fields are.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let canonical = || self.canonical().zip(other.canonical());
        self == other || canonical().is_some_and(|(one, two)| one == two)
    }

    /// The one text of all that say the same: fields in order, nothing in between. `None`: it goes too deep, or has a number
    /// that is none.
    pub(crate) fn canonical(&self) -> Option<String> {
        let mut text = String::with_capacity(self.text().len());
        write(&self.0, &mut text, DEEPEST)?;
        Some(text)
    }

    /// The value, read.
    ///
    /// # Errors
    ///
    /// It is not a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        Ok(serde_json::from_str(self.0.get())?)
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

/// How deep a value is looked into: as deep as it can be read.
const DEEPEST: u32 = 127;
/// So many digits a float has for certain.
const CERTAIN: usize = 15;

fn write(value: &RawValue, out: &mut String, deeper: u32) -> Option<()> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'{' => {
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            let fields = fields.iter().map(|(name, value)| (Some(name), *value));
            within(['{', '}'], fields, out, deeper)
        }
        b'[' => {
            let all: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            within(['[', ']'], all.into_iter().map(|value| (None, value)), out, deeper)
        }
        b'"' => {
            out.push_str(&quoted(&serde_json::from_str::<String>(text).ok()?));
            Some(())
        }
        b'-' | b'0'..=b'9' => {
            let number: Number = serde_json::from_str(text).ok()?;
            // What a float would round stays as it stands.
            let is_rounded = number.is_f64() && digits(text) > CERTAIN;
            out.push_str(if is_rounded { text.to_owned() } else { number.to_string() }.as_str());
            Some(())
        }
        _ => {
            out.push_str(text);
            Some(())
        }
    }
}

/// Values between brackets, with their names if they have some.
fn within<'v>(
    [open, close]: [char; 2],
    all: impl Iterator<Item = (Option<&'v String>, &'v RawValue)>,
    out: &mut String,
    deeper: u32,
) -> Option<()> {
    let deeper = deeper.checked_sub(1)?;
    out.push(open);
    for (n, (name, value)) in all.enumerate() {
        if n > 0 {
            out.push(',');
        }
        if let Some(name) = name {
            out.push_str(&quoted(name));
            out.push(':');
        }
        write(value, out, deeper)?;
    }
    out.push(close);
    Some(())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// How many digits of a number count.
fn digits(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit);
    digits.skip_while(|digit| *digit == b'0').count()
}

/// Bytes of a value as JSON.
pub(crate) fn json_len(value: &serde_json::Value) -> usize {
    // It is JSON already.
    es_core::codec::json_len(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(one: &str, two: &str) -> bool {
        let data = |text: &str| Data::parse(text.to_owned()).unwrap();
        data(one).says_the_same(&data(two))
    }

    #[test]
    fn what_says_the_same_is_known_whatever_its_order_and_spelling() {
        for (one, two) in [
            (r#"{"a":1,"b":[1,{"c":2,"d":null}]}"#, r#"{ "b": [1, {"d":null,"c":2}], "a": 1 }"#),
            (r#""\u0061\/""#, r#""a/""#),
            ("1e2", "100.0"),
            ("0.000001", "1e-6"),
        ] {
            assert!(says(one, two), "{one} {two}");
        }
        for (one, two) in
            [("1", "2"), ("[1,2]", "[2,1]"), (r#"{"a":null}"#, "{}"), ("1", r#""1""#), ("true", "false")]
        {
            assert!(!says(one, two), "{one} {two}");
        }
    }

    #[test]
    fn numbers_that_a_float_does_not_hold_are_told_apart() {
        let of = |number: u128| Data::of(&number).unwrap();
        let large = 10_u128.pow(20);
        assert!(!of(large).says_the_same(&of(large + 1)));
        assert!(of(large).says_the_same(&of(large)));
        assert!(!says("-9223372036854775809", "-9223372036854775810"));
        assert!(!says("0.12345678901234567891", "0.12345678901234567892"));
    }
}

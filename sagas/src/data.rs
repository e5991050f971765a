//! A value of the user's as JSON text, as it is stored.

use es_core::BoxError;
use es_core::codec::{Codec as _, Json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
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
        let read = |data: &Self| data.read::<serde_json::Value>().ok();
        self == other || read(self).zip(read(other)).is_some_and(|(one, two)| one == two)
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

/// Bytes of a value as JSON.
pub(crate) fn json_len(value: &serde_json::Value) -> usize {
    // It is JSON already.
    es_core::codec::json_len(value).unwrap_or_default()
}

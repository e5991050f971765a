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

//! Tags: what append conditions and filters find events by, across streams.

use std::fmt;
use std::sync::Arc;

use crate::limits::{self, LimitError};

/// One `name:value` of an event, such as `course:7`; at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// # Errors
    ///
    /// [`LimitError`] if `name:value` is longer than 255 bytes or has control characters, or if
    /// `name` is empty or contains the separator `:`.
    pub fn new(name: &str, value: impl fmt::Display) -> Result<Self, LimitError> {
        if name.is_empty() {
            return Err(LimitError::Empty { field: "tag name" });
        }
        if name.contains(':') {
            let why = "contains the separator `:`";
            return Err(LimitError::Invalid { field: "tag name", value: limits::cut(name), why });
        }
        Self::parse(format!("{name}:{value}"))
    }

    /// A tag from its stored text.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if the text is empty, longer than 255 bytes or has control characters.
    pub fn parse(text: impl Into<Arc<str>>) -> Result<Self, LimitError> {
        let text = text.into();
        limits::name("tag", &text)?;
        Ok(Self(text))
    }

    /// The whole text, `name:value`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

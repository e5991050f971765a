//! The name of a request.

use std::fmt;
use std::sync::Arc;

use crate::limits::{self, LimitError};

/// Names a request, so that repeating it gives the first outcome back. Unique in the whole store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// # Errors
    ///
    /// [`LimitError`] if the text is empty, longer than 255 bytes or has control characters.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, LimitError> {
        let text = text.into();
        limits::name("idempotency key", &text)?;
        Ok(Self(text))
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! The name of a request.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id;
use crate::limits::{self, LimitError};

/// Names a request, so that repeating it gives the first outcome back. Unique in the whole store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

/// What keys of commands begin with that processes send.
const OF_PROCESSES: &str = "process/";

impl IdempotencyKey {
    /// # Errors
    ///
    /// [`LimitError`] if the text is empty, longer than 255 bytes or has control characters.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, LimitError> {
        let text = text.into();
        limits::name("idempotency key", &text)?;
        Ok(Self(text))
    }

    /// When it was made, as far as it says so: the time of the last UUID of version 7 in it, written with hyphens. A store that
    /// has forgotten keys of that age refuses it.
    ///
    /// Keys that begin with `process/` say nothing: they are those of commands that processes send, and the UUID in them says
    /// when an instance began, which may be long before it sends a command.
    #[must_use]
    pub fn made_at(&self) -> Option<Timestamp> {
        if self.0.starts_with(OF_PROCESSES) {
            return None;
        }
        let texts = (0..self.0.len().saturating_sub(35)).filter_map(|from| self.0.get(from..from + 36));
        texts.filter_map(|text| id::made_at(Uuid::parse_str(text).ok()?)).max()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_when_it_was_made_by_the_last_uuid_of_version_7_in_it() {
        let at = |millis| id::Ids::default().at(Timestamp::from_millisecond(millis).unwrap());
        let (early, late) = (at(1_700_000_000_000), at(1_700_000_000_001));
        let made = |text: String| IdempotencyKey::new(text).unwrap().made_at().map(Timestamp::as_millisecond);
        assert_eq!(made(format!("{early}")), Some(1_700_000_000_000));
        assert_eq!(made(format!("pay/{late}/of/{early}!")), Some(1_700_000_000_001));
        assert_eq!(made(format!("ä{}", early.to_string().to_uppercase())), Some(1_700_000_000_000));
        let of_a_process = format!("process/{early}/9/0");
        let plain = ["pay".to_owned(), early.simple().to_string(), Uuid::from_u128(7).to_string()];
        for none in plain.into_iter().chain(["ü".repeat(40), of_a_process]) {
            assert_eq!(made(none.clone()), None, "{none}");
        }
    }
}

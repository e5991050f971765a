//! The limits of what can be stored, and the checks of texts. What is stored is checked in
//! [`store::check`](crate::store::check), before anything reaches a backend.

/// Longest stream id, event type, tag and idempotency key, in bytes of UTF-8.
pub const MAX_NAME: usize = 255;
/// Longest payload of one event, in bytes.
pub const MAX_PAYLOAD: usize = 1_000_000;
/// Deepest nesting of a JSON payload.
pub const MAX_JSON_DEPTH: usize = 64;
/// Largest metadata of one event, in bytes of its stored form.
pub const MAX_METADATA: usize = 64 * 1024;
/// Events in one [`Commit`](crate::Commit), unless the app sets another limit up to [`HARD_MAX_EVENTS`].
pub const MAX_EVENTS: usize = 1_000;
/// Events in one [`Commit`](crate::Commit), whatever an app sets.
pub const HARD_MAX_EVENTS: usize = 10_000;
/// Tags of one event.
pub const MAX_TAGS: usize = 64;
/// Longest reason of an operator, in bytes.
pub const MAX_REASON: usize = 1_000;
/// Alternatives of one filter.
pub const MAX_FILTER_ITEMS: usize = 500;
/// Types and tags of one filter, all alternatives together.
pub const MAX_FILTER_TERMS: usize = 10_000;
/// Events that one read returns at most, whatever it asks for.
pub const MAX_PAGE: usize = 10_000;
/// Bytes that end a read: it gives the event or row by which it reaches them, and none after it.
pub const PAGE_BYTES: usize = 4 << 20;
/// Highest version and position: both are signed 64-bit integers in SQL.
pub const MAX_SEQUENCE: u64 = i64::MAX as u64;

/// A value that cannot be stored, refused before anything was written.
///
/// The text names the field, the value (cut) and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Nothing where a name is needed.
    #[error("{field} is empty")]
    Empty {
        /// What was checked.
        field: &'static str,
    },
    /// Too long, too large or too many: make it smaller.
    #[error("{field} is {actual} {unit}, over the limit of {limit}: {value}")]
    TooLarge {
        /// What was checked.
        field: &'static str,
        /// Its size.
        actual: usize,
        /// The largest allowed size.
        limit: usize,
        /// What the sizes count.
        unit: &'static str,
        /// The value, cut.
        value: String,
    },
    /// A character that may not stand there.
    #[error("{field} {value:?} has {found:?} at byte {at}; allowed is {allowed}")]
    Character {
        /// What was checked.
        field: &'static str,
        /// The value, cut.
        value: String,
        /// The first character that is not allowed.
        found: char,
        /// Where it stands.
        at: usize,
        /// What may stand there, in words.
        allowed: &'static str,
    },
    /// Reserved, nil, repeated or malformed.
    #[error("{field} {value:?} {why}")]
    Invalid {
        /// What was checked.
        field: &'static str,
        /// The value, cut.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The first characters of a value, for an error text.
#[must_use]
pub fn cut(value: &str) -> String {
    const SHOWN: usize = 64;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}..", &value[..end]),
        None => value.to_owned(),
    }
}

/// A name of at most [`MAX_NAME`] bytes without control characters: stream ids, tags, keys.
pub(crate) fn name(field: &'static str, value: &str) -> Result<(), LimitError> {
    length(field, value)?;
    if value.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Ok(());
    }
    match value.char_indices().find(|(_, c)| c.is_control()) {
        None => Ok(()),
        Some((at, found)) => Err(LimitError::Character {
            field,
            value: cut(value),
            found,
            at,
            allowed: "any text without control characters",
        }),
    }
}

/// The key of a row: it comes from events, and a processor that meets one it cannot store stands still. So it
/// may have any character but NUL, which not every backend can store. Keys of processors are checked like that, too: what
/// fails is parked under its key.
///
/// # Errors
///
/// [`LimitError`] for one that is empty, has more than 255 bytes, or a NUL.
pub fn row_key(value: &str) -> Result<(), LimitError> {
    let field = "row key";
    length(field, value)?;
    no_nul(field, value)
}

/// A text that every backend can take.
pub(crate) fn no_nul(field: &'static str, value: &str) -> Result<(), LimitError> {
    match value.find('\0') {
        None => Ok(()),
        Some(at) => {
            let allowed = "any text without NUL";
            Err(LimitError::Character { field, value: cut(value), found: '\0', at, allowed })
        }
    }
}

/// A stored name of the program's own: `[A-Za-z0-9_.:-]`, and not the framework's prefix `es.`.
///
/// # Errors
///
/// [`LimitError`] for an empty or long name, another character, or the prefix.
pub fn stored_name(field: &'static str, value: &str) -> Result<(), LimitError> {
    length(field, value)?;
    // A table: every event of every commit comes through here.
    const ALLOWED: [bool; 256] = {
        let mut allowed = [false; 256];
        let mut b = 0;
        while b < 128 {
            #[expect(clippy::cast_possible_truncation, reason = "below 128")]
            let byte = b as u8;
            allowed[b] = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
            b += 1;
        }
        allowed
    };
    if let Some(at) = value.bytes().position(|b| !ALLOWED[usize::from(b)]) {
        let found = value[at..].chars().next().unwrap_or_default();
        return Err(LimitError::Character {
            field,
            value: cut(value),
            found,
            at,
            allowed: "A-Z a-z 0-9 _ . : -",
        });
    }
    if value.starts_with("es.") {
        let why = "starts with `es.`, which is reserved for the framework";
        return Err(LimitError::Invalid { field, value: cut(value), why });
    }
    Ok(())
}

fn length(field: &'static str, value: &str) -> Result<(), LimitError> {
    if value.is_empty() {
        return Err(LimitError::Empty { field });
    }
    size(field, value.len(), MAX_NAME, "bytes", || cut(value))
}

pub(crate) fn size(
    field: &'static str,
    actual: usize,
    limit: usize,
    unit: &'static str,
    value: impl FnOnce() -> String,
) -> Result<(), LimitError> {
    if actual <= limit {
        return Ok(());
    }
    Err(LimitError::TooLarge { field, actual, limit, unit, value: value() })
}

/// Depth by counting brackets outside strings: one pass, no recursion, whatever the input.
pub(crate) fn json_depth(name: &str, json: &[u8]) -> Result<(), LimitError> {
    // As deep as it has brackets, at most: that much is known at the speed of memory.
    if json.len() <= 2 * MAX_JSON_DEPTH
        || memchr::memchr2_iter(b'{', b'[', json).take(MAX_JSON_DEPTH + 1).count() <= MAX_JSON_DEPTH
    {
        return Ok(());
    }
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    size("payload", deepest, MAX_JSON_DEPTH, "levels deep", || name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_at_its_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(name("id", &"a".repeat(MAX_NAME)), Ok(()));
        let long = name("id", &"a".repeat(MAX_NAME + 1)).unwrap_err().to_string();
        assert!(long.starts_with("id is 256 bytes, over the limit of 255: aaaa"), "{long}");
        assert!(long.len() < 200, "the value is cut");
    }

    #[test]
    fn json_is_measured_outside_its_strings() {
        let nested = |n| [vec![b'['; n], vec![b']'; n]].concat();
        assert_eq!(json_depth("e", &nested(64)), Ok(()));
        assert!(json_depth("e", &nested(65)).is_err());
        assert!(json_depth("e", &nested(1_000_000)).is_err());
        assert_eq!(json_depth("e", format!(r#""\"{}""#, "[".repeat(100)).as_bytes()), Ok(()));
    }

    #[test]
    fn a_stored_name_says_which_character_is_wrong() {
        let found = stored_name("event type", "a b").unwrap_err().to_string();
        assert_eq!(found, r#"event type "a b" has ' ' at byte 1; allowed is A-Z a-z 0-9 _ . : -"#);
        assert!(stored_name("event type", "es.x").is_err());
    }
}

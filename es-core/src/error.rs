//! What errors have in common.

/// What a handler of the read side may fail with: `?` works on every error type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The domain refused: tell the user.
    Refused,
    /// Another was first: load again and decide again.
    Conflict,
    /// It may go through later: try again.
    Transient,
    /// It may have happened: look before you try again, or try again with the same idempotency key.
    Unknown,
    /// It goes no further by itself, and trying again does not help: an operator has to do something first.
    Blocked,
    /// What is stored cannot be used: stop and look.
    Corrupt,
    /// The call is wrong: fix the code or the input.
    Misuse,
}

/// An error with its sources on one line, for logs and stored texts.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

//! The order in which a commit is judged, as one pure function over what is stored.
//!
//! 1. Keys: a repeated request gets its first outcome, whatever else has changed since.
//! 2. Versions of the streams it writes, then of those it only checks.
//! 3. The append condition: the log goes as far as it was read, and nothing that matches has come since.
//! 4. The set of inline projections, if it has events.
//! 5. Rows.
//! 6. Numbers that would overflow.
//!
//! Backends that decide in the program call [`judge`]; a backend that decides in its database writes
//! the same rules there, and the conformance suite holds it to them.

use crate::limits::MAX_SEQUENCE;
use crate::store::commit::INLINE;
use crate::store::{
    Append, AppendCondition, Commit, CommitError, Committed, EventFilter, EventId, ExpectedVersion, Filling,
    IdempotencyKey, Name, Outcome, Own, Position, RecordedEvent, StreamId, Version, with_earlier,
};

/// What is stored, as far as a commit asks.
pub trait Ledger {
    /// The position of the last event.
    fn head(&self) -> Position;
    /// How many events the stream has.
    fn version(&self, stream: &StreamId) -> Version;
    /// The last event of a stream. Asked only for a stream whose expectation [names it](ExpectedVersion::event).
    fn last(&self, stream: &StreamId) -> Option<EventId>;
    /// Events of a stream after a version, at most `limit`. Asked only when an expectation failed.
    fn tail(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent>;
    /// The first event after a position that matches.
    fn first_match(&self, filter: &EventFilter, after: Position) -> Option<(Position, Name)>;
    /// What is stored under a key.
    fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome>;
    /// The revision of a row; 0 if it is not there.
    fn row_rev(&self, table: &str, key: &str) -> u64;
}

/// What to do with a commit that is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "write it, or it is written already")]
pub enum Verdict {
    /// Write it.
    Apply,
    /// The same events are where they should be, and it has no rows: answer as the first time, write nothing.
    Repeat(Committed),
}

/// Judges a commit.
///
/// # Errors
///
/// The first rule that refuses it.
pub fn judge(commit: &Commit, ledger: &impl Ledger) -> Result<Verdict, CommitError> {
    for mark in &commit.outcomes {
        if let Some(outcome) = ledger.outcome(&mark.key) {
            let key = mark.key.clone();
            return Err(if outcome.fingerprint == mark.outcome.fingerprint {
                CommitError::Repeated { key, outcome: Box::new(outcome) }
            } else {
                CommitError::KeyReused { key }
            });
        }
    }
    for (append, earlier) in with_earlier(&commit.appends) {
        let before = Version(ledger.version(&append.stream).0.saturating_add(earlier.events));
        if append.expected.holds(before) && follows(earlier, &append.stream, append.expected, ledger) {
            continue;
        }
        if let Some(committed) = repeated(commit, ledger)? {
            return Ok(Verdict::Repeat(committed));
        }
        return Err(conflict(commit, append, before, ledger));
    }
    for check in &commit.checks {
        let actual = ledger.version(&check.stream);
        if !check.expected.holds(actual) || !follows(Own::default(), &check.stream, check.expected, ledger) {
            let append =
                Append { stream: check.stream.clone(), expected: check.expected, events: Vec::new() };
            return Err(conflict(commit, &append, actual, ledger));
        }
    }
    if let Some(AppendCondition { after, .. }) = commit.condition
        && after > ledger.head()
    {
        return Err(CommitError::BehindHead { after, head: ledger.head() });
    }
    if let Some(condition) = &commit.condition
        && let Some((position, name)) = ledger.first_match(&condition.fail_if_events_match, condition.after)
    {
        return Err(CommitError::ConditionFailed {
            position,
            name: name.to_string(),
            after: condition.after,
        });
    }
    if commit.appends.iter().any(|append| !append.events.is_empty()) {
        let stored = ledger.row_rev(INLINE.0, INLINE.1);
        if stored != commit.inline {
            return Err(CommitError::Inline { stored, named: commit.inline });
        }
    }
    for write in &commit.rows {
        let actual = ledger.row_rev(&write.table, &write.key);
        if actual != write.rev {
            let (table, key, expected) = (write.table.clone(), write.key.clone(), write.rev);
            return Err(CommitError::Fenced { table, key, expected, actual });
        }
    }
    overflow(commit, ledger)?;
    Ok(Verdict::Apply)
}

/// Whether the last event of a stream, after earlier appends of the same commit, is the one that is expected.
fn follows(earlier: Own, stream: &StreamId, expected: ExpectedVersion, ledger: &impl Ledger) -> bool {
    let Some(event) = expected.event() else { return true };
    earlier.last.or_else(|| ledger.last(stream)) == Some(event)
}

fn conflict(commit: &Commit, append: &Append, actual: Version, ledger: &impl Ledger) -> CommitError {
    let mut since = match append.expected.exact() {
        Some(expected) if commit.explain => ledger.tail(&append.stream, expected, crate::limits::MAX_PAGE),
        _ => Vec::new(),
    };
    let mut filling = Filling::default();
    since.retain(|event| filling.takes(event));
    CommitError::Conflict { stream: append.stream.clone(), expected: append.expected, actual, since }
}

/// Whether every event of the commit is already exactly where it is expected.
///
/// Asked only after an expectation failed. A single id that differs makes it an ordinary conflict; an
/// id that is the same with other content is refused as such. So does a row: whoever has written the
/// events may have written another one, and to be answered like the first time would say that it is this one.
fn repeated(commit: &Commit, ledger: &impl Ledger) -> Result<Option<Committed>, CommitError> {
    if !commit.rows.is_empty() {
        return Ok(None);
    }
    let mut committed = Committed { position: ledger.head(), versions: Vec::new() };
    let mut last = None;
    for (append, earlier) in with_earlier(&commit.appends) {
        // Where it must have started: only exact expectations say.
        let first = earlier.first.unwrap_or(append.expected).exact();
        let Some(expected) = first.map(|first| Version(first.0 + earlier.events)) else { return Ok(None) };
        let stored = ledger.tail(&append.stream, expected, append.events.len());
        if stored.len() != append.events.len() {
            return Ok(None);
        }
        for (new, old) in append.events.iter().zip(&stored) {
            if new.id != old.id {
                return Ok(None);
            }
            if !new.is_same(old) {
                return Err(CommitError::EventIdReused { id: new.id, stream: append.stream.clone() });
            }
        }
        committed.versions.push(Version(expected.0 + stored.len() as u64));
        last = stored.last().map(RecordedEvent::place).max(last);
    }
    Ok(last.map(|position| Committed { position, ..committed }))
}

fn overflow(commit: &Commit, ledger: &impl Ledger) -> Result<(), CommitError> {
    let added: u64 = commit.appends.iter().map(|a| a.events.len() as u64).sum();
    if added > 0 && ledger.head().0.saturating_add(added) > MAX_SEQUENCE {
        return Err(CommitError::Overflow { what: "a position" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::NewEvent;

    /// An empty store.
    struct Nothing;

    impl Ledger for Nothing {
        fn head(&self) -> Position {
            Position(0)
        }
        fn version(&self, _: &StreamId) -> Version {
            Version(0)
        }
        fn last(&self, _: &StreamId) -> Option<EventId> {
            None
        }
        fn tail(&self, _: &StreamId, _: Version, _: usize) -> Vec<RecordedEvent> {
            Vec::new()
        }
        fn first_match(&self, _: &EventFilter, _: Position) -> Option<(Position, Name)> {
            None
        }
        fn outcome(&self, _: &IdempotencyKey) -> Option<Outcome> {
            None
        }
        fn row_rev(&self, _: &str, _: &str) -> u64 {
            0
        }
    }

    fn append(stream: usize, expected: ExpectedVersion) -> Append {
        let event = NewEvent {
            id: uuid::Uuid::from_u128(stream as u128 + 1),
            name: "done".into(),
            schema: 1,
            codec: "json".into(),
            data: "{}".into(),
            tags: Vec::new(),
            metadata: Arc::default(),
        };
        Append { stream: StreamId::new(format!("s-{stream}")).unwrap(), expected, events: vec![event] }
    }

    #[test]
    fn a_stream_that_stands_twice_goes_on_from_what_the_commit_itself_adds() {
        let judged = |second| {
            let appends = vec![append(1, ExpectedVersion::NoStream), append(2, ExpectedVersion::Any), {
                Append { events: Vec::new(), ..append(1, second) }
            }];
            judge(&Commit { appends, ..Commit::default() }, &Nothing)
        };
        let own = uuid::Uuid::from_u128(2);
        assert_eq!(judged(ExpectedVersion::Exact(Version(1))).unwrap(), Verdict::Apply);
        assert_eq!(judged(ExpectedVersion::After(Version(1), own)).unwrap(), Verdict::Apply);
        for wrong in [
            ExpectedVersion::NoStream,
            ExpectedVersion::Exact(Version(2)),
            ExpectedVersion::After(Version(1), uuid::Uuid::from_u128(3)),
        ] {
            assert!(
                matches!(judged(wrong), Err(CommitError::Conflict { actual: Version(1), .. })),
                "{wrong}"
            );
        }
    }
}

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
    IdempotencyKey, Name, Outcome, Position, RecordedEvent, StreamId, Version,
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
    for (i, append) in commit.appends.iter().enumerate() {
        let before = version_within(&commit.appends[..i], &append.stream, ledger);
        let earlier = &commit.appends[..i];
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
        if !check.expected.holds(actual) || !follows(&[], &check.stream, check.expected, ledger) {
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

/// The version of a stream after these appends of the same commit.
fn version_within(earlier: &[Append], stream: &StreamId, ledger: &impl Ledger) -> Version {
    let added: usize = earlier.iter().filter(|a| a.stream == *stream).map(|a| a.events.len()).sum();
    Version(ledger.version(stream).0.saturating_add(added as u64))
}

/// Whether the last event of a stream, after these appends of the same commit, is the one that is expected.
fn follows(earlier: &[Append], stream: &StreamId, expected: ExpectedVersion, ledger: &impl Ledger) -> bool {
    let Some(event) = expected.event() else { return true };
    let own = earlier.iter().rev().filter(|a| a.stream == *stream).find_map(|a| a.events.last());
    own.map(|event| event.id).or_else(|| ledger.last(stream)) == Some(event)
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
    for (i, append) in commit.appends.iter().enumerate() {
        let Some(expected) = first_expected(&commit.appends[..=i], append) else { return Ok(None) };
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

/// Where an append of a repeated commit must have started: only exact expectations say.
fn first_expected(upto: &[Append], append: &Append) -> Option<Version> {
    let first = upto.iter().find(|a| a.stream == append.stream)?.expected.exact()?;
    let earlier = upto.split_last().map_or(upto, |(_, earlier)| earlier);
    let added: usize = earlier.iter().filter(|a| a.stream == append.stream).map(|a| a.events.len()).sum();
    Some(Version(first.0 + added as u64))
}

fn overflow(commit: &Commit, ledger: &impl Ledger) -> Result<(), CommitError> {
    let added: u64 = commit.appends.iter().map(|a| a.events.len() as u64).sum();
    if added > 0 && ledger.head().0.saturating_add(added) > MAX_SEQUENCE {
        return Err(CommitError::Overflow { what: "a position" });
    }
    Ok(())
}

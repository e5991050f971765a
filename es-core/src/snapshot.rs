//! When a state is kept, and how it is stored.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::BoxError;
use crate::event::Version;

/// When snapshots of an aggregate are taken, and how its state is stored in them.
///
/// Law, held by a property test on every backend: the snapshot and the tail give the same state as
/// all events. A snapshot that cannot be read is ignored with a warning, so a state type may change
/// freely: give it another [`schema`](Self::with_schema) when it does.
pub struct SnapshotPolicy<A> {
    when: When<A>,
    format: Option<Format<A>>,
    schema: u32,
}

#[derive(Clone, Copy)]
enum When<A> {
    Never,
    Every(u64),
    LoadOver(Duration),
    Asked(fn(&Situation<'_, A>) -> bool),
}

#[derive(Clone, Copy)]
struct Format<A> {
    encode: fn(&A) -> Result<Bytes, BoxError>,
    decode: fn(&[u8]) -> Result<A, BoxError>,
}

/// What a policy decides on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Situation<'a, A> {
    /// The state after the last commit.
    pub state: &'a A,
    /// Its version.
    pub version: Version,
    /// How many events the commit appended.
    pub appended: u64,
    /// How long the last load of the state took; zero if it was in the cache.
    pub load: Duration,
    /// How many events that load read.
    pub loaded: u64,
}

impl<A> std::fmt::Debug for SnapshotPolicy<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = match self.when {
            When::Never => "never".to_owned(),
            When::Every(n) => format!("every {n} events"),
            When::LoadOver(limit) => format!("after a load of more than {limit:?}"),
            When::Asked(_) => "when asked".to_owned(),
        };
        f.debug_struct("SnapshotPolicy").field("when", &when).field("schema", &self.schema).finish()
    }
}

impl<A> SnapshotPolicy<A> {
    /// No snapshots.
    #[must_use]
    pub const fn never() -> Self {
        Self { when: When::Never, format: None, schema: 1 }
    }

    /// Whether this state should be kept now.
    #[must_use]
    pub fn wants(&self, now: &Situation<'_, A>) -> bool {
        match self.when {
            When::Never => false,
            // By the multiple that was crossed: a commit of many events does not step over it.
            When::Every(n) => now.version.0 / n > (now.version.0 - now.appended.min(now.version.0)) / n,
            When::LoadOver(limit) => now.load > limit,
            When::Asked(wants) => wants(now),
        }
    }

    /// Whether this aggregate has snapshots at all.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.format.is_some()
    }

    /// The schema version of the state type.
    #[must_use]
    pub const fn schema(&self) -> u32 {
        self.schema
    }

    /// Another schema version than 1: older snapshots are then ignored.
    #[must_use]
    pub const fn with_schema(mut self, schema: u32) -> Self {
        self.schema = schema;
        self
    }

    /// # Errors
    ///
    /// The state cannot be written.
    pub(crate) fn encode(&self, state: &A) -> Result<Bytes, BoxError> {
        let format = self.format.as_ref().ok_or("the aggregate has no snapshots")?;
        (format.encode)(state)
    }

    /// # Errors
    ///
    /// The bytes are not a state of this schema.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<A, BoxError> {
        let format = self.format.as_ref().ok_or("the aggregate has no snapshots")?;
        (format.decode)(bytes)
    }
}

impl<A: Serialize + DeserializeOwned> SnapshotPolicy<A> {
    /// One each time the version passes a multiple of `n`.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    #[must_use]
    pub const fn every(n: u64) -> Self {
        assert!(n > 0, "a snapshot every 0 events");
        Self::json(When::Every(n))
    }

    /// One after a load that took longer than this.
    #[must_use]
    pub const fn when_load_takes(limit: Duration) -> Self {
        Self::json(When::LoadOver(limit))
    }

    /// One whenever the function says so.
    #[must_use]
    pub const fn when(wants: fn(&Situation<'_, A>) -> bool) -> Self {
        Self::json(When::Asked(wants))
    }

    /// Only on request, by [`App::snapshot`](crate::App::snapshot).
    #[must_use]
    pub const fn on_request() -> Self {
        Self::json(When::Never)
    }

    const fn json(when: When<A>) -> Self {
        let encode = |state: &A| Ok(Bytes::from(serde_json::to_vec(state)?));
        let decode = |bytes: &[u8]| Ok(serde_json::from_slice(bytes)?);
        Self { when, format: Some(Format { encode, decode }), schema: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_of_many_events_does_not_step_over_a_multiple() {
        let policy = SnapshotPolicy::<u8>::every(10);
        let wants = |version, appended| {
            let load = Duration::ZERO;
            policy.wants(&Situation { state: &0, version: Version(version), appended, load, loaded: 0 })
        };
        assert!(!wants(9, 9));
        assert!(wants(10, 1));
        assert!(wants(13, 4));
        assert!(!wants(13, 3));
        assert!(!wants(10, 0));
    }
}

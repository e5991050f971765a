//! Which history of the store a file has.
//!
//! A redaction, a restore into the open file and `adopt` make what was read before worth nothing, wherever positions, versions
//! and revisions stand. The row of `es_history` has a token that a redaction and `adopt` write anew; a restore says nothing, so
//! it is also looked whether an event that this process has seen is still there. Every batch and every read of the log looks,
//! and what is found is counted before anything is given that was read there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use es_core::store::StoreError;
use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::error;
use crate::row::signed;

/// A statement that looks, in a read of its own or behind another one. [`Ask::bind`] binds what it asks for.
pub(crate) const LOOK: &str = include_str!("sql/look.sql");

const FIRST: &str = "select identity, (select token from es_history) from es_store";

/// The histories that this process has found in the file, counted.
#[derive(Debug)]
pub(crate) struct Histories {
    store: Uuid,
    known: Mutex<Known>,
    changes: AtomicU64,
    /// Which of them the event types are of that are known.
    types_of: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    token: Uuid,
    /// An event of it: where, and which.
    seen: Option<(i64, Uuid)>,
}

/// What a look asks, and in which history it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    in_history: u64,
    seen: Option<(i64, Uuid)>,
}

impl Ask {
    /// Binds what [`LOOK`] asks for, behind what is bound already.
    pub(crate) fn bind<'q>(
        self,
        query: Query<'q, Sqlite, SqliteArguments>,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let (position, event) = self.seen.unwrap_or_default();
        query.bind(position).bind(event.as_bytes().to_vec())
    }
}

/// What a look has found.
#[derive(Clone, Copy, Debug)]
struct Found {
    store: Uuid,
    token: Uuid,
    has_seen: bool,
}

impl Histories {
    /// Of a file that has just been opened.
    pub(crate) async fn open(conn: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(FIRST).fetch_one(conn).await?;
        Ok(Self::new(uuid(row.try_get(0)?)?, uuid(row.try_get(1)?)?))
    }

    fn new(store: Uuid, token: Uuid) -> Self {
        let known = Mutex::new(Known { token, seen: None });
        Self { store, known, changes: AtomicU64::new(0), types_of: AtomicU64::new(0) }
    }

    /// The store that this program was started on.
    pub(crate) const fn store(&self) -> Uuid {
        self.store
    }

    /// How often it was another one than before: the number of the one that is known.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn ask(&self) -> Ask {
        let known = self.known();
        Ask { in_history: self.changes(), seen: known.seen }
    }

    /// Takes in what a look has found, in the columns of a row from this one on.
    ///
    /// # Errors
    ///
    /// It is another store.
    pub(crate) fn hear(&self, ask: Ask, row: &SqliteRow, first: usize) -> Result<(), sqlx::Error> {
        let has_seen = ask.seen.is_none() || row.try_get(first + 2)?;
        self.learn(
            ask,
            Found { store: uuid(row.try_get(first)?)?, token: uuid(row.try_get(first + 1)?)?, has_seen },
        )
    }

    fn learn(&self, ask: Ask, found: Found) -> Result<(), sqlx::Error> {
        if found.store != self.store {
            let other = format!(
                "the file holds store {}, and this program was started on store {}: start it again",
                found.store, self.store
            );
            return Err(sqlx::Error::Configuration(other.into()));
        }
        let mut known = self.known();
        // One that was asked in a history that is gone says nothing of the one that is there: whoever asked finds that it
        // has changed, and asks again.
        let is_heard = self.changes() == ask.in_history;
        if is_heard && (found.token != known.token || !found.has_seen) {
            tracing::warn!("the store has another history than before: what was known of it is forgotten");
            *known = Known { token: found.token, seen: None };
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// An event of the history that is known; the last one is kept.
    pub(crate) fn saw(&self, history: u64, position: u64, event: Uuid) {
        let mut known = self.known();
        if self.changes() == history && known.seen.is_none_or(|(last, _)| last < signed(position)) {
            known.seen = Some((signed(position), event));
        }
    }

    /// Whether the event types that are known are of this history.
    pub(crate) fn has_types(&self) -> bool {
        self.types_of.load(Ordering::Acquire) == self.changes()
    }

    /// All event types were read anew, in this history.
    pub(crate) fn read_types(&self, history: u64) {
        self.types_of.store(history, Ordering::Release);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn uuid(bytes: Option<&[u8]>) -> Result<Uuid, sqlx::Error> {
    let bytes = bytes
        .ok_or_else(|| sqlx::Error::Decode("the tables es_store and es_history have a row each".into()))?;
    Uuid::from_slice(bytes).map_err(|e| sqlx::Error::Decode(e.into()))
}

/// What a look that failed means: another store is said as it is.
pub(crate) fn failed(what: &'static str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Configuration(other) => StoreError::misuse(other.to_string()),
        error => error::store(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histories() -> Histories {
        Histories::new(Uuid::nil(), Uuid::from_u128(1))
    }

    fn found(token: u128, has_seen: bool) -> Found {
        Found { store: Uuid::nil(), token: Uuid::from_u128(token), has_seen }
    }

    #[test]
    fn a_history_is_another_one_by_its_token_or_an_event_that_is_gone() {
        let known = histories();
        known.learn(known.ask(), found(1, true)).unwrap();
        assert_eq!(known.changes(), 0);
        known.learn(known.ask(), found(2, true)).unwrap();
        known.learn(known.ask(), found(2, true)).unwrap();
        assert_eq!(known.changes(), 1);
        known.learn(known.ask(), found(2, false)).unwrap();
        assert_eq!(known.changes(), 2);
    }

    #[test]
    fn who_was_asked_before_and_is_heard_later_says_nothing_new() {
        let known = histories();
        let before = known.ask();
        known.learn(known.ask(), found(2, true)).unwrap();
        known.learn(before, found(1, true)).unwrap();
        assert_eq!(known.changes(), 1, "it is of the history before");
        known.learn(known.ask(), found(2, true)).unwrap();
        assert_eq!(known.changes(), 1);
    }

    #[test]
    fn an_event_that_was_seen_is_of_one_history_and_the_last_one_is_kept() {
        let known = histories();
        known.saw(0, 7, Uuid::max());
        known.saw(0, 3, Uuid::nil());
        assert_eq!(known.ask().seen, Some((7, Uuid::max())));
        known.learn(known.ask(), found(2, true)).unwrap();
        known.saw(0, 9, Uuid::max());
        assert_eq!(known.ask().seen, None, "one of the history before says nothing");
    }

    #[test]
    fn another_store_is_refused_and_changes_nothing() {
        let known = histories();
        let other = Found { store: Uuid::max(), ..found(2, true) };
        let error = failed("reading", known.learn(known.ask(), other).unwrap_err());
        assert!(error.to_string().contains("start it again"), "{error}");
        assert_eq!(known.changes(), 0);
    }
}

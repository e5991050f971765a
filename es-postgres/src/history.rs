//! Which history of the store a connection leads to.
//!
//! After a failover or a restore, numbers of streams and of types stand for other ones, and positions for other events. Most
//! of that comes with new connections, so each of those is asked once. A restore in place leaves connections as they are: so
//! pages of events bring a token, which is another one once the row of the history was written anew, and appends name theirs.
//! What was read in one history is then forgotten, and what was decided on it is refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::{PgConnection, Row as _, SqlStr};
use uuid::Uuid;

use crate::row::signed;
use crate::schema::{self, SchemaName};

/// What tells the histories of one place apart, in a statement of the store's own connections.
macro_rules! token {
    () => {
        "(select (h.tableoid::bigint << 32) | h.xmin::text::bigint from history h)"
    };
}
pub(crate) use token;

/// The column of a page that has the token.
pub(crate) const COLUMN: &str = "history";

/// The store; the place: the database, the cluster, and how often that was promoted; the token; how far the server has
/// written; and whether an event that this process has seen is still there.
const SELECT: &str = "select s.identity, concat_ws('/', d.oid, c.system_identifier,
        case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end),
    (h.tableoid::bigint << 32) | h.xmin::text::bigint,
    case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint end,
    $1 <= s.archived
        or exists (select from {es}.events e where e.position = $1 and substr(e.envelope, 1, 16) = uuid_send($2))
    from {es}.store s, {es}.history h, pg_control_system() c, pg_database d where d.datname = current_database()";

/// The histories that the connections of this process have led to, counted.
#[derive(Debug)]
pub(crate) struct Histories {
    select: SqlStr,
    store: Uuid,
    known: Mutex<Known>,
    changes: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Known {
    place: Option<String>,
    token: Option<i64>,
    /// How far the server had written.
    written: i64,
    /// An event of it: where, and which.
    seen: Option<(i64, Uuid)>,
}

/// What a connection has led to.
#[derive(Debug)]
struct Met {
    store: Uuid,
    place: String,
    token: i64,
    written: Option<i64>,
    has_seen: bool,
    /// The history that was known when it was asked, and how far the server had written by then: of two connections that are
    /// asked at once, the one that was asked first may be the last to be heard.
    asked_in: u64,
    had_written: i64,
}

impl Histories {
    pub(crate) fn new(schema: &SchemaName, store: Uuid) -> Self {
        let select = schema::sql(schema.fill(SELECT));
        Self { select, store, known: Mutex::default(), changes: AtomicU64::new(0) }
    }

    /// How often it was another one than before: the number of the one that is known.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The token of a history; `None` if another one is known by now.
    pub(crate) fn token(&self, history: u64) -> Option<i64> {
        let known = self.known();
        known.token.filter(|_| self.changes() == history)
    }

    /// An event of the history that is known.
    pub(crate) fn saw(&self, history: u64, position: u64, event: Uuid) {
        let mut known = self.known();
        if self.changes() == history && known.seen.is_none_or(|(last, _)| last < signed(position)) {
            known.seen = Some((signed(position), event));
        }
    }

    /// Asks a connection that is new. Gives the number of its history.
    pub(crate) async fn meet(&self, conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
        let (Known { seen, written: had_written, .. }, asked_in) = {
            let known = self.known();
            (known.clone(), self.changes())
        };
        let (position, event) = seen.unwrap_or_default();
        let query = sqlx::query(self.select.clone()).bind(position).bind(event);
        let row = query.fetch_one(conn).await?;
        let met = Met {
            store: row.try_get(0)?,
            place: row.try_get(1)?,
            token: row.try_get(2)?,
            written: row.try_get(3)?,
            has_seen: row.try_get(4)?,
            asked_in,
            had_written,
        };
        if met.store != self.store {
            let other = format!(
                "the database holds store {}, and this program was started on store {}: start it again",
                met.store, self.store
            );
            return Err(sqlx::Error::Configuration(other.into()));
        }
        Ok(self.learn(met))
    }

    fn learn(&self, met: Met) -> u64 {
        let Met { store: _, place, token, written, has_seen, asked_in, had_written } = met;
        let mut known = self.known();
        let is_new = known.place.as_ref().is_some_and(|known| *known != place)
            || known.token.is_some_and(|known| known != token)
            || self.changes() == asked_in
                && (written.is_some_and(|written| written < had_written) || !has_seen);
        if is_new {
            self.change(&mut known);
        }
        let written = written.unwrap_or_default().max(known.written);
        *known = Known { place: Some(place), token: Some(token), written, seen: known.seen };
        self.changes()
    }

    /// Whether a page of a connection shows that its place has got another history. Then that is known, and the connection's.
    pub(crate) fn shows(&self, history: &mut u64, token: Option<i64>) -> bool {
        let mut known = self.known();
        let is_new = self.changes() == *history && known.token != token;
        if is_new {
            self.change(&mut known);
            known.token = token;
            *history = self.changes();
        }
        is_new
    }

    fn change(&self, known: &mut Known) {
        tracing::warn!("the store has another history than before: what was known of it is forgotten");
        (known.seen, known.written) = (None, 0);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(place: &str, token: i64, written: i64) -> Met {
        let (store, place, written) = (Uuid::nil(), place.to_owned(), Some(written));
        Met { store, place, token, written, has_seen: true, asked_in: 0, had_written: 0 }
    }

    impl Histories {
        /// One that is asked and heard at once.
        fn hear(&self, met: Met) -> u64 {
            let had_written = self.known().written;
            self.learn(Met { asked_in: self.changes(), had_written, ..met })
        }
    }

    fn histories() -> Histories {
        Histories::new(&SchemaName::default(), Uuid::nil())
    }

    #[test]
    fn a_history_is_another_one_by_its_place_its_row_how_far_it_goes_or_an_event() {
        let known = histories();
        assert_eq!(known.hear(met("a", 1, 100)), 0, "the first one");
        assert_eq!(known.hear(met("a", 1, 110)), 0);
        assert_eq!(known.hear(met("b", 1, 120)), 1, "another cluster");
        assert_eq!(known.hear(met("b", 2, 120)), 2, "it was restored");
        assert_eq!(known.hear(met("b", 2, 119)), 3, "the server has written less");
        assert_eq!(known.hear(met("b", 2, 119)), 3);
        assert_eq!(known.hear(Met { has_seen: false, ..met("b", 2, 130) }), 4, "an event is gone");
        assert_eq!(known.hear(Met { written: None, ..met("b", 2, 0) }), 4, "it cannot be asked of a standby");
    }

    #[test]
    fn who_was_asked_before_and_is_heard_later_says_nothing_new() {
        let known = histories();
        known.hear(met("a", 1, 100));
        let first = Met { had_written: 100, ..met("a", 1, 105) };
        known.hear(met("a", 1, 110));
        assert_eq!(known.learn(first), 0);
        let of_before = Met { had_written: 110, has_seen: false, ..met("b", 1, 7) };
        assert_eq!(known.hear(met("b", 1, 5)), 1);
        assert_eq!(known.learn(of_before), 1, "what it had not seen was not of this history");
    }

    #[test]
    fn what_a_stale_connection_shows_is_nothing_new() {
        let known = histories();
        let mut conns = [known.hear(met("a", 1, 1)), known.hear(met("a", 1, 1))];
        assert!(!known.shows(&mut conns[0], Some(1)));
        assert!(known.shows(&mut conns[0], Some(2)));
        assert_eq!((conns, known.changes()), ([1, 0], 1));
        assert!(!known.shows(&mut conns[1], Some(1)), "it is of the history before");
        assert_eq!((known.token(0), known.token(1)), (None, Some(2)));
        assert!(known.shows(&mut conns[0], None), "a store without its row is none");
    }

    #[test]
    fn an_event_that_was_seen_is_of_one_history() {
        let known = histories();
        let history = known.hear(met("a", 1, 1));
        known.saw(history, 7, Uuid::max());
        known.saw(history, 3, Uuid::nil());
        assert_eq!(known.known().seen, Some((7, Uuid::max())), "the last one");
        let next = known.hear(met("b", 1, 1));
        known.saw(history, 9, Uuid::max());
        assert_eq!(known.known().seen, None, "one of the history before says nothing");
        known.saw(next, 2, Uuid::max());
        assert_eq!(known.known().seen, Some((2, Uuid::max())));
    }
}

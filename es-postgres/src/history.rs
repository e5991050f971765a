//! Which history of the store a connection leads to.
//!
//! After a failover or a restore, numbers of streams and of types stand for other ones, and positions for other events. Most
//! of that comes with new connections, so each of those is asked once. A restore in place leaves connections as they are: so
//! pages of events bring a token, which is another one once the row of the history was written anew, and appends name theirs.
//! What was read in one history is then forgotten, and what was decided on it is refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row as _, SqlStr};
use tokio::sync::watch;
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
/// written; whether an event that this process has seen is still there; and the generation: two copies of one disk that were
/// both adopted have the same of all the others.
const SELECT: &str = "select s.identity, concat_ws('/', d.oid, c.system_identifier,
        case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end),
    (h.tableoid::bigint << 32) | h.xmin::text::bigint,
    case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint end,
    $1 <= s.archived
        or exists (select from {es}.events e where e.position = $1 and substr(e.envelope, 1, 16) = uuid_send($2)),
    h.generation
    from {es}.store s, {es}.history h, pg_control_system() c, pg_database d where d.datname = current_database()";

/// The histories that the connections of this process have led to, counted.
#[derive(Debug)]
pub(crate) struct Histories {
    select: SqlStr,
    store: Uuid,
    known: Mutex<Known>,
    changes: AtomicU64,
    /// Tells when it changes.
    moved: watch::Sender<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    place: Option<String>,
    token: Option<i64>,
    /// `None` once a page has shown another token: the next connection says which it has.
    generation: Option<Uuid>,
    /// How far the server had written.
    written: i64,
    /// An event of it: where, and which.
    seen: Option<(i64, Uuid)>,
    /// When it was found to be another one than before.
    since: Option<Instant>,
}

/// What a connection has led to.
#[derive(Debug)]
struct Met {
    store: Uuid,
    place: String,
    token: i64,
    generation: Uuid,
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
        let (known, changes, moved) = (Mutex::default(), AtomicU64::new(0), watch::Sender::default());
        Self { select, store, known, changes, moved }
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

    /// Changes with the history.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    /// Whether a connection of this age may lead to a history that is gone.
    pub(crate) fn has_changed_within(&self, age: Duration) -> bool {
        self.known().since.is_some_and(|since| since.elapsed() <= age)
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
            generation: row.try_get(5)?,
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
        let Met { store: _, place, token, generation, written, has_seen, asked_in, had_written } = met;
        let mut known = self.known();
        let is_new = known.place.as_ref().is_some_and(|known| *known != place)
            || known.token.is_some_and(|known| known != token)
            || known.generation.is_some_and(|known| known != generation)
            || self.changes() == asked_in
                && (written.is_some_and(|written| written < had_written) || !has_seen);
        if is_new {
            self.change(&mut known);
        }
        let written = written.unwrap_or_default().max(known.written);
        let Known { seen, since, .. } = *known;
        let (place, token, generation) = (Some(place), Some(token), Some(generation));
        *known = Known { place, token, generation, written, seen, since };
        self.changes()
    }

    /// Whether a page of a connection shows that its place has got another history. Then that is known, and the connection's.
    pub(crate) fn shows(&self, history: &mut u64, token: Option<i64>) -> bool {
        let mut known = self.known();
        let is_new = self.changes() == *history && known.token != token;
        if is_new {
            self.change(&mut known);
            (known.token, known.generation) = (token, None);
            *history = self.changes();
        }
        is_new
    }

    fn change(&self, known: &mut Known) {
        tracing::warn!("the store has another history than before: what was known of it is forgotten");
        (known.seen, known.written, known.since) = (None, 0, Some(Instant::now()));
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.moved.send_replace(());
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
        let generation = Uuid::nil();
        Met { store, place, token, generation, written, has_seen: true, asked_in: 0, had_written: 0 }
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
        let adopted = || Met { generation: Uuid::max(), ..met("b", 2, 140) };
        assert_eq!((known.hear(adopted()), known.hear(adopted())), (5, 5), "it was adopted as another one");
    }

    #[test]
    fn an_adoption_that_a_page_has_shown_is_counted_once() {
        let known = histories();
        let mut conn = known.hear(met("a", 1, 1));
        let moved = known.watch();
        assert!(!known.has_changed_within(Duration::MAX) && !moved.has_changed().expect("it is there"));
        assert!(known.shows(&mut conn, Some(2)));
        assert!(known.has_changed_within(Duration::MAX) && moved.has_changed().expect("it is there"));
        assert_eq!(known.hear(Met { generation: Uuid::max(), ..met("a", 2, 2) }), 1);
        assert_eq!(known.hear(Met { generation: Uuid::nil(), ..met("a", 2, 3) }), 2);
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

//! Keeps the write-ahead log short.
//!
//! SQLite copies the log into the file with a commit that makes it long enough, as far as no reader needs it where it is,
//! and begins the log from its start when no reader is in it. With reads that overlap all the time there is no such moment,
//! and the log only grows. So when it is over its limit, the one writer waits while reads end and new ones wait at the gate,
//! and empties it.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use sqlx::{Row as _, SqliteConnection};
use tokio::time::Instant;

use crate::reading::Gate;
use crate::schema::sql;
use crate::writer::{Shared, Writing};

/// How long reads that have begun may take to end.
const READS: Duration = Duration::from_millis(100);
/// How long nothing is tried after a reader did not end; twice as long after each further time, up to the second one.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// The log of a file.
#[derive(Debug)]
pub(crate) struct Wal {
    file: PathBuf,
    /// In bytes.
    limit: u64,
}

/// The log could not be emptied since then, and is not tried before the time given.
struct Trouble {
    since: Instant,
    pause: Duration,
    next: Instant,
}

impl Wal {
    pub(crate) fn new(database: &Path, limit: u64) -> Self {
        let mut file = database.as_os_str().to_owned();
        file.push("-wal");
        Self { file: file.into(), limit }
    }

    fn len(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |file| file.len())
    }

    /// Until the store is gone.
    pub(crate) async fn keep_short(self, shared: Weak<Shared>, gate: Gate) {
        let Some(mut written) = shared.upgrade().map(|shared| shared.written.subscribe()) else { return };
        let mut trouble: Option<Trouble> = None;
        while written.changed().await.is_ok() {
            if self.len() <= self.limit || trouble.as_ref().is_some_and(|was| Instant::now() < was.next) {
                continue;
            }
            let Some(shared) = shared.upgrade() else { return };
            let Ok(mut writing) = Writing::acquire(&shared, "emptying the write-ahead log").await else {
                continue;
            };
            trouble = match empty(writing.conn_mut(), &gate, shared.lock_timeout).await {
                Ok(true) => None,
                emptied => Some(self.tell(Trouble::after(trouble), emptied.err())),
            };
        }
    }

    /// Why the log is not emptied: of an error, or a reader that is in it and does not end.
    fn tell(&self, trouble: Trouble, error: Option<sqlx::Error>) -> Trouble {
        let (file, bytes, limit) = (self.file.display(), self.len(), self.limit);
        let seconds = trouble.since.elapsed().as_secs();
        match error {
            Some(error) => tracing::warn!(
                %file,
                bytes,
                limit,
                seconds,
                error = es_core::chain(&error),
                "the write-ahead log is over its limit, and emptying it failed: it is tried again",
            ),
            None => tracing::warn!(
                %file,
                bytes,
                limit,
                seconds,
                "the write-ahead log is over its limit and cannot be emptied: a reader has been open for longer than {} \
                 ms, in this program (a stream of rows or a transaction that reads) or in another one",
                READS.as_millis(),
            ),
        }
        trouble
    }
}

impl Trouble {
    fn after(before: Option<Self>) -> Self {
        let now = Instant::now();
        let (since, pause) = match before {
            Some(before) => (before.since, (2 * before.pause).min(AGAIN.1)),
            None => (now, AGAIN.0),
        };
        Self { since, pause, next: now + pause }
    }
}

/// Copies the log into the file and cuts it off; whether that was possible. The connection must write nothing.
pub(crate) async fn empty(
    conn: &mut SqliteConnection,
    gate: &Gate,
    lock_timeout: Duration,
) -> Result<bool, sqlx::Error> {
    // What can be copied while others read, so that they wait for the rest only.
    sqlx::raw_sql("pragma wal_checkpoint(passive)").execute(&mut *conn).await?;
    set_timeout(conn, READS).await?;
    let closed = gate.close();
    let emptied = sqlx::query("pragma wal_checkpoint(truncate)").fetch_one(&mut *conn).await;
    drop(closed);
    // Whatever came of it: commits wait for as long as they should.
    let set_back = set_timeout(conn, lock_timeout).await;
    let emptied = emptied?.get_unchecked::<i64, _>(0) == 0;
    set_back.map(|()| emptied)
}

async fn set_timeout(conn: &mut SqliteConnection, timeout: Duration) -> Result<(), sqlx::Error> {
    let pragma = format!("pragma busy_timeout = {}", timeout.as_millis());
    sqlx::raw_sql(sql(pragma)).execute(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use es_core::testing::Log;

    use super::*;
    use crate::SqliteBackend;

    #[tokio::test]
    async fn an_error_is_said_as_what_it_is_and_not_blamed_on_a_reader() {
        let store = SqliteBackend::open(":memory:").await.unwrap();
        let (shared, gate) = (store.0.shared.clone(), store.0.reading.gate.clone());
        let (log, _guard) = Log::catch();
        let run = async |sql: &'static str| {
            let mut writing = Writing::acquire(&shared, "a test").await.unwrap();
            sqlx::raw_sql(sql).execute(writing.conn_mut()).await.unwrap();
        };
        // No log is emptied within a transaction.
        run("create table t (x); begin immediate").await;
        let keeping = tokio::spawn(Wal::new(store.path(), 0).keep_short(Arc::downgrade(&shared), gate));
        let mut said = Vec::new();
        while said.is_empty() {
            shared.written.send_replace(());
            tokio::task::yield_now().await;
            said = log.take();
        }
        assert!(said[0].contains("emptying it failed") && said[0].contains("error=\""), "{said:?}");
        assert!(!said[0].contains("reader"), "{said:?}");
        run("rollback").await;
        keeping.abort();
    }
}

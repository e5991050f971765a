//! The live transaction of this backend.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::rules::Verdict;
use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Touched, Transaction};
use futures::TryStreamExt as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{Either, Executor as _, PgConnection, Postgres};
use uuid::Uuid;

use crate::args::{Arg, quote};
use crate::backend::Store;
use crate::batch::{self, Answer, Batch, Pending};
use crate::error::{self, Fate};
use crate::stream_cache::StreamCache;
use crate::{PgBackend, explain, schema};

/// The user's SQL and what is staged, in one transaction. Derefs to sqlx's connection:
/// `sqlx::query(..).execute(&mut **tx)`.
///
/// What is staged is sent with the COMMIT, in one message, so nobody waits for this transaction before that. It reads
/// what others have committed meanwhile (`read committed`); no other isolation can append. A statement that failed
/// ends it: PostgreSQL refuses whatever follows, and so does [`commit`](Transaction::commit). Dropping it rolls back.
///
/// The names of a projection's tables mean the current generation of the version that has the plain names
/// ([`Builds::publish`](es_core::store::Builds::publish)), as of the beginning, or the one that was asked for: by the
/// search path, whose first schema is that of a generation.
///
/// A savepoint rolls back what was staged since only through [`Self::rollback_to`]: what plain SQL does to savepoints
/// is not seen.
#[derive(Debug)]
pub struct Tx {
    store: Arc<Store>,
    /// Taken only by `drop`.
    conn: Option<PoolConnection<Postgres>>,
    /// Names the transaction to itself: one that the user's SQL has ended is not mistaken for it.
    id: Uuid,
    staged: Commit,
    savepoints: u32,
    /// The table of a generation whose rows go with the COMMIT, and those of tables below it.
    cleared: Option<String>,
    /// Set while it goes back to a savepoint. Seen later only if that was dropped half way.
    torn: bool,
}

/// A point of a transaction to go back to.
#[derive(Debug)]
pub struct Savepoint {
    name: String,
    staged: Commit,
}

impl Tx {
    /// With the tables of the current generations of the published versions.
    pub(crate) async fn begin(store: &Arc<Store>) -> Result<Self, StoreError> {
        Self::open(store, store.options.statement_timeout, "").await
    }

    /// With the tables of one generation.
    pub(crate) async fn begin_at(
        store: &Arc<Store>,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<Self, StoreError> {
        let longest = store.options.statement_timeout;
        // Zero is no limit to the server.
        let idle = if longest.is_zero() { idle } else { idle.min(longest) };
        let path = format!(
            "; set local search_path to default; \
             select set_config('search_path', {}({}, {}, {}, current_setting('search_path')), true)",
            store.options.schema.table("path_at"),
            quote(tables.name),
            tables.version.cast_signed(),
            generation.cast_signed()
        );
        Self::open(store, idle.max(Duration::from_millis(1)), &path).await
    }

    /// `path` sets the search path, where it is not that of every connection of the pool.
    async fn open(store: &Arc<Store>, idle: Duration, path: &str) -> Result<Self, StoreError> {
        let failed = |e| error::store("opening a transaction", e);
        let id = store.shared.ids.next();
        let mut conn = store.pools.users.acquire().await.map_err(failed)?;
        let idle = i32::try_from(idle.as_millis()).unwrap_or(i32::MAX);
        // A connection that is dropped in here goes through the pool's rollback.
        let begin = format!(
            "begin isolation level read committed; set local es.tx = '{id}'; \
             set local idle_in_transaction_session_timeout = {idle}{path}"
        );
        sqlx::raw_sql(schema::sql(begin)).execute(&mut *conn).await.map_err(failed)?;
        Ok(Self {
            store: store.clone(),
            conn: Some(conn),
            id,
            staged: Commit::default(),
            savepoints: 0,
            cleared: None,
            torn: false,
        })
    }

    /// Marks this point: [`Self::rollback_to`] undoes the SQL after it, and what was staged.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the transaction has failed or the connection is gone.
    pub async fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        self.savepoints += 1;
        let name = format!("es_{}", self.savepoints);
        let sql = schema::sql(format!("savepoint {name}"));
        sqlx::raw_sql(sql).execute(&mut **self).await.map_err(|e| error::store("setting a savepoint", e))?;
        Ok(Savepoint { name, staged: self.staged.clone() })
    }

    /// Goes back to a savepoint; also after a statement that failed since.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the savepoint is not in this transaction or the connection is gone.
    pub async fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<(), StoreError> {
        self.torn = true;
        let sql = schema::sql(format!("rollback to savepoint {}", savepoint.name));
        let done = sqlx::raw_sql(sql).execute(&mut **self).await;
        done.map_err(|e| error::store("rolling back to a savepoint", e))?;
        self.staged = savepoint.staged.clone();
        self.torn = false;
        Ok(())
    }

    /// Has the rows of a generation's table deleted with the COMMIT: in one order with those that are staged.
    pub(crate) fn clear_rows(&mut self, table: String) {
        self.cleared = Some(table);
    }

    /// Wakes whoever waits for rows that were cleared, or may have been.
    fn touch_cleared(&self) {
        if self.cleared.is_some() {
            self.store.shared.touched(Touched::all());
        }
    }

    fn conn(&mut self) -> &mut PoolConnection<Postgres> {
        self.conn.as_mut().expect("taken only by drop")
    }

    /// The one message that ends the transaction, and what its answer means.
    async fn last_message(&self, attempt: Uuid) -> Result<(String, Pending), StoreError> {
        let (schema, shared) = (&self.store.options.schema, &self.store.shared);
        crate::types::provide(&shared.types, &shared.readers, &[&self.staged]).await?;
        let batch = Batch::of_transaction(&self.staged, &shared.types.known());
        let (args, pending) = batch.args(attempt, shared.micros(), &StreamCache::default());
        let mut args: Vec<String> = args.iter().map(Arg::literal).collect();
        args.extend(self.cleared.iter().map(|table| format!("cleared => {}", quote(table))));
        // As many rows as there are: tried again after a time-out, it would come no further.
        let patience = self.cleared.as_ref().map_or("", |_| "set local statement_timeout = 0; ");
        let check = format!(
            "{patience}set constraints all immediate; select {{es}}.check_transaction('{}')",
            self.id
        );
        let head = schema.fill(&format!("{check}; select a.*, {{es}}.must(a.written) from {{es}}.append("));
        Ok((format!("{head}{}) a; commit", args.join(", ")), pending))
    }

    async fn send(&mut self, message: String) -> Result<Option<PgRow>, sqlx::Error> {
        let mut results = self.conn().fetch_many(sqlx::raw_sql(schema::sql(message)));
        let mut answer = None;
        while let Some(result) = results.try_next().await? {
            if let Either::Right(row) = result {
                answer = Some(row);
            }
        }
        Ok(answer)
    }

    /// Why the staged commit was refused; the transaction is rolled back.
    async fn refused(&self) -> CommitError {
        match explain::explain(&PgBackend(self.store.clone()), &self.staged).await {
            Err(error) => error,
            Ok(Verdict::Repeat(_)) => {
                let what =
                    "these events are stored already, so the transaction was rolled back: do not repeat it";
                StoreError::misuse(what).into()
            }
            Ok(Verdict::Apply) => {
                let moved = std::io::Error::other("what refused the transaction is gone again");
                StoreError::transient("a commit", moved).into()
            }
        }
    }
}

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only by drop")
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn()
    }
}

impl Drop for Tx {
    /// The pool rolls back what it gets back, and needs a runtime for that.
    fn drop(&mut self) {
        let _entered = self.store.runtime.enter();
        drop(self.conn.take());
    }
}

#[async_trait]
impl Transaction for Tx {
    fn staged(&mut self) -> &mut Commit {
        &mut self.staged
    }

    fn identity(&self) -> Uuid {
        self.store.shared.identity
    }

    async fn commit(mut self) -> Result<Committed, CommitError> {
        es_core::store::check::commit(&self.staged)?;
        batch::check(&self.staged)?;
        if self.torn {
            let what = "the way back to a savepoint was not finished, so nobody knows which rows and events are left: \
                        the transaction was rolled back";
            return Err(StoreError::misuse(what).into());
        }
        let attempt = self.store.shared.ids.next();
        let (message, pending) = self.last_message(attempt).await?;
        let answered = match self.send(message).await {
            Ok(answer) => answer,
            Err(e) if error::code(&e) == Some(error::REFUSED) => {
                drop(sqlx::query("rollback").execute(&mut **self.conn()).await);
                return Err(self.refused().await);
            }
            Err(e) if error::fate(&e) == Fate::Unknown => {
                tracing::warn!(%attempt, error = &e as &dyn std::error::Error, "the outcome of a transaction is unknown");
                self.store.shared.touch(&[&self.staged]);
                self.touch_cleared();
                return Err(CommitError::Unknown(Box::new(batch::attempt(attempt, &self.staged))));
            }
            Err(e) => {
                if error::lacks_partition(&e) {
                    self.store.shared.partitions.make([&self.staged]).await;
                }
                return Err(error::store("committing a transaction", e).into());
            }
        };
        let row = answered.expect("the last statement before COMMIT has one row");
        let failed = |e| error::store("committing a transaction", e);
        match pending.answer(&row, &mut StreamCache::default()).map_err(failed)? {
            Answer::Written(mut outcomes, head) => {
                self.store.shared.committed(&[&self.staged], head);
                if self.staged.only_looks() {
                    // What the user wrote itself.
                    self.store.shared.witnesses.left();
                }
                self.touch_cleared();
                Ok(outcomes.pop().expect("one outcome for one commit"))
            }
            Answer::Refused(_) => unreachable!("a refusal is raised"),
        }
    }

    async fn rollback(mut self) -> Result<(), StoreError> {
        let done = sqlx::query("rollback").execute(&mut **self.conn()).await;
        done.map(drop).map_err(|e| error::store("rolling back", e))
    }
}

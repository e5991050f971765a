//! The live transaction of this backend.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::rules::Verdict;
use es_core::store::{
    Commit, CommitError, Committed, Generation, INLINE, Position, StoreError, Tables, Touched, Transaction,
    measure,
};
use futures::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Either, Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::args::{Arg, quote};
use crate::backend::Store;
use crate::batch::{self, Answer, Batch, Pending};
use crate::error::{self, Fate};
use crate::lane::OVERFLOW;
use crate::readers::Patience;
use crate::resolve::named_at;
use crate::row::number;
use crate::sessions::Session;
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
    session: Session,
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
        // In a transaction before: the user's own may still set its isolation.
        let follow = store.options.schema.fill("begin; select {es}.follow(); commit; ");
        Self::open(store, store.options.statement_timeout, &follow, "").await
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
        Self::open(store, idle.max(Duration::from_millis(1)), "", &path).await
    }

    /// What is done `before` it begins, and `first` in it: they set the search path.
    async fn open(store: &Arc<Store>, idle: Duration, before: &str, first: &str) -> Result<Self, StoreError> {
        let id = store.shared.ids.next();
        let idle = i32::try_from(idle.as_millis()).unwrap_or(i32::MAX);
        let begin = format!(
            "{before}begin isolation level read committed; set local es.tx = '{id}'; \
             set local idle_in_transaction_session_timeout = {idle}{first}"
        );
        let begun = store.pools.sessions.begin(schema::sql(begin)).await;
        let session = begun.map_err(|e| error::store("opening a transaction", e))?;
        Ok(Self {
            store: store.clone(),
            session,
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

    /// The one message that ends the transaction, and what its answer means.
    async fn last_message(&self, attempt: Uuid, token: i64) -> Result<(String, Means), StoreError> {
        if self.only_rows() {
            return Ok((self.rows_message(attempt, token), Means::Head));
        }
        let (schema, shared) = (&self.store.options.schema, &self.store.shared);
        let staged = [&self.staged];
        let batch = loop {
            crate::types::provide(&shared.types, &shared.readers, &staged).await?;
            let known = shared.types.known();
            if crate::types::missing(&known, &staged).is_empty() {
                break Batch::of_transaction(&self.staged, &known);
            }
        };
        let (args, pending) = batch.args(attempt, shared.micros(), &StreamCache::default());
        let args: Vec<String> = args.iter().map(Arg::literal).collect();
        let cleared = self.cleared.as_ref().map(|table| format!(", cleared => {}", quote(table)));
        let args = batch::call(&args) + cleared.as_deref().unwrap_or_default();
        let same = batch::same_history(token);
        // As many rows as there are: tried again after a time-out, it would come no further.
        let patience = self.cleared.as_ref().map_or("", |_| "set local statement_timeout = 0; ");
        let check = format!(
            "{patience}set constraints all immediate; select {{es}}.check_transaction('{}')",
            self.id
        );
        let head =
            schema.fill(&format!("{check}; select a.*, {{es}}.must(a.written), {same} from {{es}}.append("));
        Ok((format!("{head}{args}) a; commit"), Means::Batch(pending)))
    }

    /// Whether rows are all that is staged, and none of them takes its turn among the appends.
    fn only_rows(&self) -> bool {
        let Commit { appends, checks, condition, outcomes, rows, inline: _, explain: _, attempt } =
            &self.staged;
        let nothing_else =
            appends.is_empty() && checks.is_empty() && condition.is_none() && outcomes.is_empty();
        nothing_else
            && attempt.is_nil()
            && self.cleared.is_none()
            && !rows.is_empty()
            && rows.iter().all(|row| *row.table != *INLINE.0)
    }

    fn rows_message(&self, attempt: Uuid, token: i64) -> String {
        let rows = batch::rows(&self.staged).map(|arg| arg.literal()).join(", ");
        let named = Arg::Long(named_at(attempt)).literal();
        let write = format!("select {{es}}.write_staged('{}', '{attempt}', {named}, ", self.id);
        let schema = &self.store.options.schema;
        let same = schema.fill(&batch::same_history(token));
        format!("set constraints all immediate; {}{rows}), {same}; commit", schema.fill(&write))
    }

    async fn send(&mut self, message: String) -> Result<Option<PgRow>, sqlx::Error> {
        let mut results = self.session.fetch_many(sqlx::raw_sql(schema::sql(message)));
        let mut answer = None;
        while let Some(result) = results.try_next().await? {
            if let Either::Right(row) = result {
                answer = Some(row);
            }
        }
        Ok(answer)
    }
}

/// Why a staged commit was refused; the transaction is rolled back.
async fn refused(store: Arc<Store>, staged: &Commit) -> CommitError {
    match explain::explain(&PgBackend(store), staged).await {
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

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.session
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.session.lend()
    }
}

/// What the answer to the last message means.
enum Means {
    /// The head.
    Head,
    /// What became of a batch.
    Batch(Pending),
}

impl Means {
    fn committed(self, row: &PgRow) -> Result<(Committed, Position), sqlx::Error> {
        match self {
            Self::Head => {
                let position = Position(number(row.try_get(0)?));
                Ok((Committed { position, versions: Vec::new() }, Position(0)))
            }
            Self::Batch(pending) => match pending.answer(row, &mut StreamCache::default())? {
                Answer::Written(mut outcomes, head) => {
                    Ok((outcomes.pop().expect("one outcome for one commit"), head))
                }
                Answer::Refused(_) => unreachable!("a refusal is raised"),
            },
        }
    }
}

impl Tx {
    /// What is staged goes with the COMMIT.
    async fn send_staged(mut self) -> Result<Committed, CommitError> {
        es_core::store::check::commit(&self.staged)?;
        batch::check(&self.staged)?;
        if self.torn {
            let what = "the way back to a savepoint was not finished, so nobody knows which rows and events are left: \
                        the transaction was rolled back";
            return Err(StoreError::misuse(what).into());
        }
        // What was read in this transaction, and before it, may be of a history that is gone.
        let Some(token) = self.session.token() else { return Err(CommitError::OtherHistory) };
        let attempt = self.store.shared.ids.next();
        let (message, means) = self.last_message(attempt, token).await?;
        // What takes as long as there are rows is waited for.
        let limit =
            if self.cleared.is_some() { Duration::ZERO } else { self.store.options.statement_timeout };
        let answered = match Patience::beside(limit).within(self.send(message)).await {
            Ok(answer) => answer,
            Err(e) if error::is_refusal(&e) => {
                let Self { store, session, staged, .. } = self;
                drop(session.rollback().await);
                return Err(refused(store, &staged).await);
            }
            Err(e) if error::fate(&e) == Fate::Unknown => {
                tracing::warn!(%attempt, error = &e as &dyn std::error::Error, "the outcome of a transaction is unknown");
                self.store.shared.touch(&[&self.staged]);
                self.touch_cleared();
                return Err(CommitError::Unknown(Box::new(batch::attempt(attempt, &self.staged))));
            }
            Err(e) if error::is_of_another_history(&e) => {
                // Whoever reads next says which.
                drop(self.store.shared.read_head().await);
                return Err(CommitError::OtherHistory);
            }
            Err(e) => {
                if error::lacks_partition(&e) {
                    self.store.shared.partitions.make([&self.staged]).await;
                }
                if error::is_renamed(&e) {
                    self.store.shared.types.forget();
                }
                if error::is_overflow(&e) {
                    return Err(OVERFLOW);
                }
                if error::breaks_connection(&e) {
                    drop(self.session.broken());
                }
                return Err(error::store("committing a transaction", e).into());
            }
        };
        let row = answered.expect("the last statement before COMMIT has one row");
        let committed = means.committed(&row).map_err(|e| error::store("committing a transaction", e));
        let (committed, head) = committed?;
        self.store.shared.committed(&[&self.staged], head);
        let last = self.staged.appends.iter().flat_map(|append| &append.events).next_back();
        if let Some(last) = last {
            self.session.saw(committed.position, last.id);
        }
        if self.staged.only_looks() {
            // What the user wrote itself.
            self.store.shared.witnesses.left();
        }
        self.touch_cleared();
        self.session.ended();
        Ok(committed)
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

    async fn commit(self) -> Result<Committed, CommitError> {
        let outcome = self.send_staged().await;
        measure::outcome(&outcome);
        outcome
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.session.rollback().await.map_err(|e| error::store("rolling back", e))
    }
}

//! A database that takes part in transactions across several: two-phase commit by `PREPARE TRANSACTION`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::guard::{Guard, GuardError, GuardKey, Outcome};
use es_core::limits;
use es_core::store::{BranchId, Fate, Participant, Prepared, StoreError};
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use crate::args::quote;
use crate::branch::PgBranch;
use crate::guarded::{floor, missing_tables};
use crate::{PgGuarded, error, schema};

/// Longest prefix: PostgreSQL has 199 bytes for the name of a prepared transaction.
const MAX_PREFIX: usize = 40;
/// The name of a marker among the guard rows of its transaction.
const MARKER: &str = "2pc";

/// A database of your own that takes part in transactions across several: see [`Participant`]. It need not have a store in
/// it, and its tables are your own.
///
/// The server needs `max_prepared_transactions` above 0, as many as there may be transactions between their two phases.
/// The database needs the tables of guard rows ([`PgGuarded::install`]): each branch writes a marker there, so that one
/// that is gone later is known to be committed, or not. All connections have to be of one user, or of superusers:
/// PostgreSQL lets nobody else end what a user has prepared.
///
/// A prepared transaction is named `prefix:store:transaction:participant`. Recovery looks at those of its own prefix and
/// store only.
#[derive(Clone, Debug)]
pub struct PgParticipant {
    name: Arc<str>,
    prefix: Arc<str>,
    guarded: PgGuarded,
    lock_timeout: Duration,
    idle_timeout: Duration,
}

impl PgParticipant {
    /// A database, by a name that is stored: the same in every program, and unlike those of others.
    ///
    /// # Errors
    ///
    /// [`StoreError::Limit`] if it is no stored name of at most 80 bytes, or has a `:`.
    pub fn new(name: &str, pool: PgPool) -> Result<Self, StoreError> {
        BranchId::new(Uuid::nil(), Uuid::nil(), name)?;
        let (lock_timeout, idle_timeout) = (Duration::from_secs(5), Duration::from_secs(120));
        let guarded = PgGuarded::new(pool);
        Ok(Self { name: name.into(), prefix: "es".into(), guarded, lock_timeout, idle_timeout })
    }

    /// What the names of prepared transactions begin with; `es` by default. It is not to change while any waits.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is not a stored name of at most 40 bytes, or has a `:`.
    pub fn with_prefix(mut self, prefix: &str) -> Result<Self, StoreError> {
        limits::stored_name("prefix of prepared transactions", prefix)?;
        if prefix.contains(':') || prefix.len() > MAX_PREFIX {
            let what =
                format!("the prefix {prefix:?} has to be without `:`, and of at most {MAX_PREFIX} bytes");
            return Err(StoreError::misuse(what));
        }
        self.prefix = prefix.into();
        Ok(self)
    }

    /// For how long a statement of a branch waits for a lock; 5 seconds by default. Two transactions that wait for each other
    /// in two databases are a deadlock that no database sees: this ends it.
    #[must_use]
    pub const fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// For how long a branch may be silent before it is prepared; 2 minutes by default.
    #[must_use]
    pub const fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        self.guarded.pool()
    }

    /// Makes the tables of guard rows, if they are not there.
    ///
    /// # Errors
    ///
    /// As [`PgGuarded::install`].
    pub async fn install(&self) -> Result<(), StoreError> {
        self.guarded.install().await
    }

    /// What PostgreSQL knows a branch by.
    pub(crate) fn gid(&self, id: &BranchId) -> String {
        format!("{}:{id}", self.prefix)
    }

    /// `commit prepared`, or `rollback prepared`; then what became of it.
    async fn finish(&self, verb: &'static str, id: &BranchId, done: Fate) -> Result<Fate, StoreError> {
        let statement = schema::sql(format!("{verb} {}", quote(&self.gid(id))));
        match sqlx::raw_sql(statement).execute(self.pool()).await {
            Ok(_) => Ok(done),
            Err(e) => match error::code(&e) {
                // Nothing of this name. A commit is seen before the name goes.
                Some("42704") => self.trace(id).await,
                // Another session is ending it at this moment, or preparing it.
                Some("55000") => Err(StoreError::transient("ending a prepared transaction", e)),
                Some("42501") => Err(StoreError::misuse(format!(
                    "participant {:?}: {e}; only the user who has prepared a transaction can end it, or a superuser",
                    self.name
                ))),
                _ => Err(error::store("ending a prepared transaction", e)),
            },
        }
    }

    /// What is known of a branch that is not prepared: by its marker, which is committed with it.
    async fn trace(&self, id: &BranchId) -> Result<Fate, StoreError> {
        let mut conn = self.pool().acquire().await.map_err(|e| error::store("looking for a marker", e))?;
        let find = "select 1 from es_guard.guards where run = $1 and call = $2 and state = 'done'";
        let find = sqlx::query(find).bind(id.txn()).bind(marker(id));
        let found =
            find.fetch_optional(&mut *conn).await.map_err(|e| missing_tables("looking for a marker", e))?;
        if found.is_some() {
            return Ok(Fate::Committed);
        }
        // In a statement behind that one: if the marker was forgotten before it, the floor is raised by now.
        let floor = floor(&mut conn).await?;
        Ok(if id.txn() < floor { Fate::Forgotten } else { Fate::Aborted })
    }
}

/// The marker of a branch among the guard rows.
pub(crate) fn marker(id: &BranchId) -> String {
    format!("{MARKER}/{}", id.name())
}

#[async_trait]
impl Participant for PgParticipant {
    type Branch = PgBranch;

    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Result<(), StoreError> {
        let failed = |e| error::store("looking at a participant", e);
        let mut conn = self.pool().acquire().await.map_err(failed)?;
        let look = "select current_setting('max_prepared_transactions')::int, pg_is_in_recovery()";
        let row = sqlx::query(look).fetch_one(&mut *conn).await.map_err(failed)?;
        let (most, replica): (i32, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let name = &self.name;
        if replica {
            return Err(StoreError::misuse(format!(
                "participant {name:?}: the server is a replica; connect to the primary"
            )));
        }
        if most == 0 {
            return Err(StoreError::misuse(format!(
                "participant {name:?}: the server prepares no transactions, since its max_prepared_transactions is 0: \
                 set it to the number of its connections, say, and restart the server"
            )));
        }
        floor(&mut conn).await.map(drop)
    }

    async fn begin(&self, id: &BranchId) -> Result<PgBranch, StoreError> {
        PgBranch::begin(self.pool(), id, self.gid(id), self.lock_timeout, self.idle_timeout).await
    }

    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError> {
        self.finish("commit prepared", id, Fate::Committed).await
    }

    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError> {
        self.finish("rollback prepared", id, Fate::Aborted).await
    }

    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError> {
        let of_key = |e: GuardError| StoreError::misuse(e.to_string());
        let key = GuardKey::new(id.txn(), marker(id)).map_err(of_key)?;
        // A tomb in the place of the marker: whoever is late with its commit is refused.
        match Guard::new(&self.guarded, key, 0).outcome().await {
            Ok(Outcome::Ran) => Ok(Fate::Committed),
            Ok(Outcome::Never) => Ok(Fate::Aborted),
            Err(GuardError::Expired) => Ok(Fate::Forgotten),
            Err(GuardError::Store(error)) => Err(error),
            Err(other) => Err(StoreError::misuse(other.to_string())),
        }
    }

    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        let failed = |e| error::store("looking for prepared transactions", e);
        // The view has those of all databases of the server; they can be ended only from their own.
        let look =
            "select gid, extract(epoch from clock_timestamp() - prepared)::float8 from pg_prepared_xacts
            where database = current_database() and starts_with(gid, $1) order by prepared, gid";
        let prefix = format!("{}:", self.prefix);
        let look = sqlx::query(look).bind(format!("{prefix}{}:", cluster.simple()));
        let rows = look.fetch_all(self.pool()).await.map_err(failed)?;
        let mut prepared = Vec::with_capacity(rows.len());
        for row in rows {
            let (gid, age): (String, f64) =
                (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            match gid.strip_prefix(&prefix).and_then(BranchId::parse) {
                Some(id) => {
                    let age = Duration::try_from_secs_f64(age.max(0.0)).unwrap_or(Duration::MAX);
                    prepared.push(Prepared { id, age });
                }
                None => tracing::warn!(gid, "a prepared transaction is named like ours, and is none"),
            }
        }
        Ok(prepared)
    }
}

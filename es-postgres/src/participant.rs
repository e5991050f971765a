//! A database that takes part in transactions across several: two-phase commit by `PREPARE TRANSACTION`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::limits;
use es_core::store::{BranchId, Fate, Marked, Participant, Prepared, StoreError};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, PgPool, Postgres, Row as _};
use tokio::sync::{OnceCell, Semaphore};
use uuid::Uuid;

use crate::args::quote;
use crate::branch::PgBranch;
use crate::guarded::{floor, missing_tables};
use crate::{PgGuarded, error, schema};

/// How many connections there are at least for what ends branches.
const LEAST: u32 = 3;
/// Longest prefix: PostgreSQL has 199 bytes for the name of a prepared transaction.
const MAX_PREFIX: usize = 40;
/// What the markers of branches are called among the guard rows of their transaction: of one that was prepared, and of one
/// that was committed alone. Whoever asks for the one is never told of the other.
const MARKERS: [&str; 2] = ["2pc", "2pc-alone"];
/// How many milliseconds what is being ended by another session is waited for, time and again.
const BUSY: [u64; 4] = [5, 20, 50, 100];

/// A database of your own that takes part in transactions across several: see [`Participant`]. It need not have a store in
/// it, and its tables are your own.
///
/// The server needs `max_prepared_transactions` above 0, as many as there may be transactions between their two phases.
/// The database needs the tables of guard rows ([`PgGuarded::install`]): each branch writes a marker there, so that one
/// that is gone later is known to be committed, or not. All connections have to be of one user, or of superusers:
/// PostgreSQL lets nobody else end what a user has prepared. A branch that could not be ended is not prepared. A standby cannot
/// be asked, which is a transient error: it shows nothing that is prepared.
///
/// What ends a branch has connections of its own, like those of the pool: a quarter as many, three at least. In the queue of the
/// pool it would stand behind all who wait for the locks of that branch. Options that the pool is given later
/// (`set_connect_options`: another password, another host) are theirs from then on. Is it another user, then what waits to be
/// ended has to be ended before, unless that one is a superuser; and branches on connections of the user before are refused
/// until the pool has let those go.
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
    /// Made when it is first used.
    ending: Arc<Mutex<Option<Ending>>>,
}

/// The connections for what ends branches.
#[derive(Clone, Debug)]
struct Ending {
    pool: PgPool,
    /// As many as may ask what became of a branch that was committed alone: they wait for the lock of a commit under way, and
    /// leave two connections to others.
    asking: Arc<Semaphore>,
    /// Those of the user's pool, when this one took them over.
    options: Arc<PgConnectOptions>,
    /// The role of the connections, once it is known: all of them have the same options.
    role: Arc<OnceCell<Role>>,
}

/// Who ends what is prepared.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    /// Whether it ends what any other has prepared.
    pub(crate) is_super: bool,
}

impl Ending {
    fn of(pool: &PgPool) -> Self {
        let (of, options) = (pool.options(), pool.connect_options());
        let most = (of.get_max_connections() / 4).max(LEAST);
        let own = of.clone().min_connections(0).max_connections(most);
        let asking = Arc::new(Semaphore::new(most.saturating_sub(2) as usize));
        Self { pool: own.connect_lazy_with((*options).clone()), asking, options, role: Arc::default() }
    }
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
        let (guarded, ending) = (PgGuarded::new(pool), Arc::default());
        Ok(Self { name: name.into(), prefix: "es".into(), guarded, lock_timeout, idle_timeout, ending })
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

    /// The connections for what ends branches, with the options that the pool has now.
    fn ending(&self) -> Ending {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let ending = ending.get_or_insert_with(|| Ending::of(self.pool()));
        let options = self.pool().connect_options();
        if !Arc::ptr_eq(&options, &ending.options) {
            // Perhaps of another user: none of those before is left to be taken again.
            *ending = Ending::of(self.pool());
        }
        ending.clone()
    }

    /// One of them.
    async fn ender(&self, what: &'static str) -> Result<Ender, StoreError> {
        let conn = self.ending().pool.acquire().await.map_err(|e| error::store(what, e))?;
        Ok(Ender { conn, done: false })
    }

    /// The role of the connections for what ends branches, with the options that the pool has now.
    pub(crate) async fn role(&self) -> Result<Role, StoreError> {
        let Ending { pool, role, .. } = self.ending();
        let asks = async || {
            let failed = |e| error::store("asking for the role of a participant", e);
            let look = "select rolname::text, rolsuper from pg_roles where rolname = current_user";
            let row = sqlx::query(look).fetch_one(&pool).await.map_err(failed)?;
            Ok(Role { name: row.try_get(0).map_err(failed)?, is_super: row.try_get(1).map_err(failed)? })
        };
        role.get_or_try_init(asks).await.cloned()
    }

    /// For how long a statement of a branch waits for a lock, and for how long a branch may be silent.
    pub(crate) const fn timeouts(&self) -> [Duration; 2] {
        [self.lock_timeout, self.idle_timeout]
    }

    /// Bars the commit of a branch alone, by a tomb in the place of its marker, unless it was faster. One round trip; what is
    /// late with its commit is refused from then on.
    async fn bars(&self, conn: &mut PgConnection, id: &BranchId) -> Result<Fate, StoreError> {
        let failed = |e| missing_tables("asking what became of a branch", e);
        let lock = i32::try_from(self.lock_timeout.as_millis()).unwrap_or(i32::MAX).max(1);
        let (run, call) = (id.txn(), quote(&alone(id)));
        let bar = format!(
            "begin isolation level read committed; set local lock_timeout = {lock};
             insert into es_guard.guards (run, call, state, fingerprint, result)
             values ('{run}', {call}, 'tomb', decode(repeat('00', 16), 'hex'), 'null') on conflict (run, call) do nothing;
             commit"
        );
        sqlx::raw_sql(schema::sql(bar)).execute(&mut *conn).await.map_err(failed)?;
        let find = "select 1 from es_guard.guards where run = $1 and call = $2 and state = 'done'";
        let find = sqlx::query(find).bind(run).bind(alone(id));
        match find.fetch_optional(&mut *conn).await.map_err(failed)? {
            Some(_) => Ok(Fate::Committed),
            None => unmarked(conn, id).await,
        }
    }

    /// `commit prepared`, or `rollback prepared`; then what became of it.
    async fn finish(&self, verb: &'static str, id: &BranchId, done: Fate) -> Result<Fate, StoreError> {
        let mut ender = self.ender("ending a prepared transaction").await?;
        let mut pauses = BUSY.into_iter().map(Duration::from_millis);
        loop {
            let statement = schema::sql(format!("{verb} {}", quote(&self.gid(id))));
            let Err(e) = sqlx::raw_sql(statement).execute(&mut *ender.conn).await else {
                return Ok(ender.ended(done));
            };
            match error::code(&e) {
                // Nothing of this name. A commit is seen before the name goes.
                Some("42704") => {
                    let fate = self.trace(&mut ender.conn, id).await?;
                    return Ok(ender.ended(fate));
                }
                // Another session is ending it at this moment, or preparing it.
                Some("55000") => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(StoreError::transient("ending a prepared transaction", e)),
                },
                Some("42501") => {
                    return Err(StoreError::misuse(format!(
                        "participant {:?}: {e}; only the user who has prepared a transaction can end it, or a superuser",
                        self.name
                    )));
                }
                _ => return Err(error::store("ending a prepared transaction", e)),
            }
        }
    }

    /// What is known of a branch that is not prepared: by its marker, which is committed with it.
    async fn trace(&self, conn: &mut PgConnection, id: &BranchId) -> Result<Fate, StoreError> {
        if is_marked(conn, id).await? {
            return Ok(Fate::Committed);
        }
        if let Some(other) = self.named_otherwise(conn, id).await? {
            let (name, gid) = (&self.name, self.gid(id));
            return Err(StoreError::misuse(format!(
                "participant {name:?}: the branch is prepared as {other:?}, not as {gid:?}: configure it as it was begun"
            )));
        }
        unmarked(conn, id).await
    }

    /// The name that a branch is prepared under, if that is another: with another prefix, in any database of the server.
    async fn named_otherwise(
        &self,
        conn: &mut PgConnection,
        id: &BranchId,
    ) -> Result<Option<String>, StoreError> {
        let failed = |e| error::store("looking for prepared transactions", e);
        let look =
            "select gid from pg_prepared_xacts where right(gid, length($1)) = $1 and gid <> $2 limit 1";
        let look = sqlx::query(look).bind(format!(":{id}")).bind(self.gid(id));
        let row = look.fetch_optional(conn).await.map_err(failed)?;
        row.map(|row| row.try_get(0).map_err(failed)).transpose()
    }

    /// What is prepared in this database under names that begin so, behind the prefix.
    async fn scan(&self, begins: &str) -> Result<Vec<Prepared>, StoreError> {
        let failed = |e| error::store("looking for prepared transactions", e);
        // The view has those of all databases of the server; they can be ended only from their own.
        let look =
            "select gid, extract(epoch from clock_timestamp() - prepared)::float8 from pg_prepared_xacts
            where database = current_database() and starts_with(gid, $1) order by prepared, gid";
        let prefix = format!("{}:", self.prefix);
        let look = sqlx::query(look).bind(format!("{prefix}{begins}"));
        let mut ender = self.ender("looking for prepared transactions").await?;
        knows(&mut ender.conn).await?;
        let rows = look.fetch_all(&mut *ender.conn).await.map_err(failed)?;
        let rows = ender.ended(rows);
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

/// A connection that is closed unless what it was taken for has ended well: an answer that a server owes to somebody who has
/// gone away would keep it from others.
struct Ender {
    conn: PoolConnection<Postgres>,
    done: bool,
}

impl Ender {
    fn ended<T>(mut self, with: T) -> T {
        self.done = true;
        with
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        if !self.done {
            self.conn.close_on_drop();
        }
    }
}

/// The marker of a branch that is prepared.
pub(crate) fn marker(id: &BranchId) -> String {
    format!("{}/{}", MARKERS[0], id.name())
}

/// The marker of a branch that is committed alone.
pub(crate) fn alone(id: &BranchId) -> String {
    format!("{}/{}", MARKERS[1], id.name())
}

/// Fails on a standby: it shows nothing that is prepared, and perhaps not yet what was committed. In a statement before those
/// that ask: once a server has become the primary, its sessions stay there.
async fn knows(conn: &mut PgConnection) -> Result<(), StoreError> {
    const WHAT: &str = "asking a participant";
    let standby = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(conn).await;
    match standby.map_err(|e| error::store(WHAT, e))? {
        false => Ok(()),
        true => Err(StoreError::transient(
            WHAT,
            std::io::Error::other("the server is a standby: the primary knows"),
        )),
    }
}

/// The branches of this transaction that were prepared here and committed, by whatever name: also of a participant that was
/// renamed.
async fn marked(conn: &mut PgConnection, id: &BranchId) -> Result<BTreeSet<String>, StoreError> {
    const WHAT: &str = "looking for markers";
    let find = "select substr(call, length($2) + 1) from es_guard.guards
        where run = $1 and starts_with(call, $2) and state = 'done'";
    let find = sqlx::query(find).bind(id.txn()).bind(format!("{}/", MARKERS[0]));
    let found = find.fetch_all(conn).await.map_err(|e| missing_tables(WHAT, e))?;
    found.iter().map(|row| row.try_get(0).map_err(|e| error::store(WHAT, e))).collect()
}

async fn is_marked(conn: &mut PgConnection, id: &BranchId) -> Result<bool, StoreError> {
    let find = "select 1 from es_guard.guards where run = $1 and call = $2 and state = 'done'";
    let find = sqlx::query(find).bind(id.txn()).bind(marker(id));
    let found = find.fetch_optional(conn).await.map_err(|e| missing_tables("looking for a marker", e))?;
    Ok(found.is_some())
}

/// What it says that no marker was found, in a statement before: if it was forgotten, the floor is raised by now.
async fn unmarked(conn: &mut PgConnection, id: &BranchId) -> Result<Fate, StoreError> {
    let floor = floor(conn).await?;
    Ok(if id.txn() < floor { Fate::Forgotten } else { Fate::Aborted })
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
        PgBranch::begin(self, id).await
    }

    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError> {
        self.finish("commit prepared", id, Fate::Committed).await
    }

    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError> {
        self.finish("rollback prepared", id, Fate::Aborted).await
    }

    async fn was_committed(&self, id: &BranchId) -> Result<Marked, StoreError> {
        let mut ender = self.ender("looking for markers").await?;
        knows(&mut ender.conn).await?;
        let marked = marked(&mut ender.conn, id).await?;
        if marked.is_empty() && unmarked(&mut ender.conn, id).await? == Fate::Forgotten {
            return Ok(ender.ended(Marked::Forgotten));
        }
        Ok(ender.ended(Marked::Committed(marked)))
    }

    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError> {
        const WHAT: &str = "asking what became of a branch";
        let asking = self.ending().asking;
        let _permit = asking.acquire().await.map_err(|e| StoreError::transient(WHAT, e))?;
        let mut ender = self.ender(WHAT).await?;
        let fate = self.bars(&mut ender.conn, id).await?;
        Ok(ender.ended(fate))
    }

    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        self.scan(&format!("{}:", cluster.simple())).await
    }

    async fn of_others(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        let mut all = self.scan("").await?;
        all.retain(|prepared| prepared.id.cluster() != cluster);
        Ok(all)
    }
}

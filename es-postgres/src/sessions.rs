//! Connections of transactions.
//!
//! Not the driver's pool: that one asks the server about each connection before and after its use, which costs a short
//! transaction as many round trips as it has itself. Here, one that ended well is handed on as it is, or cleaned behind the
//! back of its user if that has sent statements; one that was dropped half way is rolled back first.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use es_core::store::{EventId, Position};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::address::Address;
use crate::db::Stale;
use crate::history::Histories;
use crate::readers::Patience;
use crate::{PgOptions, connect, error};

/// How long a transaction waits for one that is free, as in the driver's pool.
const ROOM: Duration = Duration::from_secs(30);
/// How long one stays open unused.
const IDLE: Duration = Duration::from_secs(600);

pub(crate) struct Sessions {
    connect: Address,
    patience: Patience,
    stale: Stale,
    histories: Arc<Histories>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// Where one is rolled back that is dropped, also outside a runtime.
    runtime: Handle,
}

struct Idle {
    conn: PgConnection,
    made: Made,
    since: Instant,
}

/// When a connection was made, and to which history it leads.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Instant,
    history: u64,
}

/// Without the driver's options: they show the password.
impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("permits", &self.permits).finish_non_exhaustive()
    }
}

/// A connection, for one transaction at a time.
#[derive(Debug)]
pub(crate) struct Session {
    home: Arc<Sessions>,
    /// Taken only by `drop`, and by [`ended`](Self::ended).
    conn: Option<PgConnection>,
    made: Made,
    permit: Option<OwnedSemaphorePermit>,
    /// Whether a user may have left something on it.
    lent: bool,
}

impl Sessions {
    pub(crate) fn new(options: &PgOptions, stale: Stale, histories: Arc<Histories>) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(options.connections as usize));
        let (connect, runtime) = (options.for_users(), Handle::current());
        let patience = Patience::beside(options.statement_timeout);
        Arc::new(Self { connect, patience, stale, histories, permits, idle: Mutex::default(), runtime })
    }

    /// A connection on which this was executed. One that died while it was idle is replaced.
    pub(crate) async fn begin(self: &Arc<Self>, message: sqlx::SqlStr) -> Result<Session, sqlx::Error> {
        let room = tokio::time::timeout(ROOM, self.permits.clone().acquire_owned()).await;
        let permit = room.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some(Idle { conn, made, .. }) = self.take() {
            let mut session = self.session(conn, made, Some(permit));
            let begun = sqlx::raw_sql(message.clone()).execute(&mut *session);
            match self.patience.within(begun).await {
                Err(e) if error::breaks_connection(&e) => {
                    // The others that were idle meanwhile likely are dead as well.
                    self.all().clear();
                    let permit = session.broken();
                    return self.begin_anew(message, permit).await;
                }
                begun => return begun.map(|_| session),
            }
        }
        self.begin_anew(message, Some(permit)).await
    }

    async fn begin_anew(
        self: &Arc<Self>,
        message: sqlx::SqlStr,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Session, sqlx::Error> {
        let mut conn = self.patience.within(self.connect.connect()).await?;
        let history = self.patience.within(self.histories.meet(&mut conn)).await?;
        let mut session = self.session(conn, Made { at: Instant::now(), history }, permit);
        self.patience.within(sqlx::raw_sql(message).execute(&mut *session)).await?;
        Ok(session)
    }

    fn session(
        self: &Arc<Self>,
        conn: PgConnection,
        made: Made,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Session {
        Session { home: self.clone(), conn: Some(conn), made, permit, lent: false }
    }

    fn put(&self, conn: PgConnection, made: Made) {
        self.all().push(Idle { conn, made, since: Instant::now() });
    }

    /// The one that was used last, so that those which are too many grow old.
    fn take(&self) -> Option<Idle> {
        let mut idle = self.all();
        let history = self.histories.changes();
        let is_good = |idle: &Idle| {
            let Idle { made, since, .. } = idle;
            since.elapsed() < IDLE && !self.stale.has_met(made.at.elapsed()) && made.history == history
        };
        let gone: Vec<Idle> = idle.extract_if(.., |idle| !is_good(idle)).collect();
        let taken = idle.pop();
        drop(idle);
        for Idle { conn, .. } in gone {
            drop(self.runtime.spawn(conn.close()));
        }
        taken
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The token of the history that its transaction has read; `None` if another one is known by now.
    pub(crate) fn token(&self) -> Option<i64> {
        self.home.histories.token(self.made.history)
    }

    /// An event that its transaction has appended.
    pub(crate) fn saw(&self, position: Position, event: EventId) {
        self.home.histories.saw(self.made.history, position.0, event);
    }

    /// For the user's own statements.
    pub(crate) fn lend(&mut self) -> &mut PgConnection {
        self.lent = true;
        self
    }

    /// Its transaction has ended, and nothing is under way: others may have it.
    pub(crate) fn ended(mut self) {
        if self.lent {
            // `drop` cleans it, which nobody waits for.
            return;
        }
        if let Some(conn) = self.conn.take() {
            self.home.put(conn, self.made);
        }
    }

    /// Ends its transaction.
    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let patience = self.home.patience;
        if patience.within(roll_back(&mut self)).await? {
            self.ended();
        } else {
            drop(self.broken());
        }
        Ok(())
    }

    /// It is of no use any more.
    pub(crate) fn broken(mut self) -> Option<OwnedSemaphorePermit> {
        drop(self.conn.take());
        self.permit.take()
    }
}

/// Whether it may be used again: one of a standby, or of a server that was read-only when it was made, stays so.
async fn roll_back(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let roll_back = sqlx::raw_sql("rollback; select current_setting('transaction_read_only') = 'off'");
    roll_back.fetch_one(conn).await?.try_get(0)
}

impl Deref for Session {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only at its end")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only at its end")
    }
}

impl Drop for Session {
    /// Whatever its transaction and its user hold is let go at once, and not when somebody else comes.
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        let (home, made, permit, lent) = (self.home.clone(), self.made, self.permit.take(), self.lent);
        let runtime = home.runtime.clone();
        drop(runtime.spawn(async move {
            let as_before = async {
                if lent {
                    connect::clean(&mut conn).await?;
                }
                roll_back(&mut conn).await
            };
            // Else it is closed, and has no transaction either.
            if matches!(tokio::time::timeout(ROOM, as_before).await, Ok(Ok(true))) {
                home.put(conn, made);
            }
            drop(permit);
        }));
    }
}

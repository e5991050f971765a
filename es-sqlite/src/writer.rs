//! The one connection that writes, and the task that feeds it.
//!
//! Commits of many callers are written together: one transaction, one sync of the disk. There is no
//! linger: a batch is whatever waits when the connection is free. The idea is group commit (`DeWitt` et
//! al., "Implementation techniques for main memory database systems", 1984).

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use es_core::clock::Clock;
use es_core::entropy::SystemEntropy;
use es_core::id::Ids;
use es_core::store::measure::Writes;
use es_core::store::{
    Attempt, Commit, CommitError, Committed, NewEvent, Place, Position, Room, RowWakes, StoreError,
};
use sqlx::SqliteConnection;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::batch;
use crate::error;
use crate::guard::Guard;
use crate::history::Histories;
use crate::holding::{Caller, Holding, Stuck, TICK, would_wait_for_itself};
use crate::place::Place as File;
use crate::types::Types;

/// Requests that are taken out of the queue at a time.
const QUEUE: usize = 4_096;
/// Events, and bytes of payload, that one transaction takes. A larger request goes alone.
const MAX_EVENTS: usize = 2_000;
const MAX_BYTES: usize = 4 << 20;

/// A commit, and where its outcome goes.
struct Request {
    caller: Caller,
    commit: Commit,
    /// The history that it was decided on.
    history: u64,
    reply: oneshot::Sender<Result<Committed, CommitError>>,
    /// What it takes of the queue; who only waits for the others takes nothing.
    place: Option<Place>,
    since: Instant,
}

impl Request {
    fn events(&self) -> impl Iterator<Item = &NewEvent> {
        self.commit.appends.iter().flat_map(|append| &append.events)
    }
}

/// What this queue shows.
const SHOWN: Writes = Writes::of("commits");

/// What all writes of one store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) file: File,
    pub(crate) histories: Histories,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) types: Types,
    pub(crate) head: watch::Sender<Position>,
    /// The history that this head is of.
    head_of: AtomicU64,
    pub(crate) row_wakes: RowWakes,
    /// How many witnesses were written since old ones were removed.
    pub(crate) witnesses: AtomicUsize,
    /// Names attempts that their callers have not named.
    ids: Ids,
    connection: Arc<AsyncMutex<Connection>>,
    guard: Arc<Guard>,
    /// Where a `Tx` that is dropped outside a runtime is rolled back.
    runtime: Handle,
    /// Who holds a [`Tx`](crate::Tx), to refuse what would wait for itself.
    holding: Arc<Holding>,
    /// How long another process that writes is waited for.
    pub(crate) lock_timeout: Duration,
    /// Tells that something may have been written.
    pub(crate) written: watch::Sender<()>,
}

#[derive(Debug)]
struct Connection {
    conn: SqliteConnection,
    /// Whether a transaction is, or may be, open.
    open: bool,
    /// Where it keeps what is temporary, if that is known.
    temporary: Option<Temporary>,
}

/// Where SQLite keeps what is temporary: of a statement that may fail, every page as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temporary {
    /// After a few pages: a user's statement may change a whole table.
    InFiles,
    /// For a batch of the usual size a file costs more than its pages.
    InMemory,
}

impl Shared {
    pub(crate) async fn new(
        mut conn: SqliteConnection,
        file: File,
        clock: Arc<dyn Clock>,
        head: Position,
        lock_timeout: Duration,
    ) -> Result<Self, sqlx::Error> {
        let histories = Histories::open(&mut conn).await?;
        let (guard, holding) = (Arc::new(Guard::default()), Arc::new(Holding::default()));
        guard.install(&mut conn).await?;
        holding.install(&mut conn).await?;
        Ok(Self {
            file,
            histories,
            ids: Ids::new(clock.clone(), Arc::new(SystemEntropy)),
            row_wakes: RowWakes::default(),
            witnesses: AtomicUsize::new(0),
            clock,
            types: Types::default(),
            head: watch::Sender::new(head),
            head_of: AtomicU64::new(0),
            connection: Arc::new(AsyncMutex::new(Connection { conn, open: false, temporary: None })),
            guard,
            runtime: Handle::current(),
            holding,
            lock_timeout,
            written: watch::Sender::new(()),
        })
    }

    /// Names a commit, if its caller has not.
    pub(crate) fn name(&self, commit: &mut Commit) {
        if commit.attempt.is_nil() {
            commit.attempt = self.ids.next();
        }
    }

    /// Tells readers in this process how far the log goes. In another history than before it may end earlier.
    pub(crate) fn publish(&self, head: Position) {
        let history = self.histories.changes();
        let is_new = self.head_of.swap(history, Ordering::AcqRel) != history;
        self.head.send_if_modified(|known| {
            let moved = head > *known || is_new;
            *known = if is_new { head } else { head.max(*known) };
            moved
        });
    }
}

/// The right to write. Ends what is open when it is dropped.
#[derive(Debug)]
pub(crate) struct Writing {
    shared: Arc<Shared>,
    connection: Option<OwnedMutexGuard<Connection>>,
    /// Whether a user's `Tx` holds it.
    held: bool,
}

impl Writing {
    /// Waits for the connection; nothing is open yet.
    ///
    /// # Errors
    ///
    /// Also if the caller would wait for itself.
    pub(crate) async fn acquire(shared: &Arc<Shared>, what: &'static str) -> Result<Self, StoreError> {
        let (caller, mut stuck) = (Caller::current(), Stuck::default());
        let mut locking = pin!(Self::lock(shared, what));
        loop {
            match timeout(TICK, &mut locking).await {
                Ok(locked) => return locked,
                Err(_) if stuck.holder(&shared.holding) == Some(caller) => {
                    return Err(would_wait_for_itself());
                }
                Err(_) => {}
            }
        }
    }

    /// The same for a task that asks for others.
    async fn lock(shared: &Arc<Shared>, what: &'static str) -> Result<Self, StoreError> {
        let connection = shared.connection.clone().lock_owned().await;
        let mut writing = Self { shared: shared.clone(), connection: Some(connection), held: false };
        if writing.is_open() {
            writing.rollback().await.map_err(|e| error::store(what, e))?;
        }
        shared.file.still_there()?;
        Ok(writing)
    }

    /// Waits for the connection and opens a transaction.
    pub(crate) async fn open(shared: &Arc<Shared>, what: &'static str) -> Result<Self, StoreError> {
        let mut writing = Self::acquire(shared, what).await?;
        writing.keep_temporary(Temporary::InFiles).await.map_err(|e| error::store(what, e))?;
        writing.set_open(true);
        if let Err(error) = sqlx::query("begin immediate").execute(writing.conn_mut()).await {
            writing.set_open(false);
            return Err(error::store(what, error));
        }
        Ok(writing)
    }

    /// Opens a transaction for the user.
    pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let mut writing = Self::open(shared, "opening a transaction").await?;
        shared.guard.watch(true);
        writing.held = true;
        writing.hold();
        Ok(writing)
    }

    /// The caller has a user's transaction now, and goes on with it: a `Tx` may be handed on.
    pub(crate) fn hold(&self) {
        if self.held {
            self.shared.holding.hold();
        }
    }

    /// The transaction ends, and needs nothing of the user's for that.
    pub(crate) fn let_go(&mut self) {
        if std::mem::take(&mut self.held) {
            self.shared.holding.let_go();
        }
    }

    /// Ends the watch over a user's transaction, right before it is committed.
    ///
    /// # Errors
    ///
    /// SQLite has rolled it back: there is nothing left to commit.
    pub(crate) fn end_watch(&self) -> Result<(), StoreError> {
        let kept = self.not_lost();
        self.shared.guard.watch(false);
        kept
    }

    /// Whether there is a user's transaction still.
    ///
    /// # Errors
    ///
    /// As [`Self::end_watch`].
    pub(crate) fn not_lost(&self) -> Result<(), StoreError> {
        if !self.shared.guard.is_lost() {
            return Ok(());
        }
        let what = "SQLite has rolled this transaction back after a statement that failed (a full disk, or `or rollback`): \
                    nothing of it is stored; hand such an error on instead of going on";
        Err(StoreError::misuse(what))
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn identity(&self) -> uuid::Uuid {
        self.shared.histories.store()
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("taken only by drop")
    }

    pub(crate) fn conn(&self) -> &SqliteConnection {
        &self.connection.as_ref().expect("taken only by drop").conn
    }

    pub(crate) fn conn_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection().conn
    }

    pub(crate) fn is_open(&mut self) -> bool {
        self.connection().open
    }

    /// Where it is kept from the next transaction on. None may be open.
    pub(crate) async fn keep_temporary(&mut self, wanted: Temporary) -> Result<(), sqlx::Error> {
        if self.connection().temporary == Some(wanted) {
            return Ok(());
        }
        // Whoever drops this does not know whether it was done.
        self.connection().temporary = None;
        // It takes effect where it is prepared, which is done once for other statements.
        let pragma = match wanted {
            Temporary::InFiles => "pragma temp_store = file",
            Temporary::InMemory => "pragma temp_store = memory",
        };
        sqlx::raw_sql(pragma).execute(self.conn_mut()).await?;
        self.connection().temporary = Some(wanted);
        Ok(())
    }

    /// Before BEGIN is sent and after COMMIT was answered: in between, whoever comes next rolls back.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.connection().open = open;
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        self.shared.guard.watch(false);
        // SQLite ends some transactions by itself (a full disk): then there is nothing to roll back.
        match sqlx::query("rollback").execute(self.conn_mut()).await {
            Err(error) if !error.to_string().contains("no transaction is active") => Err(error),
            _ => {
                self.set_open(false);
                Ok(())
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.let_go();
        self.shared.written.send_replace(());
        let Some(mut connection) = self.connection.take() else { return };
        if !connection.open {
            return;
        }
        // The next writer would roll back, but until it comes, other processes are kept waiting.
        let guard = self.shared.guard.clone();
        drop(self.shared.runtime.spawn(async move {
            if sqlx::query("rollback").execute(&mut connection.conn).await.is_ok() {
                connection.open = false;
            }
            guard.watch(false);
        }));
    }
}

/// Hands commits to the task that writes them.
#[derive(Clone, Debug)]
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Request>,
    room: Room,
}

impl Batcher {
    /// Starts the task; it ends when the last handle is gone.
    pub(crate) fn start(shared: Arc<Shared>, room: Room) -> Self {
        // The room bounds it.
        let (sender, requests) = mpsc::unbounded_channel();
        drop(tokio::spawn(write(shared.clone(), room.clone(), requests)));
        Self { shared, requests: sender, room }
    }

    /// Refused at once if too much waits.
    pub(crate) async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        let place = self.room.take(&commit)?;
        self.shared.name(&mut commit);
        let history = self.shared.histories.changes();
        self.send(commit, history, Some(place)).await
    }

    /// Waits until everything that waits now is written, or never will be.
    pub(crate) async fn pass(&self) -> Result<(), CommitError> {
        self.send(Commit::default(), 0, None).await.map(drop)
    }

    async fn send(
        &self,
        commit: Commit,
        history: u64,
        place: Option<Place>,
    ) -> Result<Committed, CommitError> {
        let attempt = Attempt::of(commit.attempt, &commit);
        let (reply, outcome) = oneshot::channel();
        let (caller, since) = (Caller::current(), Instant::now());
        let request = Request { caller, commit, history, reply, place, since };
        if self.requests.send(request).is_err() {
            let gone = std::io::Error::other("the runtime that the store was opened on has ended");
            return Err(StoreError::transient("a commit", gone).into());
        }
        outcome.await.unwrap_or_else(|_| Err(CommitError::Unknown(Box::new(attempt))))
    }
}

async fn write(shared: Arc<Shared>, room: Room, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut waiting = VecDeque::new();
    let mut received = Vec::new();
    loop {
        if waiting.is_empty() && requests.recv_many(&mut received, QUEUE).await == 0 {
            return;
        }
        waiting.extend(received.drain(..));
        // Callers that the last batch has just woken come into this one.
        tokio::task::yield_now().await;
        let began = Instant::now();
        let locked = lock_for(&shared, &mut waiting, &mut requests).await;
        SHOWN.turn(began.elapsed());
        receive(&mut waiting, &mut requests);
        // What nobody waits for any more is not written.
        waiting.retain(|request| !request.reply.is_closed());
        let batch: Vec<Request> = take(&mut waiting).collect();
        SHOWN.batch(batch.iter().map(|r| r.since.elapsed()), batch.iter().map(|r| r.events().count()).sum());
        let left = room.beside(batch.iter().filter_map(|request| request.place.as_ref()));
        SHOWN.waiting(left.requests, left.bytes);
        let (commits, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|r| ((r.commit, r.history), (r.reply, r.place))).unzip();
        let outcomes = match locked {
            Ok(_) if commits.is_empty() => continue,
            Ok(mut writing) => {
                let began = Instant::now();
                let outcomes = batch::run(&mut writing, commits).await;
                SHOWN.flushed(began.elapsed());
                outcomes
            }
            Err(error) => commits.iter().map(|_| Err(error.clone().into())).collect(),
        };
        for ((reply, _place), outcome) in replies.into_iter().zip(outcomes) {
            // A caller that has gone away did not want to know.
            drop(reply.send(outcome));
        }
    }
}

/// Waits for the connection. Requests whose callers wait for themselves are refused meanwhile.
async fn lock_for(
    shared: &Arc<Shared>,
    waiting: &mut VecDeque<Request>,
    requests: &mut mpsc::UnboundedReceiver<Request>,
) -> Result<Writing, StoreError> {
    let (mut locking, mut stuck) = (pin!(Writing::lock(shared, "a commit")), Stuck::default());
    loop {
        if let Ok(locked) = timeout(TICK, &mut locking).await {
            return locked;
        }
        let Some(holder) = stuck.holder(&shared.holding) else { continue };
        receive(waiting, requests);
        for request in std::mem::take(waiting) {
            if request.caller == holder {
                drop(request.reply.send(Err(would_wait_for_itself().into())));
            } else {
                waiting.push_back(request);
            }
        }
    }
}

/// What waits in the queue.
fn receive(waiting: &mut VecDeque<Request>, requests: &mut mpsc::UnboundedReceiver<Request>) {
    while waiting.len() < QUEUE
        && let Ok(request) = requests.try_recv()
    {
        waiting.push_back(request);
    }
}

/// The requests of the next batch.
fn take(waiting: &mut VecDeque<Request>) -> std::collections::vec_deque::Drain<'_, Request> {
    let (mut events, mut bytes, mut count) = (0, 0, 0);
    for request in waiting.iter() {
        let (n, size) = request.events().fold((0, 0), |(n, size), event| (n + 1, size + event.size()));
        events += n;
        bytes += size;
        if count > 0 && (events > MAX_EVENTS || bytes > MAX_BYTES) {
            break;
        }
        count += 1;
    }
    waiting.drain(..count)
}

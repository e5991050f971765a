//! What these tests share: small commits, conditions to wait for, and a wire that can be cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use es_core::event::Metadata;
use es_core::id::Ids;
use es_core::store::{
    Append, Commit, CommitError, EventId, ExpectedVersion, IdempotencyKey, Name, NewEvent, Outcome,
    OutcomeMark, Position, RowStore as _, RowWrite, StreamId, Version,
};
use es_postgres::testing::{self, Database, Server};
use es_postgres::{PgBackend, PgOptions};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// How long a condition may take to come about. Generous: it only ends a test that fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

pub(crate) fn new_id() -> EventId {
    Ids::default().next()
}

pub(crate) fn event(name: &'static str) -> NewEvent {
    NewEvent {
        id: new_id(),
        name: Name::from(name),
        schema: 1,
        codec: Name::from("json"),
        data: "{}".into(),
        tags: Vec::new(),
        metadata: Arc::new(Metadata::default()),
    }
}

pub(crate) fn append(name: &str, expected: ExpectedVersion, events: usize) -> Commit {
    let events = (0..events).map(|_| event("thing.done")).collect();
    Commit { appends: vec![Append { stream: stream(name), expected, events }], ..Commit::default() }
}

/// One event, wherever the stream is.
pub(crate) fn commit(name: &str) -> Commit {
    append(name, ExpectedVersion::Any, 1)
}

pub(crate) fn exact(name: &str, version: u64) -> Commit {
    append(name, ExpectedVersion::Exact(Version(version)), 1)
}

pub(crate) fn mark(key: &str, about: &str) -> OutcomeMark {
    let outcome = Outcome {
        fingerprint: 7,
        stream: stream(about),
        version: Version(0),
        position: Position(0),
        events: 0,
        refusal: Some("no".into()),
    };
    OutcomeMark { key: IdempotencyKey::new(key).unwrap(), outcome }
}

/// A checkpoint, as the engine writes it.
pub(crate) fn step(name: &str, rev: u64, position: u64) -> RowWrite {
    let row = format!(r#"{{"position":{position},"epoch":1,"last":1023}}"#);
    RowWrite { table: "checkpoints".into(), key: name.to_owned(), rev, row: Some(row.into()) }
}

pub(crate) fn row(key: &str, rev: u64, row: Option<&'static str>) -> RowWrite {
    row_of("v/1", key, rev, row)
}

pub(crate) fn row_of(table: &str, key: &str, rev: u64, row: Option<&'static str>) -> RowWrite {
    RowWrite { table: table.into(), key: key.to_owned(), rev, row: row.map(Into::into) }
}

/// The data of a row.
pub(crate) async fn data(store: &PgBackend, table: &str, key: &str) -> Option<String> {
    let found = store.rows(table, &[key.to_owned()]).await.unwrap().pop().unwrap();
    found.map(|row| String::from_utf8(row.data.to_vec()).unwrap())
}

/// The ids of a commit's events.
pub(crate) fn ids(commit: &Commit) -> Vec<EventId> {
    commit.appends.iter().flat_map(|a| &a.events).map(|e| e.id).collect()
}

/// A store in a database of its own.
pub(crate) async fn fresh() -> (Database, PgBackend) {
    let database = testing::database().await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    (database, store)
}

pub(crate) async fn with(database: &Database, change: impl FnOnce(PgOptions) -> PgOptions) -> PgBackend {
    PgBackend::connect_with(change(PgOptions::new(database.url()).unwrap())).await.unwrap()
}

/// Runs SQL past the store.
pub(crate) async fn run(url: &str, sql: &str) {
    try_run(url, sql).await.unwrap();
}

pub(crate) async fn try_run(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let mut conn = PgConnection::connect(url).await?;
    let done = conn.execute(AssertSqlSafe(sql.to_owned())).await;
    drop(conn.close().await);
    done.map(drop)
}

/// One number, asked past the store.
pub(crate) async fn count(url: &str, sql: &str) -> i64 {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let n = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap();
    drop(conn.close().await);
    n
}

/// Waits until a query counts what is expected.
pub(crate) async fn until_count(url: &str, sql: &str, expected: i64) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let waited = tokio::time::timeout(LIMIT, async {
        while sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap()
            != expected
        {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never {expected}: {sql}"));
    drop(conn.close().await);
}

/// Sessions of this database that wait for an advisory lock.
pub(crate) const WAITING: &str = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
    where d.datname = current_database() and l.locktype = 'advisory' and not l.granted";

/// Another session that holds the gate of the store, until it is dropped or released.
pub(crate) struct Gate(PgConnection);

impl Gate {
    pub(crate) async fn hold(url: &str) -> Self {
        let mut conn = PgConnection::connect(url).await.unwrap();
        let lock = format!("select pg_advisory_lock({})", gate());
        conn.execute(AssertSqlSafe(lock)).await.unwrap();
        Self(conn)
    }

    pub(crate) async fn release(self) {
        self.0.close().await.unwrap();
    }
}

/// The key of the gate, as the functions of the schema have it.
pub(crate) fn gate() -> i64 {
    let steps = es_postgres::migrations("es").unwrap();
    let calls = steps.iter().flat_map(|step| step.sql.split("perform pg_advisory_xact_lock(").skip(1));
    calls.filter_map(|rest| rest.split(')').next()?.parse().ok()).next().unwrap()
}

/// Polls a future, and drops it when it is pending for the time after `polls`; `None` then.
pub(crate) async fn dropped_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The store is as it must be, and nobody has left a transaction open.
pub(crate) async fn assert_sound(url: &str, store: &PgBackend) {
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    let open = "select count(*) from pg_stat_activity
                where datname = current_database() and state like 'idle in transaction%'";
    until_count(url, open, 0).await;
}

/// What a commit that must not succeed said.
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, CommitError>) -> CommitError {
    outcome.expect_err("it is refused")
}

/// A wire to a server that can be cut, and that can go silent.
pub(crate) struct Wire {
    folder: TempDir,
    state: watch::Sender<State>,
    made: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// Connections made before a cut end at it.
    cuts: u32,
    silent: bool,
    refuses: bool,
}

impl Wire {
    pub(crate) fn to(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!(".s.PGSQL.{}", server.port());
        let listener = UnixListener::bind(folder.path().join(&socket)).unwrap();
        let (state, made) = (watch::Sender::new(State::default()), Arc::default());
        let to = server.socket_dir().join(socket);
        drop(tokio::spawn(accept(listener, to, state.clone(), Arc::clone(&made))));
        Self { folder, state, made }
    }

    /// How many connections were made.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    pub(crate) fn options(&self, server: &Server, database: &Database) -> PgOptions {
        let connect = PgConnectOptions::new_without_pgpass().socket(self.folder.path()).port(server.port());
        PgOptions::from_driver(connect.username(server.user()).database(database.name())).with_notify(false)
    }

    /// Ends all connections on this side; the server does not see it until it looks.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Whether new connections end at once: as those to a server that is not there.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.send_modify(|state| state.refuses = refuses);
    }

    /// Nothing passes any more, and nobody is told.
    pub(crate) fn silence(&self, silent: bool) {
        self.state.send_modify(|state| state.silent = silent);
    }
}

async fn accept(
    listener: UnixListener,
    server: PathBuf,
    state: watch::Sender<State>,
    made: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        made.fetch_add(1, Ordering::SeqCst);
        drop(tokio::spawn(forward(client, server.clone(), state.subscribe())));
    }
}

async fn forward(mut client: UnixStream, server: PathBuf, mut state: watch::Receiver<State>) {
    let State { cuts, refuses, .. } = *state.borrow_and_update();
    if refuses {
        return;
    }
    let mut server = UnixStream::connect(server).await.unwrap();
    loop {
        let State { cuts: now, silent, .. } = *state.borrow_and_update();
        if now != cuts {
            break;
        }
        if silent {
            if state.changed().await.is_err() {
                return;
            }
            continue;
        }
        // What is on its way when the wire goes silent may be lost with it: such connections end in a cut.
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
    drop(client);
    // The server keeps its end open as long as it has work: as behind a network that is gone.
    drop(tokio::spawn(async move {
        let mut rest = Vec::new();
        let _ended = tokio::io::AsyncReadExt::read_to_end(&mut server, &mut rest).await;
    }));
}

/// A connection past the store, which stays.
pub(crate) async fn connect(url: &str) -> PgConnection {
    url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
}

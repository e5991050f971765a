//! Transactions across databases, on a server of their own: A19 to A22, A39, A40, A51, A52, A58; and connections that are given back: D21.

use std::io;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use es_core::store::{BranchId, Fate, Participant as _, Table};
use es_core::{App, ErrorKind, EventStore as _};
use es_postgres::testing::{Database, Server, ServerOptions, Shutdown};
use es_postgres::{PgBackend, PgOptions, PgParticipant};
use sagas::two_phase::{AbortedBy, TwoPhase, TwoPhaseApp as _, TwoPhaseError};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::across::{At, Fault, Gate, LIMIT, Partner, append, at, commit_event, crashes, rows, with, write};

async fn server(options: ServerOptions) -> Server {
    tokio::task::spawn_blocking(move || options.start()).await.unwrap().unwrap()
}

/// What passes between a program and a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passes {
    /// Nothing that the server says.
    deaf: bool,
    /// Connections made before are cut.
    cuts: u32,
    /// Connections made before are answered no more.
    mutes: u32,
}

/// A wire to a server on which its answers can be lost.
struct Wire {
    folder: TempDir,
    passes: watch::Sender<Passes>,
}

impl Wire {
    fn to(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!(".s.PGSQL.{}", server.port());
        let listener = UnixListener::bind(folder.path().join(&socket)).unwrap();
        let passes = watch::Sender::new(Passes::default());
        drop(tokio::spawn(accept(listener, server.socket_dir().join(socket), passes.clone())));
        Self { folder, passes }
    }

    fn options(&self, server: &Server, database: &Database) -> PgConnectOptions {
        let connect = PgConnectOptions::new_without_pgpass().socket(self.folder.path()).port(server.port());
        connect.username(server.user()).database(database.name())
    }

    async fn store(&self, server: &Server, database: &Database) -> PgBackend {
        let connect = self.options(server, database);
        PgBackend::connect_with(PgOptions::from_driver(connect).with_notify(false)).await.unwrap()
    }

    fn deafen(&self) {
        self.passes.send_modify(|passes| passes.deaf = true);
    }

    /// Those that are open are never answered again, nor closed.
    fn mute(&self) {
        self.passes.send_modify(|passes| passes.mutes += 1);
    }

    /// Those that were deaf, and all others, are cut; later ones hear.
    fn cut(&self) {
        self.passes.send_modify(|passes| *passes = Passes { deaf: false, cuts: passes.cuts + 1, ..*passes });
    }
}

async fn accept(listener: UnixListener, server: PathBuf, passes: watch::Sender<Passes>) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, passes) = (UnixStream::connect(&server).await.unwrap(), passes.subscribe());
        drop(tokio::spawn(forward(client, server, passes)));
    }
}

async fn forward(client: UnixStream, server: UnixStream, mut passes: watch::Receiver<Passes>) {
    let Passes { cuts, mutes, .. } = *passes.borrow();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let hears = passes.clone();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let answers = async {
        let mut bytes = vec![0; 8_192];
        loop {
            let n = from_server.read(&mut bytes).await?;
            if n == 0 {
                return io::Result::Ok(());
            }
            let is_mute = hears.borrow().deaf || hears.borrow().mutes > mutes;
            if !is_mute {
                to_client.write_all(&bytes[..n]).await?;
            }
        }
    };
    let is_cut = async { passes.wait_for(|passes| passes.cuts > cuts).await.map(drop) };
    tokio::select! {
        _ = requests => {}
        _ = answers => {}
        _ = is_cut => {}
    }
}

/// A store over a wire, a database that takes part, and a store without a wire.
struct Ground {
    server: Server,
    wire: Wire,
    _databases: [Database; 2],
    far: PgBackend,
    near: PgBackend,
    stock: Partner,
    two_phase: TwoPhase<PgBackend>,
}

impl Ground {
    async fn open() -> Self {
        let server = server(ServerOptions::new()).await;
        let databases = [server.database().await.unwrap(), server.database().await.unwrap()];
        let wire = Wire::to(&server);
        let near = PgBackend::connect(databases[0].url()).await.unwrap();
        let far = wire.store(&server, &databases[0]).await;
        let stock = at("stock", databases[1].url()).await;
        // Its kind is known from here on: no commit has to ask for it.
        commit_event(&far, "first").await;
        let two_phase = with(&far, [stock.clone()].into_iter());
        Self { server, wire, _databases: databases, far, near, stock, two_phase }
    }

    /// A transaction of both, and where it stops once it is prepared.
    async fn written(&self, what: &str) -> (sagas::two_phase::GlobalTx<PgBackend>, Gate) {
        let mut tx = self.two_phase.begin();
        write(&mut tx, &self.stock, what).await;
        append(&mut tx, what).await;
        (tx, self.stock.stops(At::Prepare, true))
    }

    async fn decisions(&self) -> usize {
        Table::<Value>::new("two-phase.decisions").unwrap().all(&self.near).await.unwrap().len()
    }
}

/// A19
pub(super) async fn a_commit_of_the_store_that_nobody_hears_is_found_out() {
    let ground = Ground::open().await;
    // The server commits, and its answer is lost.
    let (tx, gate) = ground.written("one").await;
    let loses = async {
        gate.met().await;
        ground.wire.deafen();
        gate.let_go();
        let is_decided = async {
            while ground.decisions().await == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, is_decided).await.expect("the server has committed");
        ground.wire.cut();
    };
    let (done, ()) = futures::join!(tx.commit(), loses);
    done.unwrap().wait_all().await.unwrap();
    assert_eq!((rows(ground.stock.inner.pool(), "one").await, ground.near.head().await.unwrap().0), (1, 2));
    // The request is lost: nothing of it is committed, on either side.
    let (tx, gate) = ground.written("two").await;
    let loses = async {
        gate.met().await;
        ground.wire.cut();
        gate.let_go();
    };
    let (error, ()) = futures::join!(tx.commit(), loses);
    assert!(matches!(error.unwrap_err(), TwoPhaseError::Aborted { why: AbortedBy::Unheard(_), .. }));
    assert_eq!((rows(ground.stock.inner.pool(), "two").await, ground.near.head().await.unwrap().0), (0, 2));
    assert_eq!(ground.stock.inner.prepared(ground.far.identity()).await.unwrap(), []);
    assert_eq!((ground.decisions().await, ground.two_phase.pending().await.unwrap().len()), (2, 0));
}

/// A20
pub(super) async fn a_server_that_prepares_nothing_is_found_at_the_start() {
    let server = server(ServerOptions::new().setting("max_prepared_transactions", "0")).await;
    let database = server.database().await.unwrap();
    let stock = at("stock", database.url()).await;
    let store = es_core::memory::MemoryBackend::new();
    let two_phase = with(&store, [stock.clone()].into_iter());
    let error = two_phase.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let says = |text: &str| text.contains("\"stock\"") && text.contains("max_prepared_transactions is 0");
    assert!(says(&error.to_string()), "{error}");
    let app = App::on(store).two_phase(&two_phase).start().await;
    let error = app.unwrap_err().to_string();
    assert!(says(&error), "{error}");
    // A database without the tables of markers says so as well.
    let bare = server.database().await.unwrap();
    let bare = PgParticipant::new("bare", PgPool::connect(bare.url()).await.unwrap()).unwrap();
    bare.check().await.unwrap_err();
}

/// A21
pub(super) async fn what_is_prepared_survives_a_crash_of_its_server() {
    let ground = Ground::open().await;
    for (what, point, after) in [("undecided", At::Prepare, true), ("decided", At::Commit, false)] {
        let mut tx = ground.two_phase.begin();
        write(&mut tx, &ground.stock, what).await;
        append(&mut tx, what).await;
        let gate = ground.stock.stops(point, after);
        crashes(tx.commit(), &[gate]).await;
    }
    // It blocks the thread, on which nothing else has to go on.
    ground.server.restart(Shutdown::Immediate).unwrap();
    let pool = PgPoolOptions::new()
        .connect_with((*ground.stock.inner.pool().connect_options()).clone())
        .await
        .unwrap();
    let stock = Partner::new(PgParticipant::new("stock", pool).unwrap());
    let found = with(&ground.near, [stock.clone()].into_iter()).recover().await.unwrap();
    assert_eq!((found.committed, found.aborted), (1, 1));
    let pool = stock.inner.pool();
    assert_eq!((rows(pool, "undecided").await, rows(pool, "decided").await), (0, 1));
    assert_eq!(ground.near.head().await.unwrap().0, 2);
}

/// A22
pub(super) async fn what_another_session_is_ending_is_busy_and_not_gone() {
    let server = server(ServerOptions::new()).await;
    let database = server.database().await.unwrap();
    let stock = at("stock", database.url()).await.inner;
    let id = BranchId::new(uuid::Uuid::new_v4(), es_core::id::Ids::default().next(), "stock").unwrap();
    let mut branch = stock.begin(&id).await.unwrap();
    sqlx::query("insert into done values ('one')").execute(&mut *branch).await.unwrap();
    es_core::store::Branch::prepare(branch).await.unwrap();
    // A commit waits for a standby that is not there, and keeps the name meanwhile.
    let set = async |standby: &str| {
        for sql in [
            format!("alter system set synchronous_standby_names = '{standby}'"),
            "select pg_reload_conf()".to_owned(),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(stock.pool()).await.unwrap();
        }
    };
    set("nobody").await;
    let shown = "select setting = 'nobody' from pg_settings where name = 'synchronous_standby_names'";
    until(&stock, shown).await;
    let (first, its_id) = (stock.clone(), id.clone());
    let first = tokio::spawn(async move { first.commit(&its_id).await });
    until(&stock, "select exists (select from pg_stat_activity where wait_event = 'SyncRep')").await;
    for _ in 0..2 {
        let error = stock.commit(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        let error = stock.abort(&id).await.unwrap_err();
        assert!(es_core::chain(&error).contains("is busy"), "{}", es_core::chain(&error));
    }
    set("").await;
    assert_eq!(first.await.unwrap().unwrap(), Fate::Committed);
    assert_eq!(
        (stock.commit(&id).await.unwrap(), stock.abort(&id).await.unwrap()),
        (Fate::Committed, Fate::Committed)
    );
}

/// Two databases, and who commits across them.
async fn pair(server: &Server) -> ([Database; 2], [Partner; 2], TwoPhase<es_core::memory::MemoryBackend>) {
    let databases = [server.database().await.unwrap(), server.database().await.unwrap()];
    let own = [at("stock", databases[0].url()).await, at("billing", databases[1].url()).await];
    let two_phase = with(&es_core::memory::MemoryBackend::new(), own.clone().into_iter());
    (databases, own, two_phase)
}

async fn run(participant: &Partner, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(participant.inner.pool()).await.unwrap();
}

/// A39
pub(super) async fn a_branch_that_has_written_to_a_foreign_table_is_not_committed_before_the_decision() {
    let server = server(ServerOptions::new()).await;
    let (_databases, [stock, billing], two_phase) = pair(&server).await;
    let far = server.database().await.unwrap();
    let remote = at("far", far.url()).await;
    let make = format!(
        "create extension postgres_fdw;
         create server far foreign data wrapper postgres_fdw options (host '{}', port '{}', dbname '{}');
         create user mapping for current_user server far options (user '{}');
         create foreign table far_done (what text not null) server far options (table_name 'done')",
        server.socket_dir().display(),
        server.port(),
        far.name(),
        server.user()
    );
    run(&stock, make).await;
    let begins = async |far: &'static str| {
        let mut tx = two_phase.begin();
        let branch = tx.branch(&stock).await.unwrap();
        sqlx::raw_sql(far).execute(&mut *branch.inner).await.unwrap();
        write(&mut tx, &billing, "one").await;
        tx
    };
    // Whatever the other one says: it is the second that would not be prepared.
    billing.will(At::Prepare, Fault::Lost);
    let error = begins("insert into far_done values ('one')").await.commit().await.unwrap_err();
    assert!(matches!(error, TwoPhaseError::Aborted { .. }), "{error}");
    billing.forget_faults();
    let error = begins("insert into far_done values ('one')").await.commit().await.unwrap_err();
    let text = es_core::chain(&error);
    assert!(text.contains("\"stock\"") && text.contains("postgres_fdw"), "{text}");
    assert_eq!((rows(remote.inner.pool(), "one").await, rows(billing.inner.pool(), "one").await), (0, 0));
    // One that has read it only is ended.
    begins("select * from far_done").await.commit().await.unwrap();
    assert_eq!(rows(billing.inner.pool(), "one").await, 1);
}

/// A40
pub(super) async fn a_branch_under_another_role_is_not_prepared() {
    let server = server(ServerOptions::new()).await;
    let (databases, [stock, billing], _) = pair(&server).await;
    let make = "create role tenant; create role app login; grant tenant to app;
        grant all on all tables in schema public, es_guard to app, tenant; grant usage on schema es_guard to app, tenant";
    run(&stock, make.to_owned()).await;
    let user = PgConnectOptions::clone(&stock.inner.pool().connect_options()).username("app");
    let app = |pool: PgPool| Partner::new(PgParticipant::new("stock", pool).unwrap());
    let stock = app(PgPoolOptions::new().connect_with(user.clone()).await.unwrap());
    let commits = async |stock: &Partner, sql: &'static str| {
        let store = es_core::memory::MemoryBackend::new();
        let two_phase = with(&store, [stock.clone(), billing.clone()].into_iter());
        let mut tx = two_phase.begin();
        write(&mut tx, &billing, "one").await;
        let branch = tx.branch(stock).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *branch.inner).await.unwrap();
        write(&mut tx, stock, "one").await;
        tx.commit().await.map(|done| done.pending)
    };
    let error = commits(&stock, "set local role tenant").await.unwrap_err();
    assert!(es_core::chain(&error).contains("the role \"tenant\""), "{}", es_core::chain(&error));
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert_eq!((rows(stock.inner.pool(), "one").await, rows(billing.inner.pool(), "one").await), (0, 0));
    // Taken back before the end, or the role of the whole pool: it can be ended.
    let reset = "set local role tenant; select count(*) from done; reset role";
    assert_eq!(commits(&stock, reset).await.unwrap(), [""; 0]);
    let takes = PgPoolOptions::new().after_connect(|conn, _| {
        Box::pin(async move { sqlx::raw_sql("set role tenant").execute(conn).await.map(drop) })
    });
    let as_tenant = app(takes.connect_with(user).await.unwrap());
    assert_eq!(commits(&as_tenant, "select 1").await.unwrap(), [""; 0]);
    assert_eq!((rows(stock.inner.pool(), "one").await, rows(billing.inner.pool(), "one").await), (2, 2));
    drop(databases);
}

/// A51
pub(super) async fn what_nobody_answers_keeps_no_connection_from_what_ends_branches() {
    let server = server(ServerOptions::new()).await;
    let (databases, [near, billing], _) = pair(&server).await;
    let wire = Wire::to(&server);
    let pool = PgPoolOptions::new().connect_with(wire.options(&server, &databases[0])).await.unwrap();
    let stock = Partner::new(PgParticipant::new("stock", pool).unwrap());
    let second = Duration::from_secs(1);
    let node = TwoPhase::on(es_core::memory::MemoryBackend::new()).unwrap().grace(Duration::ZERO);
    let node = node.participant(stock.clone()).participant(billing.clone()).limit(second).build().unwrap();
    let mut tx = node.begin();
    write(&mut tx, &stock, "one").await;
    write(&mut tx, &billing, "one").await;
    crashes(tx.commit(), &[stock.stops(At::Prepare, true), billing.stops(At::Prepare, true)]).await;
    // More ask what became of theirs than there are connections, all wait for the lock of a marker, and then nobody answers.
    let ids: Vec<_> = (0..4)
        .map(|_| {
            let txn = es_core::id::Ids::default().next();
            BranchId::new(uuid::Uuid::new_v4(), txn, "stock").unwrap()
        })
        .collect();
    let mut holds = near.inner.pool().begin().await.unwrap();
    for id in &ids {
        let mark = "insert into es_guard.guards (run, call, state, fingerprint, result)
            values ($1, '2pc-alone/stock', 'done', decode(repeat('00', 16), 'hex'), 'null')";
        sqlx::query(mark).bind(id.txn()).execute(&mut *holds).await.unwrap();
    }
    let asks = ids.iter().map(|id| timeout(second, stock.outcome(id)));
    let mutes = async {
        until(&near.inner, "select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
            .await;
        wire.mute();
    };
    let (asked, ()) = futures::join!(futures::future::join_all(asks), mutes);
    assert!(asked.iter().all(Result::is_err), "{asked:?}");
    let begun = tokio::time::Instant::now();
    let mut aborted = node.recover().await.unwrap().aborted;
    if aborted < 2 {
        // Those that had been idle are found to be gone.
        aborted += node.recover().await.unwrap().aborted;
    }
    assert_eq!(aborted, 2);
    assert!(begun.elapsed() < second * 6, "{:?}", begun.elapsed());
}

/// A52
pub(super) async fn what_ends_branches_goes_by_the_options_that_the_pool_has_now() {
    let server = server(ServerOptions::new()).await;
    let (databases, [near, billing], _) = pair(&server).await;
    let wire = Wire::to(&server);
    let pool = PgPoolOptions::new().connect_with(wire.options(&server, &databases[0])).await.unwrap();
    let stock = Partner::new(PgParticipant::new("stock", pool).unwrap());
    let store = es_core::memory::MemoryBackend::new();
    let node = with(&store, [stock.clone(), billing.clone()].into_iter());
    let commits = async |what: &str| {
        let mut tx = node.begin();
        write(&mut tx, &stock, what).await;
        write(&mut tx, &billing, what).await;
        tx.commit().await.map(|done| done.pending)
    };
    assert_eq!(commits("one").await.unwrap(), [""; 0]);
    // Another host; the one before is no more.
    stock.inner.pool().set_connect_options((*near.inner.pool().connect_options()).clone());
    std::fs::remove_file(wire.folder.path().join(format!(".s.PGSQL.{}", server.port()))).unwrap();
    wire.cut();
    assert_eq!(commits("two").await.unwrap(), [""; 0]);
    assert_eq!(rows(near.inner.pool(), "two").await, 1);
}

/// A58
pub(super) async fn a_pool_may_be_given_another_user() {
    let server = server(ServerOptions::new()).await;
    let (_databases, [near, billing], _) = pair(&server).await;
    let make = "create role one login superuser; create role two login superuser; create role three login; create role four login;
        grant all on all tables in schema public, es_guard to three, four; grant usage on schema es_guard to three, four";
    run(&near, make.to_owned()).await;
    let user = |name| PgConnectOptions::clone(&near.inner.pool().connect_options()).username(name);
    let pool = PgPoolOptions::new().max_connections(1).connect_with(user("one")).await.unwrap();
    let stock = Partner::new(PgParticipant::new("stock", pool.clone()).unwrap());
    let node = with(&es_core::memory::MemoryBackend::new(), [stock.clone(), billing.clone()].into_iter());
    let commits = async |what: &str| {
        let mut tx = node.begin();
        write(&mut tx, &stock, what).await;
        write(&mut tx, &billing, what).await;
        tx.commit().await.map(|done| done.pending)
    };
    assert_eq!(commits("one").await.unwrap(), [""; 0]);
    // What ends branches has an idle connection of the one before. A superuser ends what any other has prepared.
    pool.set_connect_options(user("two"));
    assert_eq!(commits("on a connection of before").await.unwrap(), [""; 0]);
    pool.acquire().await.unwrap().close().await.unwrap();
    assert_eq!(commits("two").await.unwrap(), [""; 0]);
    pool.set_connect_options(user("three"));
    pool.acquire().await.unwrap().close().await.unwrap();
    assert_eq!(commits("three").await.unwrap(), [""; 0]);
    // Who is no superuser could not end what a connection of before prepares.
    pool.set_connect_options(user("four"));
    let error = commits("refused").await.unwrap_err();
    let text = es_core::chain(&error);
    assert!(text.contains("\"three\"") && text.contains("\"four\""), "{text}");
    assert_eq!(error.kind(), ErrorKind::Transient, "{text}");
    assert_eq!(
        (rows(near.inner.pool(), "refused").await, rows(billing.inner.pool(), "refused").await),
        (0, 0)
    );
    pool.acquire().await.unwrap().close().await.unwrap();
    assert_eq!(commits("four").await.unwrap(), [""; 0]);
    assert_eq!(node.recover().await.unwrap().in_doubt["stock"].branches, 0);
}

/// Until a query says yes.
async fn until(participant: &PgParticipant, query: &'static str) {
    let begun = tokio::time::Instant::now();
    loop {
        let mut conn = participant.pool().acquire().await.unwrap();
        let yes: bool = sqlx::query_scalar(query).fetch_one(&mut *conn).await.unwrap();
        if yes {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{query}");
        tokio::task::yield_now().await;
    }
}

/// D21
pub(super) async fn what_is_dropped_leaves_no_transaction_to_the_next() {
    let server = server(ServerOptions::new()).await;
    let database = server.database().await.unwrap();
    let pool = PgPoolOptions::new().max_connections(1).connect(database.url()).await.unwrap();
    let guarded = es_postgres::PgGuarded::new(pool.clone());
    guarded.install().await.unwrap();
    let stock = PgParticipant::new("stock", pool.clone()).unwrap();
    let id = BranchId::new(uuid::Uuid::new_v4(), es_core::id::Ids::default().next(), "stock").unwrap();
    for polls in 0..6 {
        drop(dropped_after(polls, es_core::guard::GuardedDatabase::begin(&guarded)).await);
        // It is refused within a transaction.
        sqlx::raw_sql("vacuum es_guard.about").execute(&pool).await.unwrap();
        drop(dropped_after(polls, stock.begin(&id)).await);
        sqlx::raw_sql("vacuum es_guard.about").execute(&pool).await.unwrap();
        drop(dropped_after(polls, stock.outcome(&id)).await);
        sqlx::raw_sql("vacuum es_guard.about").execute(&pool).await.unwrap();
        // One after the other: each is prepared, rolled back or committed on the one connection there is.
        let id = BranchId::new(uuid::Uuid::new_v4(), es_core::id::Ids::default().next(), "stock").unwrap();
        for commits in [true, false] {
            let mut branch = stock.begin(&id).await.unwrap();
            sqlx::query("create table if not exists t (x integer)").execute(&mut *branch).await.unwrap();
            sqlx::query("insert into t values (1)").execute(&mut *branch).await.unwrap();
            match commits {
                true => es_core::store::Branch::prepare(branch).await.unwrap(),
                false => es_core::store::Branch::rollback(branch).await.unwrap(),
            }
            if commits {
                assert_eq!(stock.commit(&id).await.unwrap(), Fate::Committed);
            }
        }
    }
}

/// Polls a future, and drops it when it is pending for the time after `polls`.
async fn dropped_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
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

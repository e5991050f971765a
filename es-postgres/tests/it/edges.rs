//! Where this program ends and the server begins: connections that are handed on, that are not to be had, and pages that take
//! too long.

use std::time::{Duration, Instant};

use es_core::App;
use es_core::store::{
    Commit, EventFilter, EventStore as _, ExpectedVersion, Position, RowStore as _, Span, Transaction as _,
    Version, read_all,
};
use es_core::testing::Log;
use es_core::{Project, Projection, chain};
use es_postgres::testing::{Server, Shutdown};
use es_postgres::{Db, PgBackend, PgOptions, Tx};
use sqlx::PgConnection;

use crate::support::{append, commit, fresh, row_of, run, stream, with};

/// What a user may leave on a connection.
const LEFT: &[&str] = &[
    "select set_config('app.tenant', 'a', false)",
    "set statement_timeout to '123s'",
    "set search_path to pg_catalog",
    "create temp table basket (n int)",
    "select pg_advisory_lock(42)",
    "listen news",
    "set session characteristics as transaction read only",
    "set role to pg_monitor",
];

/// Each gives a row where something of it is there.
const FOUND: &[&str] = &[
    "select 'role ' || current_user where current_user <> session_user",
    "select 'tenant ' || t from current_setting('app.tenant', true) t where t <> ''",
    "select 'timeout ' || t from current_setting('statement_timeout') t where t = '123s'",
    "select 'path' where current_setting('search_path') = 'pg_catalog'",
    "select 'read only' where current_setting('default_transaction_read_only') = 'on'",
    "select 'a temporary table' where to_regclass('pg_temp.basket') is not null",
    "select 'a lock' from pg_locks where locktype = 'advisory' and objid = 42
     and database = (select oid from pg_database where datname = current_database())",
    "select 'a channel' from pg_listening_channels() c where c = 'news'",
];

async fn found(conn: &mut PgConnection) -> Vec<String> {
    let mut found = Vec::new();
    for sql in FOUND {
        found.extend(sqlx::query_scalar::<_, String>(*sql).fetch_optional(&mut *conn).await.unwrap());
    }
    found
}

#[tokio::test]
async fn a_connection_of_queries_keeps_nothing_of_its_user() {
    let (database, _store) = fresh().await;
    let db = with(&database, |o| o.with_connections(1)).await.db();
    for how_it_ends in ["it is given back", "in a transaction that nobody ended"] {
        let mut conn = db.pool().acquire().await.unwrap();
        for sql in LEFT {
            sqlx::query(*sql).execute(&mut *conn).await.unwrap();
        }
        assert!(!found(&mut conn).await.is_empty());
        if how_it_ends != "it is given back" {
            sqlx::query("begin").execute(&mut *conn).await.unwrap();
        }
        drop(conn);
        assert_eq!(
            found(&mut db.pool().acquire().await.unwrap()).await,
            Vec::<String>::new(),
            "{how_it_ends}"
        );
    }
    // Statements that were prepared on it go on.
    for _ in 0..3 {
        assert_eq!(sqlx::query_scalar::<_, i32>("select 1").fetch_one(&db).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_connection_of_transactions_keeps_nothing_of_its_user() {
    let (database, _store) = fresh().await;
    let store = with(&database, |o| o.with_connections(1)).await;
    for commits in [true, false] {
        let mut tx = es_core::store::Backend::begin(&store).await.unwrap();
        // Under another role it could not commit.
        for sql in &LEFT[..LEFT.len() - usize::from(commits)] {
            sqlx::query(*sql).execute(&mut *tx).await.unwrap();
        }
        assert!(!found(&mut tx).await.is_empty());
        if commits {
            tx.commit().await.unwrap();
        } else {
            drop(tx);
        }
        let mut tx = es_core::store::Backend::begin(&store).await.unwrap();
        assert_eq!(found(&mut tx).await, Vec::<String>::new(), "commits: {commits}");
        tx.rollback().await.unwrap();
    }
}

/// A statement for each event that takes as long as a lock is held.
#[derive(Debug)]
struct Slow<const N: usize>;

impl<const N: usize> Projection for Slow<N> {
    const NAME: &'static str = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"][N];
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<const N: usize> Project<Tx> for Slow<N> {
    async fn project(&self, _: &es_core::store::RecordedEvent, tx: &mut Tx) -> Result<(), es_core::BoxError> {
        sqlx::query("select pg_advisory_xact_lock_shared(7)").execute(&mut **tx).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_beside_ten_projections_that_are_not_done() {
    let (database, store) = fresh().await;
    let mut held = database_connection(&database).await;
    sqlx::query("select pg_advisory_lock(7)").execute(&mut held).await.unwrap();
    let app = App::on(store.clone()).projection(Slow::<0>).projection(Slow::<1>).projection(Slow::<2>);
    let app = app.projection(Slow::<3>).projection(Slow::<4>).projection(Slow::<5>).projection(Slow::<6>);
    let app = app.projection(Slow::<7>).projection(Slow::<8>).projection(Slow::<9>).start().await.unwrap();
    for n in 0..20 {
        store.commit(commit(&format!("a{n}"))).await.unwrap();
    }
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7 and not granted
                   and database = (select oid from pg_database where datname = current_database())";
    let busy = async {
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut held).await.unwrap() < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, busy).await.unwrap();
    let db = store.db();
    for _ in 0..100 {
        let began = Instant::now();
        sqlx::query_scalar::<_, i32>("select 1").fetch_one(&db).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    sqlx::query("select pg_advisory_unlock_all()").execute(&mut held).await.unwrap();
    app.settle(crate::support::LIMIT).await.unwrap();
    app.shutdown(crate::support::LIMIT).await;
}

async fn database_connection(database: &es_postgres::testing::Database) -> PgConnection {
    <PgConnection as sqlx::Connection>::connect(database.url()).await.unwrap()
}

#[tokio::test]
async fn a_query_fails_soon_while_the_server_is_down_and_says_where_it_was() {
    let server = Server::start().unwrap();
    let database = server.database().await.unwrap();
    let options = PgOptions::new(database.url()).unwrap().with_query_wait(Duration::from_millis(300));
    let store = PgBackend::connect_with(options).await.unwrap();
    let db = store.db();
    let ask = async |db: &Db| sqlx::query_scalar::<_, i32>("select 1").fetch_one(db).await;
    assert_eq!(ask(&db).await.unwrap(), 1);
    server.stop(Shutdown::Fast).unwrap();
    let place = format!("{}/.s.PGSQL.{}", server.socket_dir().display(), server.port());
    let began = Instant::now();
    let error = chain(&ask(&db).await.unwrap_err());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(error.contains(&place), "{error}");
    // So do reads of the store, and commits.
    let read = chain(&store.stream(&stream("a"), Version(0), 1).await.unwrap_err());
    assert!(read.contains(&place), "{read}");
    let written = chain(&store.commit(commit("a")).await.unwrap_err());
    assert!(written.contains(&place) || written.contains("unknown"), "{written}");
    let again = chain(&PgBackend::connect(database.url()).await.unwrap_err());
    assert!(again.contains(&place), "{again}");
    server.start_again().unwrap();
    assert_eq!(ask(&db).await.unwrap(), 1);
}

#[tokio::test]
async fn a_query_that_finds_no_free_connection_says_so_within_its_time() {
    let (database, _store) = fresh().await;
    let store = with(&database, |o| o.with_connections(1).with_query_wait(Duration::from_secs(1))).await;
    let db = store.db();
    let held = db.pool().acquire().await.unwrap();
    let error = sqlx::query("select 1").execute(&db).await.unwrap_err();
    assert!(error.to_string().contains("all are in use"), "{error}");
    assert!(es_core::store::Backend::is_transient(&store, &error));
    drop(held);
    sqlx::query("select 1").execute(&db).await.unwrap();
}

#[tokio::test]
async fn who_is_refused_hears_where() {
    let (database, _store) = fresh().await;
    let (head, tail) = database.url().split_once(&format!("/{}", database.name())).unwrap();
    let error = PgBackend::connect(&format!("{head}/nowhere{tail}")).await.unwrap_err().to_string();
    assert!(error.contains("/.s.PGSQL.") && error.contains("nowhere"), "{error}");
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = PgBackend::connect(&format!("postgres://ada:s3cret@{refused}/shop")).await.unwrap_err();
    let error = chain(&error);
    assert!(error.contains(&refused.to_string()) && !error.contains("s3cret"), "{error}");
}

/// A port in front of the server's socket.
async fn port_before(socket: std::path::PathBuf) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::UnixStream::connect(&socket).await.unwrap();
            drop(tokio::spawn(async move {
                tokio::io::copy_bidirectional(&mut client, &mut server).await.is_ok()
            }));
        }
    }));
    port
}

#[tokio::test]
async fn a_connection_that_is_not_encrypted_as_was_preferred_is_told_of() {
    let (database, _store) = fresh().await;
    let options: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let socket = options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port()));
    let port = port_before(socket).await;
    let url = format!("postgres://{}@127.0.0.1:{port}/{}", options.get_username(), database.name());
    for (parameter, told) in [("?sslmode=prefer", true), ("?sslmode=disable", false), ("", false)] {
        let (log, _caught) = Log::catch();
        PgBackend::connect(&format!("{url}{parameter}")).await.unwrap();
        let said = log.take().concat();
        assert_eq!(said.contains("not encrypted"), told, "{parameter:?}: {said}");
        assert!(!told || said.contains(&format!("127.0.0.1:{port}")), "{said}");
    }
}

/// What takes some time for each row whose data are read. Said to be immutable, so that nobody waits for what is not read.
const SLOW: &str = "create function es.slow(data bytea) returns bytea immutable language plpgsql as
    'begin perform pg_sleep(0.004); return data; end';";

/// A page of hundreds of events takes longer than a statement may.
async fn slow_log(url: &str) {
    let view = "alter table es.events rename to events_kept;
                create view es.events as
                select position, stream_id, version, type_id, recorded_at, envelope, es.slow(data) as data
                from es.events_kept";
    run(url, &format!("{SLOW} {view}")).await;
}

#[tokio::test]
async fn a_page_that_outlasts_the_statement_timeout_is_halved_until_it_comes() {
    const EVENTS: usize = 300;
    let (database, store) = fresh().await;
    store.commit(append("a", ExpectedVersion::Any, EVENTS)).await.unwrap();
    slow_log(database.url()).await;
    let store =
        with(&database, |o| o.with_statement_timeout(Duration::from_millis(400)).with_migrate(false)).await;
    let read = store.stream(&stream("a"), Version(0), 10_000).await.unwrap();
    assert_eq!(read.len(), EVENTS);
    let versions: Vec<u64> = read.iter().map(|event| event.version.0).collect();
    assert_eq!(versions, (1..=EVENTS as u64).collect::<Vec<_>>());
    // One that asks for less still gets no more than that.
    assert_eq!(store.stream(&stream("a"), Version(0), 150).await.unwrap().len(), 150);
}

#[tokio::test]
async fn rows_that_outlast_the_statement_timeout_are_read_in_parts() {
    const ROWS: usize = 300;
    let (database, store) = fresh().await;
    let rows = (0..ROWS).map(|i| row_of("v/1", &format!("{i:04}"), 0, Some("1"))).collect();
    store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
    let view = "alter table es.rows rename to rows_kept;
                create view es.rows as select tbl, key, rev, es.slow(data) as data from es.rows_kept";
    run(database.url(), &format!("{SLOW} {view}")).await;
    let store =
        with(&database, |o| o.with_statement_timeout(Duration::from_millis(400)).with_migrate(false)).await;
    let read = store.scan("v/1", None, 10_000).await.unwrap();
    let keys: Vec<String> = read.into_iter().map(|row| row.key).collect();
    assert_eq!(keys, (0..ROWS).map(|i| format!("{i:04}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_outlast_the_statement_timeout_are_read_in_parts_of_one_snapshot() {
    const ROWS: usize = 300;
    let (database, store) = fresh().await;
    let rows = (0..ROWS).map(|i| row_of("v/1", &format!("{i:04}"), 0, Some("1"))).collect();
    store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
    let view = "alter table es.rows rename to rows_kept;
                create view es.rows as select tbl, key, rev, es.slow(data) as data from es.rows_kept";
    run(database.url(), &format!("{SLOW} {view}")).await;
    // The first and the last row are always the same.
    let url = database.url().to_owned();
    let writer = tokio::spawn(async move {
        for n in 2.. {
            let both = format!("update es.rows_kept set data = '{n}' where key in ('0000', '0299')");
            run(&url, &both).await;
        }
    });
    let store =
        with(&database, |o| o.with_statement_timeout(Duration::from_millis(400)).with_migrate(false)).await;
    let span = |after: &str, before: Option<&str>, limit| Span {
        after: after.to_owned(),
        before: before.map(str::to_owned),
        limit,
    };
    let spans = [span("", Some("0100"), 1_000), span("0099", None, 150), span("0250", None, 1_000)];
    let read = store.scan_many("v/1", &spans).await.unwrap();
    writer.abort();
    let keys: Vec<Vec<&str>> = read.iter().map(|rows| rows.iter().map(|row| &*row.key).collect()).collect();
    let names: Vec<String> = (0..ROWS).map(|i| format!("{i:04}")).collect();
    for (keys, names) in keys.iter().zip([&names[..100], &names[100..250], &names[251..]]) {
        assert_eq!(keys, names);
    }
    assert_eq!(read[0][0].data, read[2].last().unwrap().data);
}

#[tokio::test]
async fn events_by_their_positions_that_outlast_the_statement_timeout_are_read_in_parts() {
    const EVENTS: u64 = 300;
    let (database, store) = fresh().await;
    store.commit(append("a", ExpectedVersion::Any, 300)).await.unwrap();
    slow_log(database.url()).await;
    let store =
        with(&database, |o| o.with_statement_timeout(Duration::from_millis(400)).with_migrate(false)).await;
    let asked: Vec<Position> = (1..=EVENTS).rev().chain([9_999]).map(Position).collect();
    let read = store.at(&asked).await.unwrap();
    let positions: Vec<u64> = read.iter().map(|event| event.place().0).collect();
    assert_eq!(positions, (1..=EVENTS).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_log_is_read_in_smaller_parts_where_a_part_outlasts_the_statement_timeout() {
    const EVENTS: usize = 300;
    let (database, store) = fresh().await;
    store.commit(append("a", ExpectedVersion::Any, EVENTS)).await.unwrap();
    slow_log(database.url()).await;
    let store =
        with(&database, |o| o.with_statement_timeout(Duration::from_millis(400)).with_migrate(false)).await;
    let all = read_all(&store, &EventFilter::all(), Position(0)).await.unwrap();
    let positions: Vec<u64> = all.events.iter().map(|event| event.place().0).collect();
    assert_eq!(positions, (1..=EVENTS as u64).collect::<Vec<_>>());
}

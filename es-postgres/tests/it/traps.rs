//! The traps of the driver and of the server, each with what must not come of it.

use std::sync::Arc;
use std::time::Duration;

use es_core::ErrorKind;
use es_core::clock::Timestamp;
use es_core::event::Tag;
use es_core::store::{
    AppendCondition, Attempt, Backend as _, Commit, CommitError, EventFilter, EventStore as _,
    ExpectedVersion, FilterItem, IdempotencyKey, Position, Resolution, RowStore as _, Snapshot,
    SnapshotStore as _, Transaction as _, Version,
};
use es_postgres::testing::{self, Server, ServerOptions};
use es_postgres::{PgBackend, PgOptions};
use futures::future::BoxFuture;
use tokio::time::timeout;

use crate::support::{
    Gate, LIMIT, WAITING, Wire, append, assert_sound, commit, connect, count, dropped_after, event, exact,
    fresh, ids, mark, new_id, refused, row, run, step, stream, until_count, with,
};

type Op = fn(PgBackend) -> BoxFuture<'static, ()>;

/// Everything that can be awaited, by name. What it answers does not matter here.
fn operations() -> Vec<(&'static str, Op)> {
    vec![
        ("commit", |s| Box::pin(async move { drop(s.commit(commit("s")).await) })),
        ("refused commit", |s| Box::pin(async move { drop(s.commit(exact("s", 99_999)).await) })),
        ("commit of everything", |s| {
            Box::pin(async move {
                let everything = Commit {
                    condition: Some(AppendCondition {
                        fail_if_events_match: FilterItem::new().with_tag(Tag::parse("a:b").unwrap()).into(),
                        after: Position(0),
                    }),
                    outcomes: vec![mark(&new_id().to_string(), "s")],
                    rows: vec![step(&new_id().to_string(), 0, 1), row(&new_id().to_string(), 0, Some("1"))],
                    ..commit("s")
                };
                drop(s.commit(everything).await);
            })
        }),
        ("commit of a row", |s| {
            let rows = vec![row(&new_id().to_string(), 0, Some("1"))];
            Box::pin(async move { drop(s.commit(Commit { rows, ..Commit::default() }).await) })
        }),
        ("resolve", |s| {
            let attempt = Attempt::of(new_id(), &commit("s"));
            Box::pin(async move { drop(s.resolve(&attempt).await) })
        }),
        ("reads", |s| {
            Box::pin(async move {
                drop(s.stream(&stream("s"), Version(0), 10).await);
                drop(s.read(&EventFilter::all(), Position(0), 10).await);
                drop(s.position_at(Timestamp::UNIX_EPOCH).await);
                drop(s.verify().await);
            })
        }),
        ("small reads", |s| {
            Box::pin(async move {
                drop(s.head().await);
                drop(s.now().await);
                drop(s.outcome(&IdempotencyKey::new("k").unwrap()).await);
                drop(s.rows("v/1", &["k".to_owned()]).await);
                drop(s.scan("v/1", None, 10).await);
            })
        }),
        // Of a stream that has no events: this snapshot is of none.
        ("snapshots", |s| {
            Box::pin(async move {
                let snapshot = Snapshot {
                    stream: stream("snapped"),
                    version: Version(1),
                    event: new_id(),
                    schema: 1,
                    data: "{}".into(),
                };
                drop(s.put_snapshot(snapshot).await);
                drop(s.snapshot(&stream("snapped")).await);
                drop(s.drop_snapshot(&stream("snapped")).await);
            })
        }),
        ("query", |s| {
            Box::pin(async move {
                let slow = sqlx::query("select pg_sleep(0.001) from generate_series(1, 3)");
                drop(slow.fetch_all(&s.db()).await);
            })
        }),
        ("transaction of a query", |s| {
            Box::pin(async move {
                let Ok(mut tx) = s.db().pool().begin().await else { return };
                drop(sqlx::query("insert into pairs values (null)").execute(&mut *tx).await);
                drop(tx.rollback().await);
            })
        }),
        ("begin and roll back", |s| {
            Box::pin(async move {
                if let Ok(tx) = s.begin().await {
                    drop(tx.rollback().await);
                }
            })
        }),
        ("transaction", |s| Box::pin(async move { drop(pair(&s, true).await) })),
        ("refused transaction", |s| Box::pin(async move { drop(pair(&s, false).await) })),
    ]
}

/// A row and an event with one id, in one transaction, with a savepoint that is gone back to.
async fn pair(store: &PgBackend, will_do: bool) -> Result<(), CommitError> {
    let mut tx = store.begin().await?;
    let mut staged = commit("pairs");
    let id = ids(&staged)[0];
    if !will_do {
        staged.appends[0].expected = ExpectedVersion::Exact(Version(99_999));
    }
    *tx.staged() = staged;
    let insert = || sqlx::query("insert into pairs values ($1)");
    insert().bind(id).execute(&mut *tx).await.map_err(other)?;
    let before = tx.savepoint().await?;
    tx.staged().appends.extend(commit("undone").appends);
    insert().bind(new_id()).execute(&mut *tx).await.map_err(other)?;
    tx.rollback_to(&before).await?;
    tx.commit().await.map(drop)
}

fn other(error: sqlx::Error) -> CommitError {
    es_core::store::StoreError::transient("a test", error).into()
}

/// The store does everything it should, with one connection of each kind.
async fn works(store: &PgBackend) {
    let all = async {
        store.commit(commit("works")).await.unwrap();
        store
            .commit(Commit { rows: vec![row(&new_id().to_string(), 0, None)], ..Commit::default() })
            .await
            .unwrap();
        store.read(&EventFilter::all(), Position(0), 1).await.unwrap();
        sqlx::query("select 1").execute(&store.db()).await.unwrap();
        pair(store, true).await.unwrap();
    };
    timeout(LIMIT, all).await.expect("nobody keeps a connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_dropped_at_any_poll_the_store_goes_on() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_readers(1).with_connections(1).with_notify(false)).await;
    run(database.url(), "create table pairs (id uuid)").await;
    for (name, operation) in operations() {
        for polls in 0..40 {
            let done = dropped_after(polls, operation(store.clone())).await.is_some();
            works(&store).await;
            if done {
                break;
            }
        }
        let rows = "select count(*) from pairs";
        let events = "select count(*) from es.log where stream = 'pairs'";
        let (rows, events) = (count(database.url(), rows).await, count(database.url(), events).await);
        assert_eq!(rows, events, "after {name}: a row and its event are one");
        assert_eq!(count(database.url(), "select count(*) from es.streams where name = 'undone'").await, 0);
    }
    assert_sound(database.url(), &store).await;
}

/// Many at once, on few connections: what one of them leaves half way is not what another one gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_come_and_go_do_not_meet_on_a_connection() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_readers(2).with_connections(2)).await;
    run(database.url(), "create table pairs (id uuid)").await;
    let all = (0..4_usize).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for polls in 0..40 {
                for (_, operation) in operations().into_iter().skip(task % 2).step_by(2) {
                    let _dropped = dropped_after((polls + task * 7) % 12, operation(store.clone())).await;
                }
            }
        })
    });
    futures::future::try_join_all(all).await.unwrap();
    works(&store).await;
    assert_sound(database.url(), &store).await;
    let lonely = "select count(*) from pairs full join es.log using (id) where stream is null
                  or (stream = 'pairs' and pairs.id is null)";
    assert_eq!(count(database.url(), lonely).await, 0);
}

#[tokio::test]
async fn a_transaction_in_which_a_statement_failed_cannot_be_committed() {
    let (database, store) = fresh().await;
    run(database.url(), "create table mine (x integer primary key)").await;
    for staged in [commit("s"), Commit::default()] {
        let mut tx = store.begin().await.unwrap();
        sqlx::query("insert into mine values (1)").execute(&mut *tx).await.unwrap();
        assert!(sqlx::query("insert into mine values (1)").execute(&mut *tx).await.is_err());
        *tx.staged() = staged;
        let error = refused(tx.commit().await);
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    }
    assert_eq!(count(database.url(), "select count(*) from mine").await, 0);
    assert_eq!(store.head().await.unwrap(), Position(0));
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn a_transaction_that_sql_of_its_user_has_ended_stores_nothing_that_is_staged() {
    let (database, store) = fresh().await;
    for ended in
        ["commit", "rollback", "rollback; begin", "commit; begin", "commit and chain", "rollback and chain"]
    {
        for staged in [commit("s"), Commit::default()] {
            let mut tx = store.begin().await.unwrap();
            sqlx::raw_sql(ended).execute(&mut *tx).await.unwrap();
            *tx.staged() = staged;
            let error = refused(tx.commit().await);
            assert_eq!(error.kind(), ErrorKind::Misuse, "{ended}: {}", es_core::chain(&error));
            assert!(error.to_string().contains("ended by SQL of its user"), "{ended}: {error}");
        }
    }
    assert_eq!(store.head().await.unwrap(), Position(0));
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn only_read_committed_can_append() {
    let (database, store) = fresh().await;
    for isolation in ["repeatable read", "serializable"] {
        let mut tx = store.begin().await.unwrap();
        let set = sqlx::AssertSqlSafe(format!("set transaction isolation level {isolation}"));
        sqlx::raw_sql(set).execute(&mut *tx).await.unwrap();
        *tx.staged() = commit("s");
        let error = refused(tx.commit().await);
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
        assert!(error.to_string().contains("only `read committed` can append"), "{error}");
    }
    // Another default of the account is overruled.
    let strict =
        "do $$ begin execute format('alter database %I set default_transaction_isolation = serializable',
                  current_database()); end $$";
    run(database.url(), strict).await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = commit("s");
    tx.commit().await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position(1));
}

#[tokio::test]
async fn a_constraint_that_waits_for_the_commit_refuses_rows_and_events() {
    let (database, store) = fresh().await;
    run(
        database.url(),
        "create table parents (id integer primary key);
         create table children (parent integer references parents deferrable initially deferred)",
    )
    .await;
    let mut tx = store.begin().await.unwrap();
    sqlx::query("insert into children values (1)").execute(&mut *tx).await.unwrap();
    *tx.staged() = commit("s");
    let error = refused(tx.commit().await);
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    assert_eq!(count(database.url(), "select count(*) from children").await, 0);
    assert_eq!(store.head().await.unwrap(), Position(0));
}

#[tokio::test]
async fn a_gate_that_nobody_opens_ends_in_a_transient_error() {
    let database = testing::database().await;
    // Long enough for a statement that waits for nothing.
    let short = Duration::from_millis(500);
    for (lock, statement) in [(short, LIMIT), (LIMIT, short)] {
        let store = with(&database, |o| o.with_lock_timeout(lock).with_statement_timeout(statement)).await;
        let held = Gate::hold(database.url()).await;
        let error = refused(timeout(LIMIT, store.commit(commit("s"))).await.unwrap());
        assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
        let mut tx = store.begin().await.unwrap();
        *tx.staged() = commit("s");
        let error = refused(timeout(LIMIT, tx.commit()).await.unwrap());
        assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
        // What does not touch the log waits for no gate.
        store.commit(Commit { rows: vec![row("k", 0, None)], ..Commit::default() }).await.unwrap();
        held.release().await;
        assert_eq!(store.head().await.unwrap(), Position(0));
        assert_sound(database.url(), &store).await;
    }
}

#[tokio::test]
async fn without_a_statement_timeout_a_transaction_may_take_its_time() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_statement_timeout(Duration::ZERO)).await;
    let mut tx = store.begin().await.unwrap();
    let idle: String = sqlx::query_scalar("select current_setting('idle_in_transaction_session_timeout')")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(idle, "0");
}

#[tokio::test]
async fn plans_of_the_store_survive_a_change_of_its_tables() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_readers(1)).await;
    let all = || async {
        store.commit(commit("s")).await.unwrap();
        store
            .commit(Commit { rows: vec![row(&new_id().to_string(), 0, Some("1"))], ..Commit::default() })
            .await
            .unwrap();
        let page = store.read(&EventFilter::all(), Position(0), 10).await.unwrap();
        assert_eq!(page.events.last().unwrap().position, Some(store.head().await.unwrap()));
        store.stream(&stream("s"), Version(0), 10).await.unwrap();
        store.rows("v/1", &["k".to_owned()]).await.unwrap();
    };
    all().await;
    for change in [
        "alter table es.events add column more text",
        "alter table es.events drop column more",
        "alter table es.rows add column more text",
        "drop index es.events_stream; create unique index events_stream on es.events (stream_id, version)",
    ] {
        run(database.url(), change).await;
        all().await;
    }
    // The result of the function itself changes: its plan cannot be used again.
    let again = "do $$ declare f text; begin
        select pg_get_functiondef('es.append'::regproc) into f;
        drop function es.append;
        execute replace(f, 'OUT refused integer[]', 'OUT refused integer[], OUT more integer');
        end $$";
    run(database.url(), again).await;
    all().await;
    assert_sound(database.url(), &store).await;
}

/// A projection that is built anew with other columns must not break the queries on it for good.
#[tokio::test]
async fn plans_of_queries_recover_from_a_table_that_was_made_anew() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_connections(1)).await;
    let read = || async { sqlx::query("select * from mine").fetch_all(&store.db()).await };
    run(database.url(), "create table mine (x integer)").await;
    read().await.unwrap();
    run(database.url(), "drop table mine; create table mine (x integer, y text)").await;
    // The statement that meets the change may fail, as after any change of a schema.
    drop(read().await);
    read().await.unwrap();
}

#[test]
fn a_password_stands_in_no_text() {
    let text = |url: &str| match PgOptions::new(url) {
        Ok(options) => format!("{options:?}"),
        Err(error) => format!("{error} {error:?} {}", es_core::chain(&error)),
    };
    for url in [
        "postgres://ada:s3cret@localhost/shop",
        "postgres://ada:s3cret@localhost:port/shop",
        "postgres://ada@localhost/shop?password=s3cret",
        "postgres://ada@localhost/shop?pasword=s3cret",
        "postgres://ada@localhost/shop?sslmode=s3cret&password=s3cret",
        "postgres://ada:pass?s3cret@localhost/shop",
        "postgres://ada:pass&s3cret?s3cret@localhost/shop",
        "postgres://ada:pass#s3cret@localhost/shop",
        "postgres://ada:s3cret%zz@localhost/shop",
        "mysql://ada:s3cret@localhost/shop",
        "host=localhost password=s3cret",
        "s3cret",
    ] {
        let said = text(url);
        assert!(!said.contains("s3cret"), "{url}: {said}");
    }
}

#[tokio::test]
async fn a_password_stands_in_no_debug_and_in_no_error() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap().unwrap();
    let database = server.database().await.unwrap();
    let driver: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let options = || PgOptions::from_driver(driver.clone().password("s3cret"));
    let store = PgBackend::connect_with(options()).await.unwrap();
    let tx = store.begin().await.unwrap();
    let mut texts = vec![format!("{store:?} {tx:?} {:?} {:?}", store.db(), options())];
    texts.push(format!("{:#?}", Arc::new(store.clone())));
    drop(tx);
    drop(server);
    let error = PgBackend::connect_with(options()).await.unwrap_err();
    texts.push(format!("{error:?} {}", es_core::chain(&error)));
    let error = refused(store.commit(commit("s")).await);
    texts.push(format!("{error:?} {}", es_core::chain(&error)));
    for text in texts {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_transient_error_and_a_wrong_database_is_not() {
    let gone = PgBackend::connect("postgres://ada@localhost:1/shop").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Transient, "{gone}");
    let database = testing::database().await;
    let driver: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let wrong = PgOptions::from_driver(driver.clone().database("nobody_made_this"));
    let wrong = PgBackend::connect_with(wrong).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Misuse, "{wrong}");
    let wrong = PgOptions::from_driver(driver.username("nobody_is_this"));
    let wrong = PgBackend::connect_with(wrong).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Misuse, "{wrong}");
}

fn quick_server() -> Server {
    ServerOptions::new().start().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_still_runs_behind_a_broken_connection_is_waited_for() {
    let server = tokio::task::spawn_blocking(quick_server).await.unwrap();
    let database = server.database().await.unwrap();
    let wire = Wire::to(&server);
    let store = PgBackend::connect_with(wire.options(&server, &database)).await.unwrap();
    let other = with(&database, |o| o.with_lock_timeout(Duration::from_millis(50))).await;
    let held = Gate::hold(database.url()).await;
    let running = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("s")).await }
    });
    until_count(database.url(), WAITING, 1).await;
    wire.cut();
    let CommitError::Unknown(attempt) = refused(running.await.unwrap()) else { panic!("it is unknown") };
    let error = other.resolve(&attempt).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "nobody can say yet: {error}");
    held.release().await;
    until_count(database.url(), "select count(*) from es.events", 1).await;
    assert!(matches!(other.resolve(&attempt).await.unwrap(), Resolution::Applied(_)));
    assert!(matches!(store.resolve(&attempt).await.unwrap(), Resolution::Applied(_)));
    assert_eq!(store.head().await.unwrap(), Position(1));
}

/// The caller names the attempt itself, since its future was dropped and told it nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_commit_that_still_runs_behind_a_broken_connection_is_not_called_never() {
    let server = tokio::task::spawn_blocking(quick_server).await.unwrap();
    let database = server.database().await.unwrap();
    let wire = Wire::to(&server);
    let options = wire.options(&server, &database).with_lock_timeout(Duration::from_millis(500));
    let store = PgBackend::connect_with(options).await.unwrap();
    let held = Gate::hold(database.url()).await;
    let lost = Commit { attempt: new_id(), ..commit("s") };
    let attempt = Attempt::of(lost.attempt, &lost);
    let running = tokio::spawn({
        let store = store.clone();
        async move { store.commit(lost).await }
    });
    until_count(database.url(), WAITING, 1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    wire.cut();
    let early = store.resolve(&attempt).await;
    held.release().await;
    until_count(database.url(), WAITING, 0).await;
    let late = timeout(LIMIT, async {
        loop {
            if let Ok(resolved) = store.resolve(&attempt).await {
                return resolved;
            }
        }
    });
    let late = late.await.unwrap();
    // Whoever waited for the gate behind that connection has ended by now.
    store.commit(commit("t")).await.unwrap();
    let applied = !store.stream(&stream("s"), Version(0), 1).await.unwrap().is_empty();
    assert_eq!(matches!(late, Resolution::Applied(_)), applied, "{late:?}");
    if let Ok(early) = early {
        assert_eq!(early, late, "it never changes its mind");
    }
}

/// A network that swallows everything: nobody says that the connection is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_any_more_is_given_up() {
    let server = tokio::task::spawn_blocking(quick_server).await.unwrap();
    let database = server.database().await.unwrap();
    let wire = Wire::to(&server);
    let patient = wire.options(&server, &database).with_statement_timeout(Duration::from_secs(1));
    let store = PgBackend::connect_with(patient).await.unwrap();
    store.commit(commit("s")).await.unwrap();
    let (mut begun, idle) = (store.begin().await.unwrap(), store.begin().await.unwrap());
    *begun.staged() = commit("s");
    idle.rollback().await.unwrap();
    wire.silence(true);
    let error = refused(timeout(LIMIT, begun.commit()).await.expect("it ends"));
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    for known in ["a connection", "none"] {
        let error = timeout(LIMIT, store.begin()).await.expect("it ends").map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "with {known}: {error}");
    }
    let error = refused(timeout(LIMIT, store.commit(commit("s"))).await.expect("it ends"));
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    let error = timeout(LIMIT, store.head()).await.expect("it ends").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    wire.silence(false);
    wire.cut();
    let went_on = async {
        while store.commit(commit("t")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, went_on).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn times_beyond_those_of_the_server_are_no_trouble() {
    let (_database, store) = fresh().await;
    store.commit(commit("s")).await.unwrap();
    assert_eq!(store.position_at(Timestamp::MIN).await.unwrap(), Position(0));
    assert_eq!(store.position_at(Timestamp::MAX).await.unwrap(), Position(1));
}

#[tokio::test]
async fn a_lookup_of_an_idle_transaction_that_the_server_ended_is_an_error_and_stores_nothing() {
    let (database, store) = fresh().await;
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = append("s", ExpectedVersion::Any, 3);
    let attempt = Attempt::of(new_id(), tx.staged());
    let mut killer = connect(database.url()).await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and state like 'idle in transaction%'";
    sqlx::query(kill).execute(&mut killer).await.unwrap();
    let error = refused(tx.commit().await);
    assert!(matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Transient), "{error}");
    assert_eq!(store.resolve(&attempt).await.unwrap(), Resolution::Never);
    assert_eq!(store.head().await.unwrap(), Position(0));
}

/// As in a `select!` whose other branch commits, too, or behind `buffer_unordered`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_nobody_polls_any_more_stops_no_other() {
    let (_database, store) = fresh().await;
    store.commit(commit("s")).await.unwrap();
    let mut first = Box::pin(store.commit(commit("s")));
    assert!(futures::poll!(first.as_mut()).is_pending());
    let second = timeout(Duration::from_secs(10), store.commit(commit("s"))).await;
    second.expect("the first one is kept, and not polled").unwrap();
    first.await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position(3));
}

/// Sessions that wait for a table while they run a statement like this.
fn waits_for(table: &str, statement: &str) -> String {
    format!(
        "select count(*) from pg_locks l join pg_stat_activity a using (pid)
         where a.datname = current_database() and l.relation = '{table}'::regclass and not l.granted
         and a.query like '%{statement}%'"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_comes_between_the_types_and_the_events_of_a_read_is_learned() {
    let (database, store) = fresh().await;
    let of = |name| {
        let mut one = commit("s");
        one.appends[0].events = vec![event(name)];
        one
    };
    let reader = with(&database, |options| options).await;
    store.commit(of("a.one")).await.unwrap();
    // It has read the event, whose type it does not know, and waits for the types.
    let mut types = connect(database.url()).await;
    sqlx::raw_sql("begin; lock table es.event_types in access exclusive mode")
        .execute(&mut types)
        .await
        .unwrap();
    let reading = tokio::spawn(async move { reader.stream(&stream("s"), Version(0), 10).await });
    until_count(database.url(), &waits_for("es.event_types", "from event_types"), 1).await;
    // It has the types, and waits for the events, of which there is one more then, of one more type.
    let mut tx = store.begin().await.unwrap();
    sqlx::query("lock table es.events in access exclusive mode").execute(&mut *tx).await.unwrap();
    sqlx::query("rollback").execute(&mut types).await.unwrap();
    until_count(database.url(), &waits_for("es.events", "streams"), 1).await;
    *tx.staged() = of("a.two");
    tx.commit().await.unwrap();
    let events = reading.await.unwrap().unwrap();
    assert_eq!(events.iter().map(|event| &*event.name).collect::<Vec<_>>(), ["a.one", "a.two"]);
}

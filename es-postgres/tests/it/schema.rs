//! The schema: how a store is made, who may open it, what it refuses, and the tables of projections beside it.

use es_core::ErrorKind;
use es_core::store::{
    Backend as _, Builds as _, Commit, EventFilter, EventStore as _, Position, StoreError, Tables,
    Transaction as _,
};
use es_postgres::testing::{self, Database};
use es_postgres::{PgBackend, PgOptions};

use crate::support::{
    LIMIT, WAITING, commit, connect, count, data, event, fresh, gate, row_of, run, step, try_run,
    until_count, with,
};

async fn not_opened(options: PgOptions) -> StoreError {
    match PgBackend::connect_with(options).await {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

fn options(database: &Database) -> PgOptions {
    PgOptions::new(database.url()).unwrap()
}

#[tokio::test]
async fn two_stores_in_two_schemas_of_one_database_do_not_meet() {
    let database = testing::database().await;
    let one = with(&database, |o| o.with_schema("shop").unwrap()).await;
    let two = with(&database, |o| o.with_schema("stock").unwrap()).await;
    assert_ne!(one.identity(), two.identity());
    // Neither waits for the gate of the other.
    let mut tx = one.begin().await.unwrap();
    *tx.staged() = commit("s");
    let both = futures::future::join(tx.commit(), two.commit(commit("s"))).await;
    assert_eq!((both.0.unwrap().position, both.1.unwrap().position), (Position(1), Position(1)));
    one.commit(commit("s")).await.unwrap();
    assert_eq!((one.head().await.unwrap(), two.head().await.unwrap()), (Position(2), Position(1)));
    let made = "select count(*) from pg_namespace where nspname in ('es', 'shop', 'stock')";
    assert_eq!(count(database.url(), made).await, 2);
    for store in [&one, &two] {
        assert_eq!(store.verify().await.unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_refused() {
    let (database, _store) = fresh().await;
    run(database.url(), "update es.store set schema = 999").await;
    for migrate in [true, false] {
        let error = not_opened(options(&database).with_migrate(migrate)).await;
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains("use a newer program"), "{error}");
    }
}

#[tokio::test]
async fn without_migrations_an_empty_database_is_refused_with_advice() {
    let database = testing::database().await;
    let error = not_opened(options(&database).with_migrate(false)).await;
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("with_migrate(true)"), "{error}");
    assert_eq!(count(database.url(), "select count(*) from pg_namespace where nspname = 'es'").await, 0);
    with(&database, |o| o).await;
    with(&database, |o| o.with_migrate(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openers_at_once_share_one_store() {
    let database = testing::database().await;
    let all = (0..8).map(|_| PgBackend::connect_with(options(&database)));
    let stores = futures::future::try_join_all(all).await.unwrap();
    assert!(stores.windows(2).all(|pair| pair[0].identity() == pair[1].identity()));
}

#[tokio::test]
async fn what_is_stored_is_neither_changed_nor_removed() {
    let (database, store) = fresh().await;
    store.commit(commit("s")).await.unwrap();
    for sql in [
        "update es.events set data = ''",
        "delete from es.events",
        "truncate es.events",
        "update es.streams set name = 'x'",
        "delete from es.streams",
        "truncate es.streams",
        "update es.event_types set name = 'x'",
        "delete from es.event_types where false",
        "truncate es.event_types",
    ] {
        let error = try_run(database.url(), sql).await.expect_err(sql).to_string();
        assert!(error.contains("is append-only"), "{sql}: {error}");
    }
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_account_without_privileges_is_told_what_it_lacks() {
    let (database, store) = fresh().await;
    store.commit(commit("s")).await.unwrap();
    let role = format!("nobody_{}", database.name());
    run(database.url(), &format!("create role {role} login")).await;
    let driver: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let theirs = || PgOptions::from_driver(driver.clone().username(&role));
    let error = not_opened(theirs()).await;
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert!(error.to_string().contains("the account lacks: usage on schema es"), "{error}");
    run(database.url(), &format!("grant usage on schema es to {role}")).await;
    let error = not_opened(theirs()).await.to_string();
    for lacking in [
        "select on \"es\".store",
        "insert on \"es\".events",
        "select on \"es\".events",
        "delete on \"es\".rows",
    ] {
        assert!(error.contains(lacking), "{lacking}: {error}");
    }
    run(database.url(), &format!("grant select on all tables in schema es to {role}")).await;
    let error = not_opened(theirs()).await.to_string();
    assert!(error.contains("insert on \"es\".events") && !error.contains("select on"), "{error}");
    run(database.url(), &format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn a_role_that_makes_no_schema_is_told_so() {
    let database = testing::database().await;
    let role = format!("nobody_{}", database.name());
    run(database.url(), &format!("create role {role} login")).await;
    let driver: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let error = not_opened(PgOptions::from_driver(driver.username(&role))).await;
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    run(database.url(), &format!("drop role {role}")).await;
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let database = testing::database().await;
    let name = format!("{}_ascii", database.name());
    let create = format!("create database {name} template template0 encoding 'SQL_ASCII' locale 'C'");
    run(database.url(), &create).await;
    let driver: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let error = not_opened(PgOptions::from_driver(driver.database(&name))).await;
    run(database.url(), &format!("drop database {name} with (force)")).await;
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("SQL_ASCII") && error.to_string().contains("UTF8"), "{error}");
}

#[tokio::test]
async fn people_can_read_the_log() {
    let (database, store) = fresh().await;
    let mut one = commit("order-1");
    one.appends[0].events[0].data = r#"{"amount": 3, "note": "ä \u0000"}"#.into();
    let id = one.appends[0].events[0].id;
    let mut raw = event("thing.raw");
    raw.codec = "raw".into();
    raw.data = b"\xff\x00"[..].into();
    one.appends[0].events.push(raw);
    store.commit(one).await.unwrap();
    let readable = format!(
        "select count(*) from es.log where (position, stream, version, type, schema) = (1, 'order-1', 1, 'thing.done', 1)
         and id = '{id}' and data like '%amount%' or (position = 2 and data is null)"
    );
    assert_eq!(count(database.url(), &readable).await, 2);
}

const BALANCES: &str = "create table balances (id text primary key, amount integer not null);
    create index balances_amount on balances (amount);
    create view rich as select * from balances where amount > 100";

async fn fill(store: &PgBackend) {
    let mut tx = store.begin().await.unwrap();
    sqlx::query("insert into balances values ('a', 1)").execute(&mut *tx).await.unwrap();
    tx.staged().rows.extend([step("balances/1~1", 0, 3), row_of("balances/1~1", "k", 0, Some("1"))]);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_tables_of_a_projection_are_made_once_and_again_by_a_reset() {
    let (database, store) = fresh().await;
    let rows = || count(database.url(), "select count(*) from balances");
    let v1 = Tables { name: "balances", version: 1, schema: BALANCES };
    store.install(&v1, 1).await.unwrap();
    fill(&store).await;
    store.install(&v1, 1).await.unwrap();
    assert_eq!(rows().await, 1, "a second start keeps the rows");
    let edited = Tables { schema: "create table balances (id text)", ..v1 };
    let error = store.install(&edited, 1).await.unwrap_err();
    assert!(error.to_string().contains("raise `version`"), "{error}");
    store.clear(&v1, 1, Commit::default()).await.unwrap();
    assert_eq!(rows().await, 0, "a reset does not");
    assert_eq!(data(&store, "balances/1~1", "k").await, None);
    assert!(data(&store, "checkpoints", "balances/1~1").await.is_some(), "that is for whoever clears");
    let forget = row_of("checkpoints", "balances/1~1", 1, None);
    store.commit(Commit { rows: vec![forget], ..Commit::default() }).await.unwrap();
    fill(&store).await;
    let v2 = Tables { version: 2, ..v1 };
    store.install(&v2, 1).await.unwrap();
    assert_eq!(rows().await, 1, "another version has its own tables");
    store.publish(&v2, Commit::default()).await.unwrap();
    assert_eq!(rows().await, 0);
    assert!(data(&store, "balances/1~1", "k").await.is_some());
    store.remove_version("balances", 1, Commit::default()).await.unwrap();
    assert_eq!(data(&store, "balances/1~1", "k").await, None);
    assert!(data(&store, "checkpoints", "balances/1~1").await.is_some(), "it fences workers of the old one");
    let renamed =
        Tables { name: "accounts", version: 1, schema: "create table if not exists balances (x integer)" };
    let error = store.install(&renamed, 1).await.unwrap_err();
    assert!(error.to_string().contains("belongs to somebody else"), "{error}");
    let broken = Tables { name: "broken", version: 1, schema: "create tabel" };
    let error = store.install(&broken, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("the schema of projection broken"), "{error}");
}

#[tokio::test]
async fn a_reset_that_somebody_depends_on_is_refused_and_changes_nothing() {
    let (database, store) = fresh().await;
    let v1 = Tables { name: "balances", version: 1, schema: BALANCES };
    store.install(&v1, 1).await.unwrap();
    fill(&store).await;
    run(database.url(), "create view mine as select * from balances").await;
    let error = store.clear(&v1, 1, Commit::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    assert!(error.to_string().contains("depend"), "{error}");
    assert_eq!(count(database.url(), "select count(*) from balances").await, 1);
    assert!(data(&store, "balances/1~1", "k").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_others_make_meanwhile_are_not_taken() {
    let (database, store) = fresh().await;
    let make = "create table mine (x integer); select pg_advisory_xact_lock_shared(42); create table mine_too (x integer)";
    let mut held = connect(database.url()).await;
    sqlx::query("select pg_advisory_lock(42)").execute(&mut held).await.unwrap();
    let tables = Tables { name: "mine", version: 1, schema: make };
    let installing = tokio::spawn({
        let store = store.clone();
        async move { store.install(&tables, 1).await }
    });
    until_count(database.url(), WAITING, 1).await;
    run(database.url(), "create table theirs (x integer)").await;
    sqlx::query("select pg_advisory_unlock(42)").execute(&mut held).await.unwrap();
    installing.await.unwrap().unwrap();
    store.clear(&tables, 1, Commit::default()).await.unwrap();
    store.remove_version("mine", 1, Commit::default()).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from theirs").await, 0);
    let left = "select count(*) from pg_tables where tablename in ('mine', 'mine_too')";
    assert_eq!(count(database.url(), left).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installers_at_once_make_the_tables_once() {
    let (database, store) = fresh().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let v1 = Tables { name: "balances", version: 1, schema: BALANCES };
    let all = [&store, &other, &store, &other].map(|store| store.install(&v1, 1));
    futures::future::try_join_all(all).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from balances").await, 0);
    assert_eq!(count(database.url(), "select count(*) from es.projections").await, 1);
    assert!(store.read(&EventFilter::all(), Position(0), 1).await.unwrap().events.is_empty());
}

/// Waits until the lock is given back, in the middle of its DDL.
const STOPS: &str = "create table halves (x integer); select pg_advisory_xact_lock_shared(42); create table wholes (x integer)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_installed_waits_for_no_change_of_another_projection() {
    let (database, store) = fresh().await;
    let tables = Tables { name: "balances", version: 1, schema: BALANCES };
    store.install(&tables, 1).await.unwrap();
    // As a removal that takes long holds it.
    let mut removal = connect(database.url()).await;
    let lock = format!("select pg_advisory_lock({} # hashtextextended('projections', 0))", gate());
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut removal).await.unwrap();
    tokio::time::timeout(LIMIT, store.install(&tables, 1)).await.expect("it is there").unwrap();
    // What is not there, or is another one, has to be looked at in turn.
    let edited = Tables { schema: "create table balances (x integer)", ..tables };
    let waits =
        [(tables, 2), (Tables { version: 2, ..tables }, 1), (edited, 1)].map(|(tables, generation)| {
            let store = store.clone();
            tokio::spawn(async move { store.install(&tables, generation).await })
        });
    until_count(database.url(), WAITING, 3).await;
    drop(removal);
    let [second, newer, edited] = waits;
    second.await.unwrap().unwrap();
    newer.await.unwrap().unwrap();
    let error = edited.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("raise `version`"), "{error}");
    assert_eq!(count(database.url(), "select count(*) from es.projections").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_installed_is_not_taken_for_installed() {
    let (database, store) = fresh().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let tables = Tables { name: "halves", version: 1, schema: STOPS };
    for killed in [true, false] {
        let mut held = connect(database.url()).await;
        sqlx::query("select pg_advisory_lock(42)").execute(&mut held).await.unwrap();
        let install = |store: &PgBackend| {
            let store = store.clone();
            tokio::spawn(async move { store.install(&tables, 1).await })
        };
        let first = install(&store);
        until_count(database.url(), WAITING, 1).await;
        let second = install(&other);
        until_count(database.url(), WAITING, 2).await;
        if killed {
            let kill = "select count(pg_terminate_backend(l.pid)) from pg_locks l join pg_database d on d.oid = l.database
                        where d.datname = current_database() and l.locktype = 'advisory' and not l.granted and l.objid = 42";
            assert_eq!(count(database.url(), kill).await, 1);
            first.await.unwrap().expect_err("its connection was closed");
        }
        drop(held);
        second.await.unwrap().unwrap();
        assert_eq!(count(database.url(), "select count(*) from halves, wholes").await, 0, "both are there");
        store.remove_version("halves", 1, Commit::default()).await.unwrap();
    }
}

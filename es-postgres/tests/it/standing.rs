//! What is kept beside the log is of the history that the store has: snapshots, what a read has begun with, connections.

use std::time::Duration;

use es_core::guard::{GuardRows as _, GuardedDatabase as _};
use es_core::store::{
    Backend as _, EventFilter, EventStore as _, ExpectedVersion, Position, Snapshot, SnapshotStore as _,
    Transaction as _, Version,
};
use es_postgres::testing::Database;
use es_postgres::{PgBackend, PgGuarded};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, Executor as _};

use crate::history::{CUT, read_only};
use crate::support::{append, commit, connect, count, fresh, new_id, run, stream, until_count, with};

async fn snapshot_at(store: &PgBackend, name: &str, version: u64) -> Snapshot {
    let event = store.stream(&stream(name), Version(version - 1), 1).await.unwrap()[0].id;
    snapshot(name, version, event)
}

fn snapshot(name: &str, version: u64, event: uuid::Uuid) -> Snapshot {
    let data = version.to_string().into();
    Snapshot { stream: stream(name), version: Version(version), event, schema: 1, data }
}

#[tokio::test]
async fn a_snapshot_of_an_event_that_is_gone_is_not_stored_and_gives_way() {
    let (database, store) = fresh().await;
    store.commit(append("s", ExpectedVersion::Any, 8)).await.unwrap();
    let good = snapshot_at(&store, "s", 7).await;
    store.put_snapshot(good.clone()).await.unwrap();
    // Of commits that were lost.
    for version in [8, 10] {
        store.put_snapshot(snapshot("s", version, new_id())).await.unwrap();
        assert_eq!(store.snapshot(&stream("s")).await.unwrap(), Some(good.clone()));
    }
    // One that was stored before they were.
    let lost = format!("update es.snapshots set version = 10, event = '{}'", new_id());
    run(database.url(), &lost).await;
    store.put_snapshot(good.clone()).await.unwrap();
    assert_eq!(store.snapshot(&stream("s")).await.unwrap(), Some(good));
}

#[tokio::test]
async fn a_snapshot_of_before_a_redaction_is_not_stored_after_it() {
    let (database, store) = fresh().await;
    store.commit(append("s", ExpectedVersion::Any, 3)).await.unwrap();
    let other = PgBackend::connect(database.url()).await.unwrap();
    let old = snapshot_at(&store, "s", 3).await;
    other.redact(&stream("s"), Version(2), "null".into()).await.unwrap();
    store.put_snapshot(old).await.unwrap();
    assert_eq!(other.snapshot(&stream("s")).await.unwrap(), None);
    // What is read from then on has what is there.
    let new = snapshot_at(&store, "s", 3).await;
    store.put_snapshot(new.clone()).await.unwrap();
    assert_eq!(other.snapshot(&stream("s")).await.unwrap(), Some(new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_meets_a_redaction_waits_for_it() {
    let (database, store) = fresh().await;
    store.commit(append("s", ExpectedVersion::Any, 3)).await.unwrap();
    let old = snapshot_at(&store, "s", 3).await;
    let mut conn = connect(database.url()).await;
    let mut redacts = conn.begin().await.unwrap();
    redacts.execute("select es.redact('s', 2, 'null')").await.unwrap();
    let puts = tokio::spawn({
        let (store, old) = (store.clone(), old.clone());
        async move { store.put_snapshot(old).await }
    });
    let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and l.relation = 'es.snapshots'::regclass and not l.granted";
    until_count(database.url(), waiting, 1).await;
    redacts.commit().await.unwrap();
    puts.await.unwrap().unwrap();
    assert_eq!(store.snapshot(&stream("s")).await.unwrap(), None);
}

/// The connection dies in the middle of a stream, which is not there when the next one asks for it.
#[tokio::test]
async fn a_read_that_is_asked_again_gives_nothing_of_its_first_try() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_readers(1).with_notify(false)).await;
    let mut commit = append("s", ExpectedVersion::Any, 3);
    let large = format!("\"{}\"", "x".repeat(200_000));
    commit.appends[0].events.iter_mut().for_each(|event| event.data = large.clone().into());
    store.commit(commit).await.unwrap();
    let dies = "
        create sequence es.deaths;
        create function es.dies() returns boolean language plpgsql volatile as $$
        begin
            if not (select is_called from es.deaths) and nextval('es.deaths') > 0 then
                perform pg_terminate_backend(pg_backend_pid());
                perform pg_sleep(60);
            end if;
            return true;
        end $$;
        alter table es.events rename to stored_events;
        alter table es.streams rename to stored_streams;
        create view es.events as select * from es.stored_events e where e.version <> 2 or es.dies();
        create view es.streams as select s.* from es.stored_streams s where not (select is_called from es.deaths)";
    // A connection that is idle dies.
    store.now().await.unwrap();
    run(database.url(), dies).await;
    let events = store.stream(&stream("s"), Version(0), 10).await.unwrap();
    assert_eq!(count(database.url(), "select last_value from es.deaths where is_called").await, 1);
    assert_eq!(events.len(), 0, "the stream is not there");
}

/// Two standbys of one primary that take over one after the other have the same place and the same token.
#[tokio::test]
async fn a_history_is_known_by_the_events_that_were_read_or_appended_beside_the_lanes() {
    for appends in [false, true] {
        let (database, other) = fresh().await;
        other.commit(append("s", ExpectedVersion::Any, 2)).await.unwrap();
        let store = with(&database, |o| o.with_readers(1).with_notify(false)).await;
        if appends {
            let mut tx = store.begin().await.unwrap();
            *tx.staged() = commit("s");
            tx.commit().await.unwrap();
        } else {
            store.read(&EventFilter::all(), Position(0), 10).await.unwrap();
        }
        let before = store.history();
        let lost = "begin; set local es.maintenance = on; delete from es.events where position >= 2; commit";
        run(database.url(), lost).await;
        run(database.url(), CUT).await;
        store.now().await.unwrap();
        assert_ne!(store.history(), before, "appends: {appends}");
    }
}

/// As an operator says it.
async fn another_history(database: &Database, store: &PgBackend) {
    let before = store.history();
    run(database.url(), "update es.history set generation = gen_random_uuid()").await;
    store.head().await.unwrap();
    assert_ne!(store.history(), before);
}

#[tokio::test]
async fn queries_leave_connections_of_another_history_too() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_connections(1).with_notify(false)).await;
    let backend = async || -> i32 {
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&store.db()).await.unwrap()
    };
    let first = backend().await;
    assert_eq!(backend().await, first);
    another_history(&database, &store).await;
    let next = backend().await;
    assert_ne!(next, first);
    assert_eq!(backend().await, next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_leaves_a_connection_of_another_history() {
    let (database, store) = fresh().await;
    let listens = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                   and query = 'select pg_backend_pid()' and state = 'idle'";
    until_count(database.url(), &format!("select count(*) {listens}"), 1).await;
    let first = count(database.url(), &format!("select pid::bigint {listens}")).await;
    another_history(&database, &store).await;
    until_count(database.url(), &format!("select count(*) {listens} and pid <> {first}"), 1).await;
    // What others write is heard there.
    let (other, mut head) = (PgBackend::connect(database.url()).await.unwrap(), store.watch());
    other.commit(commit("s")).await.unwrap();
    tokio::time::timeout(crate::support::LIMIT, head.wait_for(|head| *head == Position(1)))
        .await
        .unwrap()
        .unwrap();
}

/// A server says that it is read-only only to what writes, and a session that began so stays so.
#[tokio::test]
async fn a_guarded_call_leaves_no_connection_of_a_server_that_did_not_write() {
    let (database, _store) = fresh().await;
    run(database.url(), "create table notes (n int)").await;
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy(database.url()).unwrap();
    let guarded = PgGuarded::new(pool.clone()).with_lock_timeout(Duration::from_secs(5));
    for ends in ["rollback", "drop"] {
        read_only(&database, true).await;
        run(database.url(), CUT).await;
        let mut tx = guarded.begin().await.unwrap();
        let error = sqlx::query("insert into notes values (1)").execute(&mut *tx).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("25006"), "{ends}");
        match ends {
            "rollback" => tx.rollback().await.unwrap(),
            _ => drop(tx),
        }
        read_only(&database, false).await;
        let mut tx = guarded.begin().await.unwrap();
        sqlx::query("insert into notes values (1)").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(count(database.url(), "select count(*) from notes").await, 2);
}

//! Appends in a transaction of the user's own.

use es_core::ErrorKind;
use es_core::event::Tag;
use es_core::store::{
    Append, Backend as _, Check, Commit, CommitError, EventStore as _, ExpectedVersion, NewEvent, Position,
    Resolution, RowStore as _, Transaction as _, Version,
};
use es_postgres::PgBackend;
use es_postgres::testing;

use crate::support::{
    Gate, WAITING, append, assert_sound, commit, count, data, dropped_after, event, exact, fresh, ids, mark,
    refused, row, run, step, stream, until_count, with,
};

async fn with_table() -> (testing::Database, PgBackend) {
    let (database, store) = fresh().await;
    run(database.url(), "create table mine (x integer primary key)").await;
    (database, store)
}

async fn insert(tx: &mut es_postgres::Tx, x: i32) -> Result<(), sqlx::Error> {
    sqlx::query("insert into mine values ($1)").bind(x).execute(&mut **tx).await.map(drop)
}

async fn rows(url: &str) -> i64 {
    count(url, "select count(*) from mine").await
}

#[tokio::test]
async fn rows_and_everything_that_is_staged_commit_together() {
    let (database, store) = with_table().await;
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    *tx.staged() = Commit {
        outcomes: vec![mark("k", "s")],
        rows: vec![step("p", 0, 1), row("k", 0, Some("1"))],
        ..append("s", ExpectedVersion::NoStream, 2)
    };
    let committed = tx.commit().await.unwrap();
    assert_eq!((committed.position, committed.versions), (Position(2), vec![Version(2)]));
    assert_eq!(rows(database.url()).await, 1);
    assert!(data(&store, "checkpoints", "p").await.unwrap().contains(r#""position":1"#));
    assert_eq!(store.rows("v/1", &["k".to_owned()]).await.unwrap()[0].as_ref().unwrap().rev, 1);
    assert!(store.outcome(&mark("k", "s").key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_transaction_that_appends_nothing_says_where_the_head_is() {
    let (_database, store) = with_table().await;
    assert_eq!(store.begin().await.unwrap().commit().await.unwrap().position, Position(0));
    store.commit(append("s", ExpectedVersion::NoStream, 2)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    let committed = tx.commit().await.unwrap();
    assert_eq!((committed.position, committed.versions), (Position(2), Vec::new()));
}

#[tokio::test]
async fn going_back_to_a_savepoint_cuts_back_what_was_staged_since() {
    let (database, store) = with_table().await;
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = commit("kept");
    insert(&mut tx, 1).await.unwrap();
    let first = tx.savepoint().await.unwrap();
    tx.staged().appends.extend(commit("undone").appends);
    insert(&mut tx, 2).await.unwrap();
    let second = tx.savepoint().await.unwrap();
    insert(&mut tx, 3).await.unwrap();
    // Also after a statement that failed.
    assert!(insert(&mut tx, 3).await.is_err());
    tx.rollback_to(&second).await.unwrap();
    assert_eq!(tx.staged().appends.len(), 2);
    tx.rollback_to(&first).await.unwrap();
    assert_eq!(tx.staged().appends.len(), 1);
    // The later one went with it.
    assert!(tx.rollback_to(&second).await.is_err());
    tx.rollback_to(&first).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(rows(database.url()).await, 1);
    assert_eq!(count(database.url(), "select count(*) from es.log where stream = 'undone'").await, 0);
}

#[tokio::test]
async fn going_back_that_is_dropped_half_way_keeps_rows_and_events_together() {
    let (database, store) = with_table().await;
    let mut committed = 0;
    for polls in 0..10 {
        let mut tx = store.begin().await.unwrap();
        let before = tx.savepoint().await.unwrap();
        insert(&mut tx, polls).await.unwrap();
        *tx.staged() = commit("s");
        let done = dropped_after(usize::try_from(polls).unwrap(), tx.rollback_to(&before)).await.is_some();
        if tx.commit().await.is_ok() {
            committed += 1;
        }
        assert_eq!(rows(database.url()).await, i64::try_from(store.head().await.unwrap().0).unwrap());
        if done {
            break;
        }
    }
    assert!(committed > 0, "what was gone back to can be committed");
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back_and_its_connection_is_free() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_connections(1)).await;
    run(database.url(), "create table mine (x integer primary key)").await;
    for failed in [false, true] {
        let mut tx = store.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        assert_eq!(insert(&mut tx, if failed { 1 } else { 2 }).await.is_err(), failed);
        *tx.staged() = commit("s");
        drop(tx);
    }
    let tx = store.begin().await.unwrap();
    std::thread::spawn(move || drop(tx)).join().unwrap();
    store.begin().await.unwrap().rollback().await.unwrap();
    assert_eq!(rows(database.url()).await, 0);
    assert_eq!(store.head().await.unwrap(), Position(0));
    assert_sound(database.url(), &store).await;
}

#[test]
fn a_transaction_that_outlives_its_runtime_is_dropped_in_peace() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, tx) = runtime.block_on(async {
        let (database, store) = fresh().await;
        (database, store.begin().await.unwrap())
    });
    drop(runtime);
    drop(tx);
    drop(database);
}

#[tokio::test]
async fn a_store_tells_its_transactions_from_those_of_another() {
    let (_database, one) = fresh().await;
    let (_other, two) = fresh().await;
    let tx = two.begin().await.unwrap();
    assert_eq!(tx.identity(), two.identity());
    assert_ne!(tx.identity(), one.identity());
}

#[tokio::test]
async fn nobody_waits_for_an_open_transaction() {
    let (database, store) = with_table().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    *tx.staged() = exact("s", 0);
    store.commit(commit("t")).await.unwrap();
    other.commit(commit("t")).await.unwrap();
    let mut second = other.begin().await.unwrap();
    insert(&mut second, 2).await.unwrap();
    *second.staged() = exact("u", 0);
    second.commit().await.unwrap();
    assert_eq!(tx.commit().await.unwrap().position, Position(4));
    assert_sound(database.url(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_transactions_on_the_same_rows_one_waits_for_the_other() {
    let (database, store) = with_table().await;
    run(database.url(), "insert into mine values (1), (2)").await;
    let update = |x: i32| sqlx::query("update mine set x = x where x = $1").bind(x);
    let mut first = store.begin().await.unwrap();
    update(1).execute(&mut *first).await.unwrap();
    let mut second = store.begin().await.unwrap();
    update(2).execute(&mut *second).await.unwrap();
    let waiting = tokio::spawn(async move {
        let done = update(1).execute(&mut *second).await;
        *second.staged() = exact("s", 1);
        (done.is_ok(), second.commit().await)
    });
    let locked = "select count(*) from pg_stat_activity
                  where datname = current_database() and wait_event_type = 'Lock'";
    until_count(database.url(), locked, 1).await;
    *first.staged() = exact("s", 0);
    first.commit().await.unwrap();
    let (updated, committed) = waiting.await.unwrap();
    assert!(updated);
    assert_eq!(committed.unwrap().versions, [Version(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_transactions_that_wait_for_each_other_one_is_transient_and_stores_nothing() {
    let (database, store) = with_table().await;
    run(database.url(), "insert into mine values (1), (2)").await;
    let tasks = [(1, 2), (2, 1)].map(|(mine, theirs)| {
        let store = store.clone();
        tokio::spawn(async move {
            let update = |x: i32| sqlx::query("update mine set x = x where x = $1").bind(x);
            let mut tx = store.begin().await.unwrap();
            update(mine).execute(&mut *tx).await.unwrap();
            // Both have their first row before either asks for its second.
            let meet = sqlx::query("select pg_advisory_lock_shared(1)");
            meet.execute(&mut *tx).await.unwrap();
            let second = update(theirs).execute(&mut *tx).await.is_ok();
            *tx.staged() = commit("s");
            let committed = tx.commit().await;
            assert_eq!(second, committed.is_ok());
            u64::from(second)
        })
    });
    let done: u64 = futures::future::try_join_all(tasks).await.unwrap().iter().sum();
    assert!(done >= 1);
    assert_eq!(store.head().await.unwrap(), Position(done));
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn what_is_refused_is_told_as_by_the_first_door() {
    let (database, store) = with_table().await;
    let stored = exact("s", 0);
    store.commit(Commit { outcomes: vec![mark("k", "s")], ..stored.clone() }).await.unwrap();
    let check = Check { stream: stream("s"), expected: ExpectedVersion::NoStream };
    let cases = [
        exact("s", 7),
        Commit { checks: vec![check], ..commit("t") },
        Commit { outcomes: vec![mark("k", "s")], ..commit("t") },
        Commit { rows: vec![step("p", 3, 4)], ..commit("t") },
        Commit { inline: 3, ..commit("t") },
        Commit { rows: vec![row("k", 5, None)], ..commit("t") },
    ];
    for case in cases {
        let mut tx = store.begin().await.unwrap();
        insert(&mut tx, 1).await.unwrap();
        *tx.staged() = case.clone();
        let second = refused(tx.commit().await);
        let first = refused(store.commit(case).await);
        assert_eq!(second.to_string(), first.to_string());
    }
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = stored;
    assert_eq!(refused(tx.commit().await).kind(), ErrorKind::Misuse, "the rows would be stored twice");
    assert_eq!(rows(database.url()).await, 0);
    assert_eq!(store.head().await.unwrap(), Position(1));
    assert_sound(database.url(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_connection_dies_in_its_commit_is_unknown_and_then_never() {
    let (database, store) = with_table().await;
    let held = Gate::hold(database.url()).await;
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    *tx.staged() = commit("s");
    let running = tokio::spawn(tx.commit());
    until_count(database.url(), WAITING, 1).await;
    let kill = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and not granted
                and database = (select oid from pg_database where datname = current_database())";
    run(database.url(), kill).await;
    let CommitError::Unknown(attempt) = refused(running.await.unwrap()) else { panic!("it is unknown") };
    held.release().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    assert_eq!(other.resolve(&attempt).await.unwrap(), Resolution::Never);
    assert_eq!(store.resolve(&attempt).await.unwrap(), Resolution::Never);
    assert_eq!((rows(database.url()).await, store.head().await.unwrap()), (0, Position(0)));
}

/// What is staged travels as text. Whatever stands in it stays what it is.
#[tokio::test]
async fn names_and_bytes_cannot_break_out_of_the_last_message() {
    let (_database, store) = fresh().await;
    let texts = [
        r"it's",
        r"''",
        r"\'",
        r"\\'; drop schema es cascade; --",
        r#"a"b"#,
        r#"{"x","y"}"#,
        "NULL",
        "null",
        "{}",
        r"\x00",
        "$1",
        "$$",
        "%s",
        "ä ö 你好 🎉",
        "e\u{301}",
        " lead",
        "trail ",
        r"\",
        r"\\",
        r#"\""#,
        ",",
        "{,}",
        "\u{feff}",
    ];
    for off in [false, true] {
        for text in texts {
            let name = format!("{text}{off}");
            let bytes: Vec<u8> = (0..=255).chain(text.bytes()).collect();
            let sent = NewEvent {
                data: bytes.clone().into(),
                codec: "raw".into(),
                tags: vec![Tag::new("t", text.trim()).unwrap_or_else(|_| Tag::parse("t:x").unwrap())],
                ..event("thing.done")
            };
            let mut tx = store.begin().await.unwrap();
            if off {
                sqlx::raw_sql("set local standard_conforming_strings = off").execute(&mut *tx).await.unwrap();
            }
            *tx.staged() = Commit {
                appends: vec![Append {
                    stream: stream(&name),
                    expected: ExpectedVersion::NoStream,
                    events: vec![sent.clone()],
                }],
                outcomes: vec![mark(&name, &name)],
                rows: vec![step(&name, 0, 1), row(&name, 0, Some(r"\'x"))],
                ..Commit::default()
            };
            tx.commit().await.unwrap_or_else(|e| panic!("{name}: {}", es_core::chain(&e)));
            let found = store.stream(&stream(&name), Version(0), 10).await.unwrap();
            assert!(sent.is_same(&found[0]), "{name}");
            assert!(data(&store, "checkpoints", &name).await.is_some(), "{name}");
            let found = store.outcome(&mark(&name, &name).key).await.unwrap().unwrap();
            assert_eq!(found.stream, stream(&name));
            let found = store.rows("v/1", &[name]).await.unwrap();
            assert_eq!(&found[0].as_ref().unwrap().data[..], br"\'x");
        }
    }
}

#[tokio::test]
async fn a_transaction_without_anything_staged_waits_for_no_gate() {
    let (database, store) = with_table().await;
    let held = Gate::hold(database.url()).await;
    let mut tx = store.begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.staged().rows = vec![row("k", 0, Some("1"))];
    tx.commit().await.unwrap();
    held.release().await;
    assert_eq!(rows(database.url()).await, 1);
    let mut tx = store.begin().await.unwrap();
    let staged = commit("s");
    let id = ids(&staged)[0];
    *tx.staged() = staged;
    tx.commit().await.unwrap();
    assert_eq!(store.stream(&stream("s"), Version(0), 1).await.unwrap()[0].id, id);
}

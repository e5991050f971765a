//! Commits of rows wake whoever watches them: in this process at once, in others by a notification.

use std::time::Duration;

use es_core::processor::Slices;
use es_core::store::{
    Backend as _, Builds as _, Commit, EventStore as _, Position, RowStore as _, Tables, Touched,
    Transaction as _,
};
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use crate::support::{LIMIT, commit, fresh, row_of, run, until_count, with};

const SLICES: Slices = Slices { first: 5, last: 7 };

fn rows(table: &str, key: &str) -> Commit {
    Commit { rows: vec![row_of(table, key, 0, Some("1"))], ..Commit::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_another_process_wake_without_a_poll() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o).await;
    let listening = "select count(*) from pg_stat_activity
                     where datname = current_database() and query like 'select pg_backend_pid%'";
    until_count(database.url(), listening, 2).await;
    let mut jobs = other.watch_rows("jobs", SLICES);
    let mut elsewhere =
        [other.watch_rows("jobs", Slices { first: 8, last: 9 }), other.watch_rows("hot.jobs", SLICES)];
    let settle = Duration::from_millis(200);
    tokio::time::sleep(settle).await;
    jobs.mark_unchanged();
    elsewhere.iter_mut().for_each(|wake| wake.mark_unchanged());
    store.commit(rows("jobs", "0007:a")).await.unwrap();
    timeout(LIMIT, jobs.changed()).await.expect("a notification").unwrap();
    tokio::time::sleep(settle).await;
    assert!(elsewhere.iter().all(|wake| !wake.has_changed().unwrap()), "nobody else is woken");
    // And through a transaction, with events, and hot ones.
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = Commit { rows: rows("hot.jobs", "0005:a").rows, ..commit("s") };
    tx.commit().await.unwrap();
    timeout(LIMIT, elsewhere[1].changed()).await.expect("a notification").unwrap();
    let mut head = other.watch();
    timeout(LIMIT, head.wait_for(|head| *head == Position(1))).await.expect("and the head").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_in_the_same_process_is_woken_by_the_commit_itself() {
    let (database, _) = fresh().await;
    let store = with(&database, |o| o.with_notify(false)).await;
    let mut wake = store.watch_rows("jobs", SLICES);
    store.commit(rows("jobs", "0007:a")).await.unwrap();
    assert!(wake.has_changed().unwrap());
    wake.mark_unchanged();
    store.commit(rows("jobs", "0008:a")).await.unwrap();
    assert!(!wake.has_changed().unwrap());
    let tables = Tables { name: "p", version: 1, schema: "" };
    store.install(&tables, 1).await.unwrap();
    let mut view = store.watch_rows(&tables.rows(1), Slices::ALL);
    store.clear(&tables, 1, Commit::default()).await.unwrap();
    assert!(view.has_changed().unwrap(), "rows that are cleared are not named");
    view.mark_unchanged();
    store.switch(&tables, 1, rows(&tables.rows(1), "k")).await.unwrap();
    assert!(view.has_changed().unwrap());
}

/// What is lost with a connection is made up for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lost_connection_everybody_looks() {
    let (database, _store) = fresh().await;
    let other = with(&database, |o| o).await;
    let listening = "select count(*) from pg_stat_activity
                     where datname = current_database() and query like 'select pg_backend_pid%'";
    until_count(database.url(), listening, 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut wake = other.watch_rows("jobs", SLICES);
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and query like 'select pg_backend_pid%'";
    run(database.url(), kill).await;
    timeout(LIMIT, wake.changed()).await.expect("it looks by itself").unwrap();
}

/// Programs of the version before understand numbers alone, so the head is a notification of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_a_number_or_says_which_rows() {
    let (database, store) = fresh().await;
    let mut listener = PgListener::connect(database.url()).await.unwrap();
    listener.listen("es_es").await.unwrap();
    store.commit(Commit { rows: rows("jobs", "0007:a").rows, ..commit("s") }).await.unwrap();
    let head = timeout(LIMIT, listener.recv()).await.unwrap().unwrap();
    assert_eq!(head.payload(), "1");
    let touched = timeout(LIMIT, listener.recv()).await.unwrap().unwrap();
    assert_eq!(touched.payload(), "jobs\t7-7,\n");
    assert_eq!(Touched::parse(touched.payload()), Touched::by(&rows("jobs", "0007:b").rows));
    // From a program of the version before.
    run(database.url(), "select pg_notify('es_es', '77')").await;
    let mut head = store.watch();
    timeout(LIMIT, head.wait_for(|head| *head == Position(77))).await.unwrap().unwrap();
    // More than a notification holds.
    let many = (0..900).map(|i| row_of(&format!("table-number-{i}"), "0001:a", 0, Some("1"))).collect();
    store.commit(Commit { rows: many, ..Commit::default() }).await.unwrap();
    let mut payload = String::new();
    while payload != "*" {
        payload = timeout(LIMIT, listener.recv()).await.unwrap().unwrap().payload().to_owned();
    }
}

/// Each notification takes a lock of the whole cluster: what changes all the time, and nobody waits for, causes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_goes_with_what_somebody_does() {
    let (database, store) = fresh().await;
    let mut listener = PgListener::connect(database.url()).await.unwrap();
    listener.listen("es_es").await.unwrap();
    let mut here = store.watch_rows("checkpoints", Slices::ALL);
    let busy = ["checkpoints", "es.shares", "nodes", "v/1~1", "v/1~1/parked", "v/1~1/parked/events"];
    for rev in 0..100 {
        for table in busy {
            let rows = vec![row_of(table, "0007:a", rev, Some("1"))];
            store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
        }
        assert!(here.has_changed().unwrap(), "who waits in the same process is woken");
        here.mark_unchanged();
    }
    let quiet = timeout(Duration::from_millis(200), listener.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    for (i, table) in
        ["v/1~1/requests", "v/1~1/afresh", "es.control", "generations", "asked", "hot.jobs", "jobs"]
            .into_iter()
            .enumerate()
    {
        store.commit(rows(table, "0007:a")).await.unwrap();
        let touched = timeout(LIMIT, listener.recv()).await.expect(table).unwrap();
        let touched = Touched::parse(touched.payload());
        let mut expected = Touched::by(&rows(table, "0007:a").rows);
        if i == 0 {
            busy.iter().for_each(|table| expected.extend(Touched::by(&rows(table, "0007:a").rows)));
        }
        assert_eq!(touched, expected, "at once, and what has waited goes with the first");
    }
    // The head is told at once as well.
    store.commit(rows("v/1~2", "0007:a")).await.unwrap();
    store.commit(commit("s")).await.unwrap();
    assert_eq!(timeout(LIMIT, listener.recv()).await.unwrap().unwrap().payload(), "1");
    assert_eq!(timeout(LIMIT, listener.recv()).await.unwrap().unwrap().payload(), "v/1~2\t7-7,\n");
}

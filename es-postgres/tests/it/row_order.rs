//! Writers of rows take their turns in one order, whether the rows are there or not, and before the gate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use es_core::ErrorKind;
use es_core::store::{
    Backend as _, Builds as _, Commit, CommitError, EventStore as _, RowWrite, Tables, Transaction as _,
};
use es_postgres::PgBackend;
use sqlx::Executor as _;

use crate::support::{
    assert_sound, commit, connect, count, data, fresh, mark, row, row_of, step, until_count, with,
};

const DEADLOCKS: &str = "select deadlocks from pg_stat_database where datname = current_database()";
/// Of different places in the order; hot ones are in a table of their own.
const TABLES: [&str; 4] = ["hot.a", "orders/1~1", "balances/1~1", "hot.z"];

/// Writes, makes or deletes a row as it is now. Another writer is often faster.
async fn change(store: &PgBackend, dice: &mut u64, key: u64) -> RowWrite {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let table = TABLES[usize::try_from(key % 4).unwrap()];
    let key = format!("{key:02}");
    let data = (*dice >> 33).is_multiple_of(2).then_some("1");
    row_of(table, &key, rev(store, table, &key).await, data)
}

/// Rows that are there, that are not, and that go, under commits with and without events, keys, and transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_the_same_rows_never_wait_for_each_other_in_a_circle() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o.with_notify(false)).await;
    let (written, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let writers = (0..16_u64).map(|writer| {
        let (store, written, refused) = (if writer % 2 == 0 { &store } else { &other }, &written, &refused);
        async move {
            let mut dice = writer;
            for round in 0..60 {
                let mut rows = Vec::new();
                for key in (0..12).filter(|key| (writer + round + key) % 3 > 0) {
                    rows.push(change(store, &mut dice, key).await);
                }
                rows.truncate(1 + usize::try_from((writer + round) % 4).unwrap());
                if writer % 4 > 1 {
                    rows.reverse();
                }
                let mut one = if (writer + round) % 3 == 0 { commit("log") } else { Commit::default() };
                one.rows = rows;
                if round % 5 == 0 {
                    one.outcomes = (0..3).map(|i| mark(&format!("{writer}-{round}-{i}"), "log")).collect();
                }
                let outcome = if round % 7 == 0 {
                    let mut tx = store.begin().await.unwrap();
                    *tx.staged() = one;
                    tx.commit().await
                } else {
                    store.commit(one).await
                };
                match outcome {
                    Ok(_) => written.fetch_add(1, Ordering::Relaxed),
                    Err(CommitError::Fenced { .. }) => refused.fetch_add(1, Ordering::Relaxed),
                    // What refused a transaction may be gone again when it is looked for.
                    Err(error) if error.kind() == ErrorKind::Transient => 0,
                    Err(error) => panic!("{}", es_core::chain(&error)),
                };
            }
        }
    });
    futures::future::join_all(writers).await;
    let (written, refused) = (written.into_inner(), refused.into_inner());
    assert!(written > 50 && refused > 50, "{written} written, {refused} refused");
    // The server counts with some delay.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count(database.url(), DEADLOCKS).await, 0);
    let lost = "select count(*) from (select tbl, key, rev from es.rows union all select tbl, key, rev from es.hot_rows) r
                where r.rev < 1";
    assert_eq!(count(database.url(), lost).await, 0, "no place that was held for a row is left");
    assert_sound(database.url(), &store).await;
}

/// A generation that is emptied while its rows are written, on either side of its place in the order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_empty_a_generation_waits_for_no_writer_in_a_circle() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o.with_notify(false)).await;
    let schema = "";
    let all =
        [Tables { name: "balances", version: 1, schema }, Tables { name: "orders", version: 1, schema }];
    for tables in &all {
        store.install(tables, 1).await.unwrap();
    }
    let writers = all.iter().flat_map(|tables| [(tables, true), (tables, false)]).map(|(tables, clears)| {
        let (store, table) = (if clears { &store } else { &other }, tables.rows(1));
        async move {
            for round in 0..40 {
                let checkpoint =
                    step(&table, u64::from(round > 0) * rev(store, "checkpoints", &table).await, round);
                let outcome = if clears {
                    store.clear(tables, 1, Commit { rows: vec![checkpoint], ..Commit::default() }).await
                } else {
                    let made = (0..5).map(|key| row_of(&table, &format!("{key}"), 0, Some("1")));
                    let rows = made.chain([checkpoint]).collect();
                    store.commit(Commit { rows, ..Commit::default() }).await
                };
                // Each has seen the rows before the other wrote them.
                assert!(
                    outcome.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Conflict),
                    "{outcome:?}"
                );
            }
        }
    });
    futures::future::join_all(writers).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count(database.url(), DEADLOCKS).await, 0);
}

async fn rev(store: &PgBackend, table: &str, key: &str) -> u64 {
    use es_core::store::RowStore as _;
    store.rows(table, &[key.to_owned()]).await.unwrap()[0].as_ref().map_or(0, |row| row.rev)
}

/// Whoever waits for a row holds no gate: others append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_a_row_which_is_not_there_yet_does_not_hold_the_gate() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o).await;
    let mut maker = connect(database.url()).await;
    maker.execute("begin; insert into es.rows values ('v/1', 'k', 1, '1')").await.unwrap();
    let running = tokio::spawn(async move {
        store.commit(Commit { rows: vec![row("k", 0, Some("2"))], ..commit("s") }).await
    });
    let waits = "select count(*) from pg_stat_activity where datname = current_database()
                 and wait_event_type = 'Lock' and query like '%append(%'";
    until_count(database.url(), waits, 1).await;
    other.commit(commit("t")).await.unwrap();
    maker.execute("rollback").await.unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(data(&other, "v/1", "k").await.as_deref(), Some("2"));
}

/// What the rest refuses takes the rows back with it, and gives its locks free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_commit_that_is_refused_for_something_else_are_as_they_were() {
    let (database, store) = fresh().await;
    store
        .commit(Commit {
            rows: vec![row("there", 0, Some("1")), row_of("hot.q", "a", 0, Some("1"))],
            ..commit("s")
        })
        .await
        .unwrap();
    let rows = vec![
        row("there", 1, Some("2")),
        row("new", 0, Some("1")),
        row("gone", 0, None),
        row_of("hot.q", "a", 1, None),
    ];
    let wrong = Commit { rows: rows.clone(), ..crate::support::exact("s", 7) };
    assert_eq!(crate::support::refused(store.commit(wrong).await).kind(), ErrorKind::Conflict);
    let named = Commit { inline: 9, rows: rows.clone(), ..commit("s") };
    assert!(matches!(
        crate::support::refused(store.commit(named).await),
        CommitError::Inline { stored: 0, named: 9 }
    ));
    assert_eq!(data(&store, "v/1", "there").await.as_deref(), Some("1"));
    assert_eq!(data(&store, "v/1", "new").await, None);
    assert_eq!(data(&store, "hot.q", "a").await.as_deref(), Some("1"));
    store.commit(Commit { rows, ..commit("s") }).await.unwrap();
    assert_eq!(data(&store, "v/1", "there").await.as_deref(), Some("2"));
    assert_eq!(data(&store, "hot.q", "a").await, None);
    assert_eq!(count(database.url(), "select count(*) from es.rows").await, 2);
}

/// The set of inline projections is a row as well: who names it in the commit that changes it, names it as it was.
#[tokio::test]
async fn the_inline_set_is_named_as_it_was_before_the_commit_that_changes_it() {
    let (_database, store) = fresh().await;
    for (rev, named, fits) in [(0, 1, false), (0, 0, true), (1, 0, false), (1, 2, false), (1, 1, true)] {
        let set = row_of("inline", "set", rev, Some("{}"));
        let outcome = store.commit(Commit { inline: named, rows: vec![set], ..commit("s") }).await;
        assert_eq!(outcome.is_ok(), fits, "{rev} {named}: {outcome:?}");
    }
}

#[tokio::test]
async fn hot_rows_are_in_a_table_of_their_own_which_no_projection_touches() {
    let (database, store) = fresh().await;
    let tables = Tables { name: "hot.p", version: 1, schema: "" };
    store.install(&tables, 1).await.unwrap();
    let rows = ["hot.p", "hot.p/1~1", "hot.p/1~1/requests", "es.own", "es.own/1~1"];
    let made = rows.map(|table| row_of(table, "k", 0, Some("1"))).to_vec();
    store.commit(Commit { rows: made, ..Commit::default() }).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from es.hot_rows where tbl = 'hot.p'").await, 1);
    assert_eq!(count(database.url(), "select count(*) from es.hot_rows").await, 1);
    store.clear(&tables, 1, Commit::default()).await.unwrap();
    store.clear(&Tables { name: "es.own", ..tables }, 1, Commit::default()).await.unwrap();
    store.install(&Tables { version: 2, ..tables }, 1).await.unwrap();
    let mut left = Vec::new();
    for table in rows {
        left.push(data(&store, table, "k").await.is_some());
    }
    assert_eq!(left, [true, false, false, true, true]);
}

/// A name may stand for a table of either kind.
#[tokio::test]
async fn a_name_leads_to_hot_rows_as_well() {
    let (_database, store) = fresh().await;
    let rows = vec![row_of("current", "queue", 0, Some("hot.q")), row_of("hot.q", "a", 0, Some("1"))];
    store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
    use es_core::store::{RowStore as _, Span};
    assert_eq!(data(&store, "queue", "a").await.as_deref(), Some("1"));
    assert_eq!(store.scan("queue", None, 10).await.unwrap().len(), 1);
    let span = Span { limit: 10, ..Span::default() };
    assert_eq!(store.scan_many("queue", &[span]).await.unwrap()[0].len(), 1);
}

/// Writers of keys alone take their turns in the order of the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_taken_in_one_order() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o).await;
    for round in 0..30 {
        let key = |i| mark(&format!("{round}-{i}"), "s");
        let one = Commit { outcomes: (0..40).map(key).collect(), ..Commit::default() };
        let two = Commit { outcomes: (0..40).rev().map(key).collect(), ..Commit::default() };
        let both = futures::future::join(store.commit(one), other.commit(two)).await;
        assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count(database.url(), DEADLOCKS).await, 0);
}

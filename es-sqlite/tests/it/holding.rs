//! The one writer: who waits for it, who would wait in vain, and for how long it is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use es_core::prelude::*;
use es_core::store::{Commit, CommitError, Position};
use es_sqlite::{SqliteBackend, Tx};

use crate::bank::{Deposit, Deposited, Totals};
use crate::files::commit;

const LIMIT: Duration = Duration::from_secs(60);

async fn open() -> SqliteBackend {
    SqliteBackend::open(":memory:").await.unwrap()
}

fn assert_refused<T: std::fmt::Debug>(refused: Result<T, impl Into<CommitError>>) {
    let refused = refused.map_err(Into::into).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Misuse, "{refused}");
    assert!(refused.to_string().contains("would wait for itself"), "{refused}");
}

/// Holds a transaction over some awaits.
async fn transaction(store: &SqliteBackend) {
    let mut tx = store.begin().await.unwrap();
    for _ in 0..3 {
        sqlx::query("create table if not exists mine (x)").execute(&mut *tx).await.unwrap();
        tokio::task::yield_now().await;
    }
    *tx.staged() = commit("a");
    tx.commit().await.unwrap();
}

/// Futures of one task that write, some with a transaction and some without.
async fn joined(store: SqliteBackend) {
    for _ in 0..5 {
        let single = async || drop(store.commit(commit("b")).await.unwrap());
        tokio::join!(transaction(&store), single(), transaction(&store));
        tokio::join!(single(), transaction(&store), single());
        let all = (0..40).map(|i| {
            let store = &store;
            async move {
                match i % 2 {
                    0 => transaction(store).await,
                    _ => drop(store.commit(commit("b")).await.unwrap()),
                }
            }
        });
        futures::future::join_all(all).await;
    }
    assert_eq!(store.head().await.unwrap(), Position(5 * 46));
}

#[tokio::test]
async fn futures_joined_in_one_task_write_one_after_the_other() {
    joined(open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_joined_in_one_task_among_others_write_one_after_the_other() {
    let store = open().await;
    tokio::spawn(joined(store)).await.unwrap();
    joined(open().await).await;
}

/// Each of these commands has a transaction of its own, for the inline projection.
#[tokio::test]
async fn commands_joined_in_one_task_are_all_done() {
    let app = App::on(open().await).inline_projection(Totals::default()).start().await.unwrap();
    let (ada, bob) = ("ada".to_owned(), "bob".to_owned());
    for _ in 0..10 {
        let (one, two) =
            tokio::join!(app.send(&ada, Deposit { amount: 1 }), app.send(&bob, Deposit { amount: 1 }));
        one.unwrap();
        two.unwrap();
    }
    assert!(app.shutdown(Duration::from_secs(60)).await);
}

/// Everything that writes, by a future that holds a transaction.
async fn waits_for_itself(store: SqliteBackend) {
    let mut tx = store.begin().await.unwrap();
    assert_refused(store.commit(commit("a")).await);
    assert_refused(store.begin().await);
    let attempt = es_core::store::Attempt::of(es_core::id::Ids::default().next(), &Commit::default());
    assert_refused(store.resolve(&attempt).await);
    *tx.staged() = commit("b");
    tx.commit().await.unwrap();
    // Begun before there was a transaction to wait for.
    let (tx, refused) = tokio::join!(store.begin(), store.commit(commit("a")));
    if refused.is_err() {
        assert_refused(refused);
    }
    drop(tx.unwrap());
    let (refused, tx) = tokio::join!(store.commit(commit("a")), store.begin());
    if refused.is_err() {
        assert_refused(refused);
    }
    drop(tx.unwrap());
    store.commit(commit("c")).await.unwrap();
}

#[tokio::test]
async fn a_future_that_waits_for_itself_is_refused() {
    waits_for_itself(open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_that_waits_for_itself_among_other_tasks_is_refused() {
    let store = open().await;
    let waiting = tokio::spawn(waits_for_itself(store.clone()));
    waits_for_itself(open().await).await;
    waiting.await.unwrap();
}

/// A statement that runs for longer than the patience with a holder is something that is done.
#[tokio::test]
async fn a_transaction_in_a_long_statement_is_waited_for() {
    let store = open().await;
    let long = "with recursive n (x) as (select 1 union all select x + 1 from n where x < 6000000) select max(x) from n";
    let holding = async {
        let mut tx = store.begin().await.unwrap();
        drop(sqlx::query(long).fetch_one(&mut *tx).await.unwrap());
        tx.rollback().await.unwrap();
    };
    let ((), written) = tokio::join!(holding, store.commit(commit("a")));
    written.unwrap();
}

fn deposits(n: usize, takes: u64) -> Commit {
    let mut deposits = commit("account-ada");
    let event = deposits.appends[0].events.remove(0);
    deposits.appends[0].events = (0..n)
        .map(|_| es_core::store::NewEvent {
            id: es_core::id::Ids::default().next(),
            name: "account.deposited".into(),
            data: format!(r#"{{"amount":1,"takes":{takes}}}"#).into(),
            ..event.clone()
        })
        .collect();
    deposits
}

/// P22: the transaction of a projection takes in what is handled in a short time, however fast its handler was before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_lets_others_write_and_a_shutdown_end_between_two_events() {
    let (store, totals) = (open().await, Totals::default());
    let (fast, slow) = (2_000, 1_000);
    store.commit(deposits(fast, 0)).await.unwrap();
    store.commit(deposits(slow, 20)).await.unwrap();
    let app = App::on(store).projection(totals.clone()).start().await.unwrap();
    let handled = || totals.0.load(Ordering::SeqCst);
    while handled() <= fast {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..5 {
        let before = handled();
        app.send(&"bob".to_owned(), Deposit { amount: 1 }).await.unwrap();
        let meanwhile = handled() - before;
        assert!(meanwhile <= 10, "{meanwhile} events of 20 ms were handled meanwhile");
    }
    let before = handled();
    assert!(app.shutdown(Duration::from_secs(60)).await);
    let meanwhile = handled() - before;
    assert!(meanwhile <= 10 && handled() < fast + slow, "{meanwhile} events of 20 ms were handled meanwhile");
}

/// Fails until it is mended, and takes as long as an event says from then on.
#[derive(Clone, Debug, Default)]
struct Mended {
    handled: Arc<AtomicUsize>,
    mended: Arc<AtomicBool>,
}

#[projection(name = "mended", schema_sql = "create table mended (amount integer not null) strict")]
impl Mended {
    async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), BoxError> {
        if !self.mended.load(Ordering::SeqCst) {
            return Err("it is not mended".into());
        }
        sqlx::query("insert into mended values (?)").bind(e.amount).execute(&mut **tx).await?;
        tokio::time::sleep(Duration::from_millis(e.takes)).await;
        self.handled.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// P22: the same of a sequence that is retried, of which a part would be much more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_slow_events_lets_others_write_between_two_of_them() {
    let (store, mended, slow) = (open().await, Mended::default(), 60);
    store.commit(deposits(slow, 20)).await.unwrap();
    let short = Duration::from_millis(1);
    let app = App::on(store).projection(mended.clone()).processor_retries(0, short, short);
    let app = app.start().await.unwrap();
    app.settle(LIMIT).await.unwrap();
    let processor = &app.processors()[0];
    let parked = processor.parked(None, 2).await.unwrap();
    assert_eq!(parked.iter().map(|sequence| sequence.events).collect::<Vec<_>>(), [slow as u64]);
    mended.mended.store(true, Ordering::SeqCst);
    let handled = || mended.handled.load(Ordering::SeqCst);
    let others = async {
        for i in 0..5 {
            while handled() <= 5 * i {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let before = handled();
            app.send(&"bob".to_owned(), Deposit { amount: 1 }).await.unwrap();
            let meanwhile = handled() - before;
            assert!(meanwhile <= 10, "{meanwhile} events of 20 ms were handled meanwhile");
        }
    };
    let (left, ()) = tokio::join!(processor.retry(&parked[0].key, LIMIT), others);
    assert_eq!(left.unwrap(), None);
    assert!(app.shutdown(LIMIT).await);
}

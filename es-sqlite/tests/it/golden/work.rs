//! Views, a projection, a reactor, what they parked, and their builds.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use es_core::App;
use es_core::processor::Processor;
use es_core::store::Position;
use es_sqlite::SqliteBackend;

use super::domain::{Alive, FIXED, Mails, Open, Skipping, Sum, Switched, Switching, Tally, wiring};
use super::{copy, pay};

const LIMIT: Duration = Duration::from_secs(30);

/// How many payments of each account were handled, and their sum.
type Sums = BTreeMap<String, (u64, i64)>;

fn processor<'a>(app: &'a App, name: &str) -> &'a Processor {
    app.processors().iter().find(|processor| processor.name() == name).unwrap()
}

/// Keys, the number of their events, and how often the first was tried.
async fn parked(app: &App, name: &str) -> Vec<(String, u64, u32)> {
    let parked = processor(app, name).parked(None, 100).await.unwrap();
    parked.into_iter().map(|sequence| (sequence.key, sequence.events, sequence.attempts)).collect()
}

fn keys<const N: usize>(all: [(&str, u64, u32); N]) -> Vec<(String, u64, u32)> {
    all.map(|(key, events, attempts)| (key.to_owned(), events, attempts)).into()
}

async fn skipped(app: &App, name: &str) -> Vec<(u64, String, String)> {
    let skipped = processor(app, name).skipped().await.unwrap();
    skipped.into_iter().map(|skipped| (skipped.position.0, skipped.key, skipped.reason)).collect()
}

/// The rows of the projection's table.
async fn payments(backend: &SqliteBackend) -> Sums {
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("select account, n, sum from payments").fetch_all(&backend.db()).await.unwrap();
    rows.into_iter().map(|(account, n, sum)| (account, (n.unsigned_abs(), sum))).collect()
}

fn sums<const N: usize>(all: [(&str, u64, i64); N]) -> Sums {
    all.into_iter().map(|(key, n, sum)| (key.to_owned(), (n, sum))).collect()
}

fn mails_to<const N: usize>(all: [(&str, i64); N]) -> Vec<(String, i64)> {
    all.map(|(account, amount)| (account.to_owned(), amount)).into()
}

/// The rows of a view.
macro_rules! rows {
    ($app:expr, $view:ident) => {{
        let mut rows = Sums::new();
        for account in ["ada", "bob", "carol", "dora", "eve", "frank"] {
            if let Some($view(Sum { n, sum })) = $app.view::<$view>(&account.to_owned()).await.unwrap() {
                rows.insert(account.to_owned(), (n, sum));
            }
        }
        rows
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_of_the_first_version_continues_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mails) = (copy(&folder).await, Mails::default());
    let app = wiring(&store, &mails).looks_on().start().await.unwrap();
    what_there_is(&app, &store).await;
    assert!(app.shutdown(LIMIT).await);
    let app = wiring(&store, &mails).view::<Alive>().workers(2).start().await.unwrap();
    requests_are_answered(&app).await;
    assert_eq!(*mails.0.lock().unwrap(), [], "each was sent before");
    new_events_are_handled_once(&app, &store, &mails).await;
    FIXED.store(true, Ordering::SeqCst);
    parked_sequences_are_retried(&app, &store, &mails).await;
    builds_are_switched_and_dropped(&app, &store).await;
    assert!(app.shutdown(LIMIT).await);
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// While no node works on it.
async fn what_there_is(app: &App, store: &SqliteBackend) {
    let handled = sums([("ada", 4, 10), ("bob", 1, 1), ("dora", 1, 1), ("frank", 2, 3)]);
    assert_eq!((rows!(app, Tally), payments(store).await), (handled.clone(), handled));
    let skipping = [("ada", 4, 10), ("bob", 2, 4), ("dora", 1, 1), ("eve", 1, 2), ("frank", 2, 3)];
    assert_eq!(rows!(app, Skipping), sums(skipping));
    assert_eq!((rows!(app, Switched), rows!(app, Switching)), (all(), all()));
    assert_eq!(parked(app, "tally/1").await, keys([("bob", 2, 2), ("dora", 1, 2), ("eve", 2, 2)]));
    let accounts = [("bob", 2), ("carol", 1), ("dora", 1), ("eve", 2)];
    let accounts = accounts.map(|(account, events)| (format!("account-{account}"), events, 2));
    for name in ["payments/1", "mail"] {
        assert_eq!(parked(app, name).await, accounts);
    }
    let behind = processor(app, "tally/1").parked_events("bob", Position(0), 10).await.unwrap();
    assert_eq!(behind.iter().map(|event| event.place().0).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(skipped(app, "tally/1").await, [(10, "carol".to_owned(), "carol knows".to_owned())]);
    let places: Vec<u64> = skipped(app, "skipping/1").await.iter().map(|(position, ..)| *position).collect();
    assert_eq!(places, [7, 10, 13, 15]);
    for (name, generation) in [("payments/1", 3), ("switching/1", 2)] {
        let rebuild = processor(app, name).rebuilding().await.unwrap().unwrap();
        assert_eq!(rebuild.generation(), generation);
    }
}

/// All payments.
fn all() -> Sums {
    sums([("ada", 4, 10), ("bob", 3, 6), ("carol", 1, 1), ("dora", 2, 3), ("eve", 2, 3), ("frank", 2, 3)])
}

/// A retry that fails again, a discard, a rebuild of a key; nothing else is handled again.
async fn requests_are_answered(app: &App) {
    until(async || parked(app, "tally/1").await == keys([("bob", 2, 2), ("dora", 1, 3)])).await;
    app.settle(LIMIT).await.unwrap();
    let skipped = skipped(app, "tally/1").await;
    assert_eq!(skipped[1..].iter().map(|(position, ..)| *position).collect::<Vec<_>>(), [15, 16]);
    assert!(skipped[1..].iter().all(|(_, key, reason)| key == "eve" && reason == "eve knows"));
    let handled = sums([("ada", 4, 10), ("bob", 1, 1), ("dora", 1, 1), ("frank", 2, 3)]);
    assert_eq!((rows!(app, Tally), rows!(app, Alive)), (handled, all()));
}

/// Those of a parked key are parked behind what is there.
async fn new_events_are_handled_once(app: &App, store: &SqliteBackend, mails: &Mails) {
    let gina = "gina".to_owned();
    app.send(&gina, Open { owner: gina.clone() }).await.unwrap();
    for (account, amount) in [("ada", 5), ("bob", 4), ("gina", 7)] {
        app.send(&account.to_owned(), pay(amount)).await.unwrap();
    }
    app.settle(LIMIT).await.unwrap();
    let mut sent = mails.0.lock().unwrap().clone();
    sent.sort();
    assert_eq!(sent, mails_to([("ada", 5), ("gina", 7)]));
    assert_eq!((payments(store).await["ada"], rows!(app, Tally)["ada"]), ((5, 15), (5, 15)));
    assert_eq!((rows!(app, Switched)["bob"], rows!(app, Skipping)["bob"]), ((4, 10), (3, 8)));
    assert_eq!(parked(app, "tally/1").await, keys([("bob", 3, 2), ("dora", 1, 3)]));
}

/// Once their handlers are fixed.
async fn parked_sequences_are_retried(app: &App, store: &SqliteBackend, mails: &Mails) {
    mails.0.lock().unwrap().clear();
    let tally = processor(app, "tally/1");
    for key in ["bob", "dora"] {
        assert_eq!(tally.retry(key, LIMIT).await.unwrap(), None, "{key}");
        for name in ["payments/1", "mail"] {
            let left = processor(app, name).retry(&format!("account-{key}"), LIMIT).await.unwrap();
            assert_eq!(left, None, "{name} {key}");
        }
    }
    assert_eq!(parked(app, "tally/1").await, []);
    for handled in [rows!(app, Tally), payments(store).await] {
        assert_eq!((handled["bob"], handled["dora"]), ((4, 10), (2, 3)));
    }
    let sent = mails.0.lock().unwrap().clone();
    assert_eq!(sent, mails_to([("bob", 2), ("bob", 3), ("bob", 4), ("dora", 2)]));
    tally.rebuild_keys(&["frank".to_owned()], LIMIT).await.unwrap();
    assert_eq!(rows!(app, Tally)["frank"], (2, 3));
}

async fn builds_are_switched_and_dropped(app: &App, store: &SqliteBackend) {
    for name in ["switching/1", "payments/1"] {
        let rebuild = processor(app, name).rebuilding().await.unwrap().unwrap();
        rebuild.caught_up(LIMIT).await.unwrap();
        until(async || rebuild.switch().await.is_ok()).await;
    }
    assert_eq!(rows!(app, Switching), rows!(app, Switched));
    assert_eq!(payments(store).await["ada"], (5, 15));
    processor(app, "switched/1").roll_back().await.unwrap();
    assert_eq!(rows!(app, Switched)["ada"], (5, 15));
    // Of the payments, the build that was read before, and the one whose removal had begun.
    for name in ["switched/1", "payments/1"] {
        assert!(processor(app, name).drop_previous().await.unwrap());
        assert!(!processor(app, name).drop_previous().await.unwrap());
    }
}

async fn until(holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("it never came to that");
}

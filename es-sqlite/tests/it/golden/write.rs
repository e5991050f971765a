//! Writes such a file, with the code of today: once for each version whose format differs from that of the one before.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use es_core::App;
use es_core::processor::{Processor, RebuildOptions};
use es_core::testing::{SeededEntropy, TestClock};
use es_sqlite::{SqliteBackend, SqliteOptions};
use sqlx::ConnectOptions as _;

use super::domain::{LATER, Mails, Open, Pay, other_node, wiring};

const LIMIT: Duration = Duration::from_secs(30);
/// Too short for anything: the request stands.
const SOON: Duration = Duration::from_millis(50);

fn processor<'a>(app: &'a App, name: &str) -> &'a Processor {
    app.processors().iter().find(|processor| processor.name() == name).unwrap()
}

async fn pay(app: &App, account: &str, amount: i64, note: &str) {
    let pay = Pay { amount, note: note.to_owned() };
    app.send(&account.to_owned(), pay).actor("teller 7").await.unwrap();
}

async fn sql(backend: &SqliteBackend, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(backend.path());
    sqlx::raw_sql(sql).execute(&mut options.connect().await.unwrap()).await.unwrap();
}

/// `GOLDEN=/some/file.db cargo test -p es-sqlite --test it -- --ignored golden::write`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes a file to be kept"]
async fn write_a_store() {
    let file = std::env::var("GOLDEN").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clock = TestClock::default();
    let options = SqliteOptions::new(folder.path().join("store.db")).with_clock(clock.clone());
    let backend = SqliteBackend::open_with(options).await.unwrap();
    // Two apps draw from two seeds, else they would make the same ids.
    let started = |seed, app: es_core::AppBuilder<SqliteBackend>| {
        app.clock(clock.clone()).entropy(SeededEntropy::new(seed)).start()
    };
    let mails = Mails::default();
    let app = started(1, wiring(&backend, &mails).workers(3)).await.unwrap();
    let other = started(2, other_node(&backend)).await.unwrap();
    for (account, notes) in [
        ("ada", &["", "", ""][..]),
        ("bob", &["", "broken", ""]),
        ("carol", &["broken"]),
        ("dora", &["", "broken"]),
        ("eve", &["broken", ""]),
        ("frank", &["", "later"]),
    ] {
        clock.advance(Duration::from_secs(1));
        app.send(&account.to_owned(), Open { owner: account.to_owned() }).await.unwrap();
        for (note, amount) in notes.iter().zip(1..) {
            pay(&app, account, amount, note).await;
        }
    }
    let too_much = Pay { amount: 1_001, note: String::new() };
    for _ in 0..2 {
        let refused = app.send(&"ada".to_owned(), too_much.clone()).idempotency_key("too much").await;
        assert!(refused.is_err());
    }
    let four = Pay { amount: 4, note: String::new() };
    app.send(&"ada".to_owned(), four).idempotency_key("four").tenant("north").await.unwrap();
    app.settle(LIMIT).await.unwrap();

    let (tally, payments) = (processor(&app, "tally/1"), processor(&app, "payments/1"));
    tally.discard("carol", "carol knows", LIMIT).await.unwrap();
    LATER.store(true, Ordering::SeqCst);
    assert!(tally.rebuild_keys(&["frank".to_owned()], LIMIT).await.is_err());
    LATER.store(false, Ordering::SeqCst);
    let switched = processor(&app, "switched/1").rebuild_online(RebuildOptions::default()).await.unwrap();
    switched.caught_up(LIMIT).await.unwrap();
    switched.switch().await.unwrap();

    // A build that does not quite go.
    let leaving = payments.rebuild_online(RebuildOptions::default()).await.unwrap();
    sql(
        &backend,
        "create trigger t before delete on es_projections begin select raise(abort, 'not now'); end",
    )
    .await;
    assert!(leaving.abort().await.is_err());
    sql(&backend, "drop trigger t").await;

    // Another node comes and goes: ranges are split for it, and merged again.
    let second = started(3, wiring(&backend, &mails).workers(2)).await.unwrap();
    let ranges = |app: &App| processor(app, "tally/1").status().ranges.len();
    for _ in 0..200 {
        if ranges(&app) > 3 {
            break;
        }
        tokio::time::sleep(SOON).await;
    }
    assert!(second.shutdown(LIMIT).await);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(app.shutdown(LIMIT).await);

    // Requests that nobody takes up, a rebuild that nobody works on, and a switch to it.
    let app = started(4, wiring(&backend, &mails).looks_on()).await.unwrap();
    let (tally, payments) = (processor(&app, "tally/1"), processor(&app, "payments/1"));
    assert!(tally.retry("dora", SOON).await.is_err());
    assert!(tally.discard("eve", "eve knows", SOON).await.is_err());
    assert!(tally.rebuild_keys(&["ada".to_owned()], SOON).await.is_err());
    let options = RebuildOptions::default().lenient();
    drop(payments.rebuild_online(options).await.unwrap());
    let switching = processor(&app, "switching/1").rebuild_online(RebuildOptions::default()).await.unwrap();
    let switching = tokio::spawn(async move { switching.switch().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    keep(&backend, Path::new(&file)).await;
    assert!(switching.await.unwrap().is_err());
    assert!(app.shutdown(LIMIT).await && other.shutdown(LIMIT).await);
}

async fn keep(backend: &SqliteBackend, file: &Path) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(backend.path());
    let mut conn = options.connect().await.unwrap();
    let vacuum = sqlx::query("vacuum into ?").bind(file.to_str().unwrap());
    vacuum.execute(&mut conn).await.unwrap();
}

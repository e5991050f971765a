//! The saga of orders crashes wherever it can.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use es_sqlite::{SqliteBackend, SqliteGuarded, SqliteOptions};
use sagas::saga::Outcome;
use sagas::testing::{VirtualClock, World, crash_matrix};

use crate::order::audit;
use crate::order::bank::{Bank, Mood};
use crate::order::ledger::Ledger;
use crate::order::saga::place_order;
use crate::order::stock;
use crate::order::van::ROOM;
use crate::order::wanted::{Item, PlaceOrder};

/// Runs at the same time: each waits in earnest until a node is given up.
const AT_ONCE: usize = 24;
const BOUGHT: i64 = 1_000_000;

/// Confirmed, paid and taken; or none of it.
async fn is_whole(
    world: &World<SqliteBackend>,
    stock: &SqliteGuarded,
    ledger: &Ledger,
    all: &Mutex<BTreeMap<String, bool>>,
) {
    let completed = match world.outcome() {
        Some(Outcome::Completed) => true,
        Some(Outcome::Undone(_)) => false,
        other => panic!("{other:?}: {}", world.run().waits_for),
    };
    all.lock().unwrap().insert(world.key().to_owned(), completed);
    let confirmed = audit::confirmed(world.app().store()).await.unwrap();
    let charged = "select count(*) from payments where key = ?1 and state = 'charged'";
    let key = format!("place-order/{}/pay", world.run().run.simple());
    let charged: i64 = sqlx::query_scalar(charged).bind(key).fetch_one(&ledger.0).await.unwrap();
    let is_taken = stock::taken(stock).await.unwrap().contains_key(world.key());
    assert_eq!((confirmed.len(), charged, is_taken), (completed.into(), completed.into(), completed));
}

async fn holds_for(copies: u32, completes: bool) {
    let folder = tempfile::tempdir().unwrap();
    let stock = stock::open(&folder.path().join("stock.db")).await.unwrap();
    let buy = "insert into stock (disc, cents, bought, copies) values ('disc 1-a', 900, ?1, ?1)";
    sqlx::query(buy).bind(BOUGHT).execute(stock.pool()).await.unwrap();
    let payments = stock::pool(&folder.path().join("payments.db")).await.unwrap();
    let ledger = Ledger::open(payments).await.unwrap();
    let bank = Bank::start(ledger.clone(), Mood::Fine).await.unwrap();

    let journals = AtomicU32::new(0);
    let open = |clock: VirtualClock| {
        let file = folder.path().join(format!("orders-{}.db", journals.fetch_add(1, Ordering::Relaxed)));
        async move { SqliteBackend::open_with(SqliteOptions::new(file).with_clock(clock)).await.unwrap() }
    };
    let items = vec![Item { disc: "disc 1-a".to_owned(), copies }];
    let order = PlaceOrder { number: 1, customer: "ada".to_owned(), items };
    let matrix = crash_matrix(|| place_order(&bank), order).on(open).provide(stock.clone());
    let all = Mutex::default();
    let checked =
        matrix.at_once(AT_ONCE).check(async |world| is_whole(world, &stock, &ledger, &all).await).await;
    assert!(checked.points >= 10 && checked.missed * 10 < checked.runs, "{checked:?}");
    assert_eq!(stock::first_wrong(&stock).await.unwrap(), None);
    // Under whichever keys.
    let completed = all.into_inner().unwrap().into_values().filter(|completed| *completed).count();
    assert_eq!(completed > 0, completes);
    assert_eq!(ledger.charged().await.unwrap().len(), completed);
}

#[tokio::test]
async fn an_order_that_crashes_anywhere_is_confirmed_or_nothing_has_happened() {
    holds_for(2, true).await;
}

#[tokio::test]
async fn so_has_one_that_no_van_takes() {
    holds_for(ROOM + 1, false).await;
}

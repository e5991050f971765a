//! Rows of state that cannot be read: P26.

use super::cluster::overwrite;
use super::patient::ask;
use super::payments::{KINDS, Kind, Poison, World, eventually, parked_keys, payment, rows};
use super::{LIMIT, Subject, settle};
use crate::App;
use crate::store::Position;

/// Rows of the view, and whether it is said that one cannot be read while nothing is asked of it. Of others only the key or
/// the revision says something, or they are read when a rebuild begins.
const ROWS: [(&str, &str, bool); 11] = [
    ("generations", "ledger/1", true),
    ("es.codes", "ledger/1~1", true),
    ("es.control", "ledger/1", true),
    ("checkpoints", "ledger/1~1#0000", true),
    ("ledger/1~1/parked", "a", true),
    ("ledger/1~1/requests", "b", true),
    ("ledger/1~1/afresh", "b", true),
    ("ledger/1~1/undecoded", "00000000000000000009:0000", true),
    ("ledger/1~1/parked/events", "", false),
    ("ledger/1~1/skipped", "00000000000000000001:0000000000000000", false),
    ("asked", "ledger/1~1", false),
];

async fn complaint(app: &App, kind: Kind) -> Option<String> {
    app.health().await.ill(&kind.of(app).status(), LIMIT)
}

/// P26
pub async fn an_unreadable_row_stops_what_it_belongs_to_and_nothing_else<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let mut paid = 0;
    for (table, key, is_said) in ROWS {
        let key = match key {
            "" => rows(&world.store, table).await.pop().expect("an event is parked").0,
            key => key.to_owned(),
        };
        let before = overwrite::<S>(&world.store, table, &key, b"not json").await;
        let app = world.start().await;
        world.put("b", vec![payment(paid + 1)]).await;
        paid += 1;
        let head = Position(world.store.head().await);
        Kind::Table.of(&app).reach(head, LIMIT).await.expect("it is not the one whose row is damaged");
        assert_eq!(world.sum(Kind::Table, "b").await, paid * (paid + 1) / 2, "{table}");
        if is_said {
            eventually(async || match complaint(&app, Kind::View).await {
                Some(why) if why.contains(&*format!("{key:?} of {table}")) => Ok(()),
                why => Err(format!("of {table} it is said {why:?}")),
            })
            .await;
            eventually(async || match complaint(&app, Kind::Table).await {
                None => Ok(()),
                Some(why) => Err(format!("{table}: {why}")),
            })
            .await;
        }
        // Once it is as it was, or has gone, it goes on by itself.
        restore(&world, table, &key, &before).await;
        settle(&app).await;
        eventually(async || {
            let said = [complaint(&app, KINDS[0]).await, complaint(&app, KINDS[1]).await];
            if said == [None, None] { Ok(()) } else { Err(format!("{table}: {said:?}")) }
        })
        .await;
        let tally = world.tally("b").await.expect("a row");
        assert_eq!((tally.n, tally.disorder), (paid.unsigned_abs(), 0), "{table}");
        assert!(app.shutdown(LIMIT).await);
    }
    let app = world.start().await;
    poison.mend();
    for kind in KINDS {
        assert_eq!(super::payments::retry(kind.of(&app), &kind.key("a")).await, None);
        assert_eq!(ask(|| kind.of(&app).skipped()).await, []);
        assert_eq!(parked_keys(kind.of(&app)).await, []);
    }
}

/// P26
pub async fn a_version_whose_place_in_the_log_was_deleted_says_so<S: Subject>(subject: S) {
    const PLACE: (&str, &str) = ("checkpoints", "ledger/1~1#0000");
    let world = World::new(&subject).await;
    let app = world.start().await;
    world.put("a", vec![payment(1)]).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let before = world.store.row(PLACE.0, PLACE.1).await.expect("it has one").data;
    restore(&world, PLACE.0, PLACE.1, b"").await;
    let app = world.start().await;
    world.put("a", vec![payment(2)]).await;
    eventually(async || match complaint(&app, Kind::View).await {
        Some(why) if why.contains("was deleted") && why.contains("drop_version") => Ok(()),
        why => Err(format!("{why:?}")),
    })
    .await;
    let head = Position(world.store.head().await);
    Kind::Table.of(&app).reach(head, LIMIT).await.expect("it is not the one");
    drop(overwrite::<S>(&world.store, PLACE.0, PLACE.1, &before).await);
    settle(&app).await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.disorder), (2, 0));
}

/// H5
pub async fn a_checkpoint_beyond_the_log_is_named_and_passes_nothing_over<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = world.start().await;
    world.put("a", vec![payment(1)]).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let before = Position(world.store.head().await);
    place(&world, Position(before.0 + 5)).await;
    let app = world.start().await;
    world.put("a", vec![payment(2)]).await;
    eventually(async || match complaint(&app, Kind::View).await {
        Some(why) if why.contains("of ledger/1~1 is at #6, and the log ends at #2") => Ok(()),
        why => Err(format!("{why:?}")),
    })
    .await;
    let head = Position(world.store.head().await);
    Kind::Table.of(&app).reach(head, LIMIT).await.expect("it is not the one");
    // Once the log is as long as that, nothing tells.
    assert!(app.shutdown(LIMIT).await);
    place(&world, before).await;
    let app = world.start().await;
    settle(&app).await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.disorder), (2, 0));
}

/// Moves the checkpoints of the view.
async fn place<S: Subject>(world: &World<S>, position: Position) {
    for (key, mut checkpoint) in rows(&world.store, "checkpoints").await {
        if key.starts_with("ledger/1~1#") {
            checkpoint["position"] = position.0.into();
            drop(overwrite::<S>(&world.store, "checkpoints", &key, checkpoint.to_string().as_bytes()).await);
        }
    }
}

/// Writes what was there before; nothing, if there was nothing.
pub(super) async fn restore<S: Subject>(world: &World<S>, table: &str, key: &str, before: &[u8]) {
    if !before.is_empty() {
        drop(overwrite::<S>(&world.store, table, key, before).await);
        return;
    }
    loop {
        let Some(row) = world.store.row(table, key).await else { return };
        let gone = crate::store::RowWrite { table: table.into(), key: row.key, rev: row.rev, row: None };
        let commit = crate::store::Commit { rows: vec![gone], ..crate::store::Commit::default() };
        drop(world.store.commit(super::patient::marked(commit)).await);
    }
}

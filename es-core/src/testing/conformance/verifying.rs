//! What is stored is what was promised, or is found: E37.

use super::data::{NO_STREAM, append, id};
use super::operated::{Damage, Operated};
use super::redacting::{numbers, put, read};
use crate::store::{
    Commit, EventStore, IdempotencyKey, Outcome, OutcomeMark, Position, RowStore, RowWrite, Snapshot,
    SnapshotStore, Version,
};

async fn found<S: Operated>(store: &S::Backend, after: u64) -> Vec<String> {
    S::verify_after(store, Position(after)).await.expect("what is wrong with one thing hides no other")
}

/// E37
pub async fn each_thing_that_is_wrong_is_named<S: Operated>(subject: S) {
    let store = subject.open().await;
    let (version, position) = (Version(1), Position(0));
    let outcome = Outcome { fingerprint: 7, stream: id("a"), version, position, events: 1, refusal: None };
    let mark = OutcomeMark { key: IdempotencyKey::new("k").expect("a short one"), outcome };
    let first = append(&id("a"), NO_STREAM, numbers(1));
    store.commit(Commit { outcomes: vec![mark], ..first }).await.expect("accepted");
    put(&store, "a", numbers(24)).await;
    let (version, event) = (Version(10), read(&store, "a").await[9].id);
    let snapshot = Snapshot { stream: id("a"), version, event, schema: 1, data: "10".into() };
    store.put_snapshot(snapshot).await.expect("it is stored");
    assert_eq!(found::<S>(&store, 0).await, [""; 0]);
    for (wrong, right, named) in [
        (Damage::Outcomes(Position(999)), Damage::Outcomes(Position(1)), "outcomes of keys"),
        (Damage::Outcomes(Position(2)), Damage::Outcomes(Position(1)), "outcomes of keys"),
        (Damage::Snapshots(Version(11)), Damage::Snapshots(Version(10)), "snapshots were taken at events"),
    ] {
        S::damage(&store, wrong).await;
        let lines = found::<S>(&store, 0).await;
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(named)), "{wrong:?}: {lines:#?}");
        S::damage(&store, right).await;
        assert_eq!(found::<S>(&store, 0).await, [""; 0]);
    }
    S::damage(&store, Damage::Early(Position(20))).await;
    let lines = found::<S>(&store, 0).await;
    assert!(lines.iter().any(|line| line.contains("recorded times never go backwards")), "{lines:#?}");
}

/// E37, B65
pub async fn what_cannot_be_read_hides_nothing_else<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, "a", numbers(3)).await;
    let rows = ["broken", "whole"].map(|key| RowWrite {
        table: "checkpoints".into(),
        key: key.to_owned(),
        rev: 0,
        row: Some(r#"{"position":2,"first":0,"last":1023}"#.into()),
    });
    store.commit(Commit { rows: rows.into(), ..Commit::default() }).await.expect("nobody else writes them");
    assert_eq!(found::<S>(&store, 0).await, [""; 0]);
    S::damage(&store, Damage::Checkpoint("broken")).await;
    S::damage(&store, Damage::Renumbered(Position(3), Version(9))).await;
    let lines = found::<S>(&store, 0).await;
    assert!(lines.iter().any(|line| line.contains("cannot be read")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("versions of a stream")), "{lines:#?}");
    let rows = store.rows("checkpoints", &["whole".to_owned()]).await.expect("it is read");
    assert!(rows[0].is_some());
}

/// E37
pub async fn what_was_verified_before_is_left_out<S: Operated>(subject: S) {
    let store = subject.open().await;
    for stream in ["a", "b", "a"] {
        put(&store, stream, numbers(5)).await;
    }
    S::damage(&store, Damage::Gone(Position(3))).await;
    // The event behind it goes on from the one that is gone.
    for (after, wrong) in [(0, true), (2, true), (3, true), (4, false), (7, false), (15, false), (100, false)]
    {
        let lines = found::<S>(&store, after).await;
        assert_eq!(!lines.is_empty(), wrong, "{after}: {lines:#?}");
    }
    // The last event of a stream before the position is what it goes on from.
    S::damage(&store, Damage::Renumbered(Position(12), Version(20))).await;
    assert!(!found::<S>(&store, 11).await.is_empty());
}

//! A payload is replaced by an operator: E35, E36.

use super::data::{encoded, id, raw};
use super::domain::{Account, Deposit, Open, Split, deposited, opened};
use super::{LIMIT, Operated, next};
use crate::App;
use crate::limits::{MAX_JSON_DEPTH, MAX_PAYLOAD};
use crate::store::{
    Append, Commit, EventFilter, EventStore, ExpectedVersion, NewEvent, Position, RecordedEvent, RowWrite,
    Snapshot, SnapshotStore, StoreError, Subscription, Version,
};

const STREAM: &str = "account-a";

fn key() -> String {
    "a".to_owned()
}

/// Appends, wherever the stream is. These stores do not fail.
pub(super) async fn put<B: EventStore>(store: &B, stream: &str, events: Vec<NewEvent>) {
    let append = Append { stream: id(stream), expected: ExpectedVersion::Any, events };
    let commit = Commit { appends: vec![append], ..Commit::default() };
    store.commit(commit).await.expect("any version");
}

/// Events whose payloads are numbers from 0 on.
pub(super) fn numbers(n: usize) -> Vec<NewEvent> {
    (0..n).map(|i| raw("noted", 1, &i.to_string())).collect()
}

pub(super) async fn read<B: EventStore>(store: &B, stream: &str) -> Vec<RecordedEvent> {
    store.stream(&id(stream), Version(0), 100).await.expect("it is there")
}

async fn redact<S: Operated>(store: &S::Backend, version: u64, data: &str) -> Result<(), StoreError> {
    S::redact(store, &id(STREAM), Version(version), data.to_owned().into(), false).await
}

/// E35
pub async fn a_payload_is_replaced_and_nothing_else_and_the_snapshot_goes<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, STREAM, numbers(3)).await;
    let before = read(&store, STREAM).await;
    let (version, event) = (Version(3), before[2].id);
    let snapshot = Snapshot { stream: id(STREAM), version, event, schema: 1, data: "3".into() };
    store.put_snapshot(snapshot).await.expect("it is stored");
    redact::<S>(&store, 2, r#"{"gone":true}"#).await.expect("nothing needs it");
    let mut after = read(&store, STREAM).await;
    assert_eq!(after[1].data, r#"{"gone":true}"#);
    after[1].data = before[1].data.clone();
    assert_eq!(after, before);
    assert_eq!(store.snapshot(&id(STREAM)).await.expect("it is read"), None);
    assert_eq!(S::verify_after(&store, Position(0)).await.expect("it is read"), [""; 0]);
}

/// E35, B66: as an append checks it.
pub async fn what_is_not_there_or_could_not_be_appended_is_refused<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, STREAM, numbers(1)).await;
    let large = format!("\"{}\"", "x".repeat(MAX_PAYLOAD));
    let deep = format!("{}{}", "[".repeat(MAX_JSON_DEPTH + 1), "]".repeat(MAX_JSON_DEPTH + 1));
    for (stream, version, data, why) in [
        (STREAM, 2, "1", "has no event with version 2"),
        ("nobody", 1, "1", "stream nobody has no event"),
        (STREAM, 1, "{", "is no JSON"),
        (STREAM, 1, "", "is no JSON"),
        (STREAM, 1, &*large, "over the limit of 1000000"),
        (STREAM, 1, &*deep, "65 levels deep, over the limit of 64"),
    ] {
        let data = data.to_owned().into();
        let error = S::redact(&store, &id(stream), Version(version), data, true).await.expect_err(why);
        assert_eq!(error.kind(), crate::ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(read(&store, STREAM).await[0].data, "0");
}

/// E35
pub async fn what_is_set_aside_is_not_redacted_unless_it_is_meant<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, "other", numbers(1)).await;
    put(&store, STREAM, numbers(2)).await;
    let row = |table: &'static str, key: &str, rev, row: Option<&'static str>| {
        let row = RowWrite { table: table.into(), key: key.to_owned(), rev, row: row.map(Into::into) };
        Commit { rows: vec![row], ..Commit::default() }
    };
    // As they are stored of what is parked, and of what could not be decoded: the event at position 2.
    let parked = "00000000000000000001:0123456789abcdef:00000000000000000002";
    for (table, key) in
        [("totals/1~1/parked/events", parked), ("totals/1~1/undecoded", "00000000000000000002:0000")]
    {
        store.commit(row(table, key, 0, Some("{}"))).await.expect("nobody else writes it");
        let needs = S::redaction_needs(&store, &id(STREAM), Version(1)).await.expect("it is read");
        let needs = needs.expect("it is set aside");
        assert!(needs.contains("event 2 is set aside in totals/1~1"), "{needs}");
        assert_eq!(S::redaction_needs(&store, &id(STREAM), Version(2)).await.expect("it is read"), None);
        assert_eq!(S::redaction_needs(&store, &id("other"), Version(1)).await.expect("it is read"), None);
        let error = redact::<S>(&store, 1, "null").await.expect_err("it is set aside");
        assert_eq!(error.kind(), crate::ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains("retried or discarded; or redact it all the same"), "{error}");
        assert_ne!(read(&store, STREAM).await[0].data, "null");
        store.commit(row(table, key, 1, None)).await.expect("nobody else writes it");
        assert_eq!(S::redaction_needs(&store, &id(STREAM), Version(1)).await.expect("it is read"), None);
    }
    store.commit(row("totals/1~1/parked/events", parked, 0, Some("{}"))).await.expect("it was deleted");
    S::redact(&store, &id(STREAM), Version(1), "null".into(), true).await.expect("it is meant");
    assert_eq!(read(&store, STREAM).await[0].data, "null");
}

/// E36: with the next read or append.
pub async fn a_redaction_reaches_what_other_programs_keep<S: Operated>(subject: S) {
    let store = subject.open().await;
    put(&store, STREAM, numbers(3)).await;
    let other = subject.again(&store).await;
    let known = other.history();
    assert_eq!(read(&other, STREAM).await[0].data, "0");
    let mut log = Subscription::new(std::sync::Arc::new(other.clone()), EventFilter::all(), Position(0));
    // It has read all of them.
    assert_eq!(next(&mut log).await.data, "0");
    assert_eq!(other.history(), known);
    redact::<S>(&store, 2, "null").await.expect("nothing needs it");
    // With that read, before anything is given: whoever keeps something asks for it.
    assert_eq!(read(&other, STREAM).await[1].data, "null");
    assert_ne!(other.history(), known);
    assert_eq!((next(&mut log).await.data, next(&mut log).await.data), ("null".into(), "2".into()));
    // What was decided before is refused, and decided anew it is accepted.
    let known = other.history();
    redact::<S>(&store, 3, "null").await.expect("nothing needs it");
    put(&other, STREAM, numbers(1)).await;
    assert_ne!(other.history(), known, "an append finds it as well");
}

async fn balance(app: &App) -> i64 {
    app.load::<Account>(&key()).await.expect("it is read").expect("there").balance
}

/// E36: states that an app keeps, and what it would make of them.
pub async fn a_state_of_before_a_redaction_is_neither_used_nor_stored<S: Operated>(subject: S) {
    let store = subject.open().await;
    let app = App::on(subject.again(&store).await).start().await.expect("nothing to prepare");
    app.send(&key(), Open { owner: "ada".to_owned() }).await.expect("accepted");
    app.send(&key(), Deposit { amount: 1_000 }).await.expect("accepted");
    assert_eq!(balance(&app).await, 1_000);
    let none = String::from_utf8(encoded(&deposited(0)).data.to_vec()).expect("it is JSON");
    redact::<S>(&store, 2, &none).await.expect("nothing needs it");
    assert_eq!(balance(&app).await, 0, "what is read is of now");

    redact::<S>(&store, 1, &String::from_utf8_lossy(&encoded(&opened("")).data))
        .await
        .expect("nothing needs it");
    // The command does not know of it yet, and passes the multiple at which a snapshot is taken.
    app.send(&key(), Split { times: 13 }).await.expect("accepted");
    let account = app.load::<Account>(&key()).await.expect("it is read").expect("there");
    assert_eq!((&*account.owner, account.balance, account.n_events), ("", 13, 15));
    assert!(app.shutdown(LIMIT).await, "what runs in the background has ended");
    assert_eq!(store.snapshot(&id(STREAM)).await.expect("it is read"), None);
}

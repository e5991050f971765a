//! Bad input at the store: B1 to B5, B10 to B13, B20, B21, B60 and B63.

use std::sync::Arc;

use super::data::{ANY, append, encoded, event, events, exact, id, raw};
use super::domain::{AccountEvent, Deposited};
use super::patient::Patient;
use super::payments::{KINDS, Kind, World};
use super::{LIMIT, Subject, store};
use crate::event::{Metadata, Tag};
use crate::limits::{HARD_MAX_EVENTS, LimitError, MAX_METADATA, MAX_PAYLOAD, MAX_SEQUENCE, MAX_TAGS};
use crate::processor::ParkedFilter;
use crate::store::{
    AppendCondition, Backend, Commit, CommitError, EventFilter, EventStore, IdempotencyKey, NewEvent,
    Outcome, OutcomeMark, Position, RowStore, RowWrite, Span, StoreError, StreamId, Version,
};
use crate::{ErrorKind, Event};

/// Refused before anything is written, with a text that is short, and the store is usable right after.
async fn assert_refused<B: Backend + RowStore + Clone>(store: &Patient<B>, commit: Commit, expected: &str) {
    let before = store.head().await;
    let refused = store.commit(commit).await.expect_err(expected);
    let CommitError::Store(StoreError::Limit(limit)) = &refused else { panic!("{refused:?}") };
    let text = limit.to_string();
    assert!(text.contains(expected) && text.len() < 300, "{text}");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    assert_eq!(store.head().await, before, "nothing was written");
    store.put("usable", events(1)).await;
}

fn one(event: NewEvent) -> Commit {
    append(&id("a"), ANY, vec![event])
}

/// B1, B2: ids are checked when they are made, so no store ever sees a bad one.
pub async fn a_stream_id_is_checked_when_it_is_made<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for bad in ["", &"a".repeat(256), &"a".repeat(100_000), "a\tb", "\u{0}", "a\u{7f}", "a\u{85}b"] {
        let refused = StreamId::new(bad).expect_err("not an id");
        assert!(refused.to_string().starts_with("stream id"), "{refused}");
        assert!(refused.to_string().len() < 300);
    }
    let longest = "ä".repeat(127);
    store.put(&longest, events(1)).await;
    assert_eq!(store.version(&longest).await, 1);
}

/// B2, B3
pub async fn ids_mean_exactly_their_bytes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let names = [
        "a",
        "A",
        "a ",
        " a",
        "ä",
        "a\u{308}",
        "\u{430}",
        "%",
        "_",
        "*",
        ">",
        ".",
        "a%",
        "$1",
        "\\",
        "\\\\",
        "'",
        "\"",
        "x'; DROP TABLE events;--",
        "?1",
        ":a",
        "{}",
        "\u{1F600}",
        "\u{202E}a",
        "null",
        "0",
        "00",
    ];
    for name in names {
        store
            .append(name, exact(0), events(1))
            .await
            .unwrap_or_else(|e| panic!("{name:?} is a stream of its own: {e}"));
    }
    for (i, name) in names.iter().enumerate() {
        let stream = store.stream(name).await;
        assert_eq!((stream.len(), stream[0].place().0, stream[0].stream.as_str()), (1, i as u64 + 1, *name));
    }
}

/// B3
pub async fn tags_and_keys_mean_exactly_their_bytes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let values =
        ["a", "A", "%", "_", "'; DROP TABLE events;--", "a,b", "a b", "[\"a\"]", "\u{e9}", "e\u{301}"];
    let tag = |value: &str| Tag::new("t", value).expect("a tag");
    for value in values {
        store.put("a", vec![NewEvent { tags: [tag(value)].into(), ..event("tagged") }]).await;
    }
    for (i, value) in values.iter().enumerate() {
        let found = store.read(&EventFilter::all().tagged(&tag(value)), 0).await;
        assert_eq!(super::data::places(&found.events), [i as u64 + 1], "{value:?}");
        assert_eq!(*found.events[0].tags, [tag(value)]);
    }
    for bad in [Tag::new("", "a"), Tag::new("a:b", "c"), Tag::new("a", "\n"), Tag::new("a", "b".repeat(254))]
    {
        bad.expect_err("not a tag");
    }
}

/// B4
pub async fn an_event_type_outside_its_alphabet_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let typed = |name: &str| one(NewEvent { name: name.to_owned().into(), ..event("x") });
    for (bad, expected) in [
        ("", "is empty"),
        ("a b", "has ' ' at byte 1"),
        ("a/b", "has '/' at byte 1"),
        ("\u{e4}", "at byte 0"),
        ("a\0", "at byte 1"),
        ("a'", "at byte 1"),
        ("es.internal", "reserved"),
        (&"a".repeat(256), "over the limit of 255"),
    ] {
        assert_refused(&store, typed(bad), expected).await;
    }
    store.commit(typed(&"a".repeat(255))).await.expect("the longest");
    store.commit(typed("Az09_.:-")).await.expect("the whole alphabet");
}

/// B5, B13
pub async fn a_nil_or_repeated_event_id_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    assert_refused(&store, one(NewEvent { id: uuid::Uuid::nil(), ..event("x") }), "nil").await;
    let twice = event("x");
    let same_stream = append(&id("a"), ANY, vec![twice.clone(), event("y"), twice.clone()]);
    assert_refused(&store, same_stream, "stands twice").await;
    assert_refused(&store, one(twice.clone()).and("b", ANY, vec![twice]), "stands twice").await;
}

/// B10, B11
pub async fn numbers_near_their_limit_neither_wrap_nor_write<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    for huge in [1 << 31, 1 << 32, MAX_SEQUENCE - 1, MAX_SEQUENCE, MAX_SEQUENCE + 1, u64::MAX] {
        let refused = store.append("a", exact(huge), events(1)).await.expect_err("it is not that long");
        let CommitError::Conflict { actual, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(actual, Version(1));
        let after = AppendCondition { fail_if_events_match: EventFilter::all(), after: Position(huge) };
        let commit = Commit { condition: Some(after), ..append(&id("a"), ANY, events(1)) };
        let refused = store.commit(commit).await.expect_err("nobody has read so far");
        assert!(matches!(refused, CommitError::BehindHead { .. }), "{refused:?}");
    }
    assert_eq!(store.head().await, 1);
    store.assert_sound().await;
}

/// B12
pub async fn a_payload_at_its_limit_passes_and_one_byte_more_does_not<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let of = |size: usize| one(raw("big", 1, &format!("\"{}\"", "x".repeat(size - 2))));
    assert_refused(&store, of(MAX_PAYLOAD + 1), "payload is 1000001 bytes, over the limit of 1000000").await;
    store.commit(of(MAX_PAYLOAD)).await.expect("at the limit");
    assert_eq!(store.stream("a").await[0].data.len(), MAX_PAYLOAD);
}

/// B12
pub async fn metadata_and_tags_over_their_limits_are_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let with = |size: usize| {
        let metadata = Metadata { actor: Some("x".repeat(size)), ..Metadata::default() };
        one(NewEvent { metadata: Arc::new(metadata), ..event("x") })
    };
    let around = r#"{"actor":""}"#.len();
    assert_refused(&store, with(MAX_METADATA - around + 1), "metadata is 65537 bytes").await;
    store.commit(with(MAX_METADATA - around)).await.expect("at the limit");
    let tagged = |n: usize| {
        let tags = (0..n).map(|i| Tag::new("n", i).expect("a tag")).collect();
        one(NewEvent { tags, ..event("x") })
    };
    assert_refused(&store, tagged(MAX_TAGS + 1), "65 tags").await;
    store.commit(tagged(MAX_TAGS)).await.expect("at the limit");
    assert_eq!(store.stream("a").await[1].tags.len(), MAX_TAGS);
}

/// B12
pub async fn more_events_than_a_commit_may_hold_are_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let many = append(&id("a"), ANY, events(HARD_MAX_EVENTS)).and("b", ANY, events(1));
    assert_refused(&store, many, "commit is 10001 events, over the limit of 10000").await;
    assert_eq!((store.version("a").await, store.version("b").await), (0, 0));
}

/// B20
pub async fn a_nul_in_a_payload_comes_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let text = "a\0b\u{ffff}\u{1F600}";
    let deposit = AccountEvent::Deposited(Deposited { amount: 1, reference: Some(text.to_owned()) });
    store.put("account-a", vec![encoded(&deposit), raw("raw", 1, "\"\0\"")]).await;
    let stored = store.stream("account-a").await;
    assert_eq!(AccountEvent::decode(&stored[0]).expect("readable"), crate::event::Decoded::One(deposit));
    assert_eq!(&*stored[1].data, b"\"\0\"");
}

/// B21
pub async fn a_payload_nested_too_deep_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let nested = |n: usize| one(raw("deep", 1, &format!("{}{}", "[".repeat(n), "]".repeat(n))));
    for n in [65, 1_000, 400_000] {
        assert_refused(&store, nested(n), "over the limit of 64").await;
    }
    let open = one(raw("deep", 1, &"{\"a\":".repeat(150_000)));
    assert_refused(&store, open, "over the limit of 64").await;
    store.commit(nested(64)).await.expect("at the limit");
}

fn mark(key: &str) -> OutcomeMark {
    let outcome = Outcome {
        fingerprint: u128::MAX - 5,
        stream: id("a"),
        version: Version(2),
        position: Position(0),
        events: 1,
        refusal: Some("\"no\"".into()),
    };
    OutcomeMark { key: IdempotencyKey::new(key).expect("a key"), outcome }
}

/// E10
pub async fn an_outcome_is_stored_with_its_commit_and_comes_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("other", events(2)).await;
    let keyed = |n| Commit { outcomes: vec![mark("k'%")], ..append(&id("a"), ANY, events(n)) };
    store.commit(keyed(2).checking("other", exact(1))).await.expect_err("the check does not hold");
    let key = IdempotencyKey::new("k'%").expect("a key");
    assert_eq!(store.outcome(&key).await, None, "not without its commit");
    let done = store.commit(keyed(2)).await.expect("accepted");
    assert_eq!(done.position, Position(4));
    let stored = store.outcome(&key).await.expect("with its commit");
    let expected = Outcome { position: Position(4), ..mark("k'%").outcome };
    assert_eq!(stored, expected);
    let repeated = store.commit(keyed(1)).await.expect_err("used before");
    let CommitError::Repeated { key: named, outcome } = repeated else { panic!("{repeated:?}") };
    assert_eq!((named, *outcome), (key, expected));
    let mut other = keyed(1);
    other.outcomes[0].outcome.fingerprint = 5;
    let reused = store.commit(other).await.expect_err("another request");
    assert!(matches!(reused, CommitError::KeyReused { .. }), "{reused:?}");
    assert_eq!(store.head().await, 4);
}

/// E10: whatever else has changed, a repeated request gets its first outcome.
pub async fn a_repeated_key_comes_before_every_other_refusal<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let keyed = Commit { outcomes: vec![mark("k")], ..append(&id("a"), exact(0), events(1)) };
    store.commit(keyed).await.expect("accepted");
    let stale = Commit {
        outcomes: vec![mark("k")],
        rows: vec![RowWrite { table: "v/1".into(), key: "k".to_owned(), rev: 9, row: None }],
        ..append(&id("a"), exact(0), events(1)).under(EventFilter::all(), Position(0))
    };
    let repeated = store.commit(stale).await.expect_err("used before");
    assert!(matches!(repeated, CommitError::Repeated { .. }), "{repeated:?}");
}

/// B13: a key or a row that stands twice in one commit would say two things.
pub async fn what_stands_twice_in_one_commit_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let keys = Commit { outcomes: vec![mark("k"), mark("k")], ..append(&id("a"), ANY, events(1)) };
    assert_refused(&store, keys, "stands twice").await;
    let row = RowWrite { table: "v/1".into(), key: "k".to_owned(), rev: 0, row: None };
    assert_refused(&store, Commit { rows: vec![row.clone(), row], ..Commit::default() }, "stands twice")
        .await;
}

/// B1: whatever is refused, the text names the field and cuts the value.
pub async fn the_text_of_a_refusal_is_short<S: Subject>(subject: S) {
    let _store = store(&subject).await;
    let refused = IdempotencyKey::new("k".repeat(10_000_000)).expect_err("too long");
    assert!(matches!(refused, LimitError::TooLarge { field: "idempotency key", .. }), "{refused:?}");
    assert!(refused.to_string().len() < 200);
}

/// Asks until it is answered, and is refused for a limit, shortly.
macro_rules! assert_not_asked {
    ($question:expr, $expected:expr) => {{
        let refused = loop {
            match $question.await {
                Err(error) if error.kind() == ErrorKind::Transient => {}
                Err(error) => break error,
                Ok(answer) => panic!("{answer:?}"),
            }
        };
        let text = crate::chain(&refused);
        assert!(text.contains($expected) && text.len() < 300, "{text}");
        assert_eq!(refused.kind(), ErrorKind::Misuse, "{text}");
    }};
}

/// What no key may be, and what is said of it.
fn bad_keys() -> [(String, &'static str); 4] {
    [
        (String::new(), "is empty"),
        ("a\0b".to_owned(), "has '\\0' at byte 1"),
        ("a".repeat(256), "over the limit of 255"),
        ("ä".repeat(500_000), "over the limit of 255"),
    ]
}

/// B60
pub async fn what_is_asked_for_is_checked_like_what_is_written<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    for (key, expected) in bad_keys() {
        assert_not_asked!(store.0.rows("v/1", std::slice::from_ref(&key)), expected);
        assert_not_asked!(store.0.rows(&key, &["k".to_owned()]), expected);
    }
    let none = [("a\0b", "has '\\0' at byte 1"), (&"a".repeat(1_000_000), "over the limit of 1020")];
    for (bound, expected) in none {
        let span = |after: &str, before: Option<&str>| {
            [Span { after: after.to_owned(), before: before.map(str::to_owned), limit: 5 }]
        };
        assert_not_asked!(store.0.scan("v/1", Some(bound), 5), expected);
        assert_not_asked!(store.0.scan_many("v/1", &span(bound, None)), expected);
        assert_not_asked!(store.0.scan_many("v/1", &span("", Some(bound))), expected);
    }
    for (name, expected) in bad_keys() {
        let filter = EventFilter::types([name]);
        assert_not_asked!(store.0.read(&filter, Position(0), 5), expected);
        let condition = AppendCondition { fail_if_events_match: filter, after: Position(1) };
        let commit = Commit { condition: Some(condition), ..one(event("x")) };
        assert_refused(&store, commit, expected).await;
    }
}

/// B60
pub async fn a_key_that_an_operator_asks_for_is_checked_like_what_is_written<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = world.start().await;
    for (key, expected) in bad_keys() {
        for kind in KINDS {
            let processor = kind.of(&app);
            assert_not_asked!(processor.retry(&key, LIMIT), expected);
            assert_not_asked!(processor.discard(&key, "booked twice", LIMIT), expected);
            assert_not_asked!(processor.parked_events(&key, Position(0), 5), expected);
        }
        assert_not_asked!(Kind::View.of(&app).rebuild_keys(std::slice::from_ref(&key), LIMIT), expected);
    }
    let reason = "x".repeat(1_000_000);
    assert_not_asked!(Kind::View.of(&app).discard("a", &reason, LIMIT), "reason is 1000000 bytes");
    assert_not_asked!(
        Kind::View.of(&app).discard_all(&ParkedFilter::default(), &reason, LIMIT),
        "reason is 1000000 bytes"
    );
}

/// B63
pub async fn a_codec_is_a_name<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let coded = |name: &str| one(NewEvent { codec: name.to_owned().into(), ..event("x") });
    for (bad, expected) in [
        ("", "codec is empty"),
        ("a b", "codec \"a b\" has ' '"),
        ("a\0", "at byte 1"),
        (&"c".repeat(256), "codec is 256 bytes"),
    ] {
        assert_refused(&store, coded(bad), expected).await;
    }
    store.commit(coded(&"c".repeat(255))).await.expect("the longest");
}

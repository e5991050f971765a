//! Reading: R1 to R11, with B11, B14, B15, B30 and B31 where they are about reads.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::data::{ANY, encoded, event, events, id, ids, new_id, places, raw, tagged, versions};
use super::domain::{Account, AccountEvent, deposited, opened, withdrawn};
use super::patient::{Patient, ask};
use super::readside::Balance;
use super::{Subject, next, settle, start, store};
use crate::LoadError;
use crate::clock::Timestamp;
use crate::codec::DecodeProblem;
use crate::event::{Event, Metadata, Tag};
use crate::limits::{MAX_PAGE, MAX_SEQUENCE};
use crate::store::{
    Backend, Bookmark, EventFilter, EventStore, NewEvent, Position, RowStore, Subscription, Transaction,
    Version,
};
use crate::testing::TestClock;
use crate::{App, ErrorKind, Views};

/// E11
pub async fn everything_of_an_event_comes_back_byte_for_byte<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let mut metadata = Metadata {
        correlation: Some(new_id()),
        causation: Some(new_id()),
        actor: Some("ada \u{1F9EE} \u{0}".to_owned()),
        tenant: Some("t'; DROP TABLE events;--".to_owned()),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        trace_state: Some("a=b".to_owned()),
        ..Metadata::default()
    };
    metadata.user.insert("key \\ \"".to_owned(), String::new());
    let new = NewEvent {
        schema: 7,
        codec: "bytes".into(),
        data: (0..=255).collect::<Vec<u8>>().into(),
        tags: [Tag::new("course", "1 % _ *"), Tag::new("a", "b:c")].map(|t| t.expect("short")).into(),
        metadata: Arc::new(metadata),
        ..event("Some.Thing_happened:here-1")
    };
    let plain = NewEvent { data: Vec::new().into(), codec: "nothing".into(), ..event("plain") };
    let at = "2031-02-03T04:05:06.789012Z".parse().expect("a time");
    clock.set(at);
    store.put("a stream", vec![new.clone(), plain.clone()]).await;
    let stored = store.stream("a stream").await;
    for (i, (new, stored)) in [new, plain].iter().zip(&stored).enumerate() {
        assert!(new.is_same(stored), "{new:?} {stored:?}");
        assert_eq!(new.metadata, stored.metadata);
        assert_eq!((stored.position, stored.version), (Some(Position(i as u64 + 1)), Version(i as u64 + 1)));
        assert_eq!((&stored.stream, stored.recorded_at), (&id("a stream"), at));
    }
    assert_eq!(stored, store.all().await, "the same by stream and by position");
}

/// R1
pub async fn a_stream_that_does_not_exist_is_empty<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    assert!(store.stream("b").await.is_empty());
    let app = App::on(store.0.clone()).start().await.expect("nothing to prepare");
    let loaded = loop {
        match app.load::<Account>(&"nobody".to_owned()).await {
            Err(LoadError::Store(_)) => {}
            answer => break answer,
        }
    };
    assert!(loaded.expect("readable").is_none());
}

/// R2
pub async fn a_stream_is_read_from_a_version_in_pages<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for _ in 0..5 {
        store.put("a", events(1)).await;
        store.put("b", events(1)).await;
    }
    let page = |after, limit| {
        let store = store.clone();
        async move { versions(&store.tail("a", after, limit).await) }
    };
    assert_eq!(page(0, 2).await, [1, 2]);
    assert_eq!(page(2, 2).await, [3, 4]);
    assert_eq!(page(4, 2).await, [5]);
    assert_eq!(page(5, 2).await, [0; 0]);
    assert_eq!(page(3, usize::MAX).await, [4, 5]);
}

/// R2: an aggregate of 100,000 events is loaded whole, and other tasks of its thread run meanwhile.
pub async fn a_hundred_thousand_events_load_without_blocking_others<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let deposit = encoded(&deposited(1));
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    for _ in 0..20 {
        let page = (0..5_000).map(|_| NewEvent { id: new_id(), ..deposit.clone() }).collect();
        store.put("account-a", page).await;
    }
    let (app, key) = (App::on(store.0.clone()).start().await.expect("nothing to prepare"), "a".to_owned());
    let (mut turns, mut loading) = (0, app.load::<Account>(&key).boxed());
    let loaded = loop {
        // Each time it is not ready, the other tasks of the thread have their turn.
        let polled = futures::future::poll_fn(|context| {
            turns += 1;
            loading.poll_unpin(context)
        });
        match polled.await {
            Err(LoadError::Store(_)) => (turns, loading) = (0, app.load::<Account>(&key).boxed()),
            answer => break answer.expect("readable").expect("there"),
        }
    };
    assert_eq!((loaded.balance, loaded.n_events, loaded.version), (100_000, 100_001, Version(100_001)));
    assert!(turns >= 50, "others had a turn between pages: {turns}");
}

/// R3, R6
pub async fn a_filtered_read_goes_through_pages_without_a_match<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for round in 0..3 {
        let mut page = events(500);
        page.push(tagged("wanted", &[&format!("round:{round}")]));
        store.put("a", page).await;
    }
    let wanted = EventFilter::types(["wanted"]);
    let (mut through, mut found) = (0, Vec::new());
    loop {
        let page = store.page(&wanted, through, 1).await;
        assert!(page.through.0 > through || !page.more, "each page gets somewhere");
        assert!(page.events.iter().all(|e| e.place() <= page.through && e.place().0 > through));
        through = page.through.0;
        found.extend(page.events);
        if !page.more {
            break;
        }
    }
    assert_eq!(places(&found), [501, 1_002, 1_503]);
    assert_eq!(through, 1_503, "the progress over what does not match is known");
    assert_eq!(store.read(&EventFilter::types(["none"]), 0).await.through, Position(1_503));
}

/// R3
pub async fn a_subscription_goes_on_with_what_any_handle_appends<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    store.put("a", events(3)).await;
    let mut all = subscription(&store, EventFilter::all(), 1);
    let mut tagged_only = subscription(&store, EventFilter::all().tagged(&super::data::tag("x:1")), 0);
    let mut seen = vec![next(&mut all).await, next(&mut all).await];
    for round in 0..10 {
        let writer = if round % 2 == 0 { &store } else { &other };
        let (done, event) = futures::join!(writer.put("b", vec![tagged("t", &["x:1"])]), next(&mut all));
        assert_eq!(event.place(), done.position, "it waited, and went on");
        assert_eq!(next(&mut tagged_only).await, event);
        seen.push(event);
    }
    assert_eq!(places(&seen), (2..=13).collect::<Vec<_>>());
    assert_eq!(all.position(), Position(13));
}

fn subscription<B: Backend + Clone>(store: &Patient<B>, filter: EventFilter, after: u64) -> Subscription {
    Subscription::new(Arc::new(store.0.clone()), filter, Position(after)).with_poll(Duration::from_millis(50))
}

/// R3: dropping the future of `next` loses nothing.
pub async fn a_subscription_that_is_dropped_in_the_middle_loses_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mut reader = subscription(&store, EventFilter::all(), 0);
    let mut seen = Vec::new();
    for _ in 0..20 {
        // Polled once, then dropped: before it reads, while it reads, or while it waits.
        if let Some(Ok(event)) = reader.next().now_or_never() {
            seen.push(event);
        }
        store.put("a", events(1)).await;
    }
    while seen.len() < 20 {
        seen.push(next(&mut reader).await);
    }
    assert_eq!(places(&seen), (1..=20).collect::<Vec<_>>());
}

/// R4
pub async fn a_wake_up_comes_with_a_commit<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mut wake = store.0.watch();
    wake.mark_unchanged();
    // Late or lost for some commits, but not for ever: while commits go on, one comes.
    for _ in 0..100 {
        store.put("a", events(1)).await;
        if wake.has_changed().expect("the store is there") {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("a hundred commits in this process, and no wake-up")
}

/// R5, B11, B15
pub async fn reading_beyond_the_head_is_empty<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(2)).await;
    for after in [2, 3, 1_000_000, MAX_SEQUENCE, u64::MAX] {
        let page = store.page(&EventFilter::all(), after, 10).await;
        assert_eq!(
            (page.events.len(), page.through, page.more),
            (0, Position(after), false),
            "after {after}"
        );
        let page = store.page(&EventFilter::types(["x"]), after, 10).await;
        assert_eq!(
            (page.events.len(), page.through, page.more),
            (0, Position(after), false),
            "after {after}"
        );
        assert!(store.tail("a", after, 10).await.is_empty());
    }
}

/// B15
pub async fn a_subscription_beyond_the_head_waits_for_its_position<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(2)).await;
    let mut ahead = subscription(&store, EventFilter::all(), 4);
    let writer = async {
        for _ in 0..4 {
            store.put("a", events(1)).await;
        }
    };
    let (event, ()) = futures::join!(next(&mut ahead), writer);
    assert_eq!(event.place(), Position(5));
}

/// R11
pub async fn a_bookmark_goes_on_and_one_of_another_history_is_refused<S: Subject>(subject: S) {
    let (store, other) = (store(&subject).await, store(&subject).await);
    store.put("a", events(3)).await;
    other.put("a", events(3)).await;
    let handle: Arc<dyn EventStore> = Arc::new(store.0.clone());
    let bookmark = ask(|| Bookmark::of(&*handle, Position(2))).await;
    let mut resumed = ask(|| Subscription::resume(handle.clone(), EventFilter::all(), bookmark)).await;
    assert_eq!(resumed.bookmark(), Some(bookmark));
    assert_eq!(next(&mut resumed).await.place(), Position(3));
    assert_eq!(resumed.bookmark(), Some(ask(|| Bookmark::of(&*handle, Position(3))).await));
    let strangers = [
        (ask(|| Bookmark::of(&other.0, Position(2))).await, "another store"),
        (Bookmark { event: new_id(), ..bookmark }, "another event"),
        (Bookmark { position: Position(9), ..bookmark }, "no event"),
    ];
    for (stranger, why) in strangers {
        let refused = loop {
            match Subscription::resume(handle.clone(), EventFilter::all(), stranger).await {
                Err(error) if error.kind() == ErrorKind::Transient => {}
                outcome => break outcome.map(drop).expect_err("it is not of this history"),
            }
        };
        assert_eq!(refused.kind(), ErrorKind::Misuse);
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let start = Bookmark::start(&*handle);
    ask(|| start.check(&*handle)).await;
}

/// B14
pub async fn a_limit_of_nothing_reads_nothing_and_a_huge_one_is_capped<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for _ in 0..3 {
        store.put("a", events(4_000)).await;
    }
    let page = store.page(&EventFilter::all(), 0, 0).await;
    assert_eq!((page.events.len(), page.through), (0, Position(0)));
    assert!(store.tail("a", 0, 0).await.is_empty());
    let page = store.page(&EventFilter::all(), 0, usize::MAX).await;
    assert_eq!((page.events.len(), page.through, page.more), (MAX_PAGE, Position(MAX_PAGE as u64), true));
    assert_eq!(store.tail("a", 0, usize::MAX).await.len(), MAX_PAGE);
    assert_eq!(store.all().await.len(), 12_000);
}

/// R12: in the order of the log, whatever order they are asked in; what is not there is left out.
pub async fn events_are_read_by_their_positions<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(5)).await;
    store.put("b", events(5)).await;
    let all = store.all().await;
    let handle = store.0.clone();
    let at = async |positions: &[u64]| {
        let positions: Vec<Position> = positions.iter().copied().map(Position).collect();
        ask(|| handle.at(&positions)).await
    };
    assert_eq!(at(&[]).await, []);
    assert_eq!(at(&[7, 2, 7, 11, 0, u64::MAX]).await, [all[1].clone(), all[6].clone()]);
    assert_eq!(at(&(1..=10).rev().collect::<Vec<_>>()).await, all);
    let too_many: Vec<Position> = (0..=MAX_PAGE as u64).map(Position).collect();
    let error = loop {
        match handle.at(&too_many).await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            outcome => break outcome.expect_err("they are too many"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}

/// R7: ten writers with random pauses, each seventh transaction rolled back, one reader.
pub async fn a_reader_beside_ten_writers_sees_every_committed_event_once_in_order<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mut reader = subscription(&store, EventFilter::all(), 0);
    // A task each: some backends let a task hold one transaction, and wait for nothing else meanwhile.
    let mut writers = Vec::new();
    for seed in 0..10 {
        writers.push(tokio::spawn(write(Patient(subject.again(&store.0).await), seed)));
    }
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < 10 * 12 {
            seen.push(next(&mut reader).await);
        }
        seen
    };
    let (committed, seen) = futures::join!(join_all(writers), read);
    assert_eq!(places(&seen), (1..=120).collect::<Vec<_>>());
    let mut committed: Vec<_> =
        committed.into_iter().flat_map(|ids| ids.expect("no writer panicked")).collect();
    let mut seen = ids(&seen);
    committed.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, committed, "every committed event, and no other");
    assert_eq!(store.head().await, 120);
}

/// Fourteen tries of one event each, two of them rolled back; the ids of the others.
async fn write<B: Backend + RowStore + Clone>(store: Patient<B>, seed: u64) -> Vec<uuid::Uuid> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut committed = Vec::new();
    for i in 0..14 {
        tokio::time::sleep(Duration::from_micros(random.random_range(0..2_000))).await;
        let new = event("written");
        let stream = format!("s-{}", random.random_range(0..3));
        if i % 7 == 3 {
            let mut tx = store.begin().await;
            tx.staged().appends.push(crate::store::Append {
                stream: id(&stream),
                expected: ANY,
                events: vec![new],
            });
            ask_once(tx.rollback().await);
        } else {
            committed.push(new.id);
            store.put(&stream, vec![new]).await;
        }
    }
    committed
}

fn ask_once(rolled_back: Result<(), crate::store::StoreError>) {
    if let Err(error) = rolled_back {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    }
}

/// R8
pub async fn a_position_at_a_time_lies_before_every_event_of_that_time<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let t = |second| Timestamp::from_second(crate::testing::epoch().as_second() + second).expect("a time");
    assert_eq!(store.position_at(t(0)).await, 0, "an empty store");
    for second in [10, 20, 20, 30] {
        clock.set(t(second));
        store.put("a", events(1)).await;
    }
    for (second, expected) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (30, 3), (31, 4), (1_000, 4)] {
        assert_eq!(store.position_at(t(second)).await, expected, "at second {second}");
    }
}

/// R8
pub async fn recorded_times_never_go_backwards<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let start = crate::testing::epoch().as_second();
    for second in [10, 5, 7, 20] {
        clock.set(Timestamp::from_second(start + second).expect("a time"));
        store.put("a", events(1)).await;
    }
    let times: Vec<_> = store.all().await.iter().map(|e| e.recorded_at.as_second() - start).collect();
    assert_eq!(times, [10, 10, 10, 20], "a clock that goes back repeats the last time");
}

/// R9, B30
pub async fn an_unknown_event_fails_its_aggregate_by_name_and_no_reader_that_skips_it<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    let strange = raw("account.merged", 1, "{}");
    store.put("account-a", vec![encoded(&opened("ada")), strange.clone(), encoded(&deposited(5))]).await;
    store.put("account-b", vec![encoded(&opened("bob"))]).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    let error = undecodable(&app, "a").await;
    assert!(matches!(error.problem, DecodeProblem::UnknownType), "{error}");
    assert_eq!((&*error.name, error.id, error.position), ("account.merged", strange.id, Some(Position(2))));
    assert!(load(&app, "b").await.is_ok(), "other streams are not affected");
    settle(&app).await;
    let balance = balance(&app, "a").await;
    assert_eq!(balance.map(|b| b.amount), Some(5));
}

/// B23, B30, B31
pub async fn an_event_that_cannot_be_read_is_an_error_that_names_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let cases: [(NewEvent, &str); 6] = [
        (raw("account.deposited", 9, "{}"), "its schema is newer than 3"),
        (raw("account.opened", 0, "{}"), "no upcaster reads that schema"),
        (raw("account.rated", 1, "{}"), "its upcaster panicked: no rate to be found"),
        (raw("account.deposited", 3, r#"{"reference":null}"#), "missing field `amount`"),
        (raw("account.deposited", 3, r#"{"amount":1"#), "EOF"),
        (NewEvent { codec: "cbor".into(), ..raw("account.opened", 1, "{}") }, "codec \"cbor\""),
    ];
    let app = App::on(store.0.clone()).start().await.expect("nothing to prepare");
    for (i, (bad, expected)) in cases.into_iter().enumerate() {
        let (name, key) = (bad.id, format!("a-{i}"));
        store.put(&format!("account-{key}"), vec![encoded(&opened("ada")), bad]).await;
        let error = undecodable(&app, &key).await;
        assert_eq!((error.id, error.position), (name, Some(Position(i as u64 * 2 + 2))));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// B23
pub async fn unknown_fields_of_a_payload_are_ignored<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![raw("account.opened", 1, r#"{"owner":"ada","since":[1,{}]}"#)]).await;
    let app = App::on(store.0.clone()).start().await.expect("nothing to prepare");
    assert_eq!(load(&app, "a").await.expect("readable").owner, "ada");
}

/// R10
pub async fn old_shapes_are_upcast_wherever_they_are_read<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let history = vec![
        encoded(&opened("ada")),
        raw("account.deposited", 1, r#"{"cents":1000}"#),
        raw("account.deposited", 2, r#"{"amount":5}"#),
        encoded(&deposited(1)),
        raw("account.debited", 1, r#"{"amount":2}"#),
        raw("account.exchanged", 1, r#"{"out":4,"back":3}"#),
        raw("account.noted", 1, r#"{"text":"gone"}"#),
    ];
    store.put("account-a", history).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    let account = load(&app, "a").await.expect("readable");
    assert_eq!((account.balance, account.n_events), (13, 7), "a split counts twice, a dropped one not");
    settle(&app).await;
    assert_eq!(balance(&app, "a").await, Some(Balance { amount: 13, n_payments: 6 }));
    let mut reader = subscription(&store, EventFilter::of_enum::<AccountEvent>(), 4);
    assert_eq!(decode(&next(&mut reader).await), [withdrawn(2)]);
    assert_eq!(decode(&next(&mut reader).await), [withdrawn(4), deposited(3)]);
    assert_eq!(decode(&next(&mut reader).await), []);
}

fn decode(event: &crate::RecordedEvent) -> Vec<AccountEvent> {
    AccountEvent::decode(event).expect("readable").into_iter().collect()
}

async fn load(app: &App, key: &str) -> Result<Account, LoadError> {
    loop {
        match app.load::<Account>(&key.to_owned()).await {
            Err(LoadError::Store(error)) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            answer => return answer.map(|found| found.expect("there").state),
        }
    }
}

async fn undecodable(app: &App, key: &str) -> crate::codec::DecodeError {
    match load(app, key).await.expect_err("an event of it cannot be read") {
        LoadError::Decode(error) => error,
        other => panic!("{other}"),
    }
}

pub(super) async fn balance(app: &App, key: &str) -> Option<Balance> {
    let views: &Views = app.services().get().expect("the app has a view");
    loop {
        if let Ok(found) = views.get::<Balance>(&key.to_owned()).await {
            return found;
        }
    }
}

//! Large events and rows: P24. Whatever reads them has a few pages in memory and not all of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::data::{encoded, event, ids, new_id, tag};
use super::domain::{Account, AccountEvent, Deposited, opened};
use super::double::Double;
use super::patient::{Patient, ask};
use super::payments::{KINDS, Poison, World, answered, parked_keys, payment, retry};
use super::readside::Balance;
use super::vanishing::read;
use super::{Subject, next, settle, start, store};
use crate::decision::{Decided, Decision};
use crate::event::{Event as _, Recorded};
use crate::limits::{MAX_PAGE, PAGE_BYTES};
use crate::processor::ProcessorOptions;
use crate::projection::{Change, Fold, Projection, View};
use crate::repository::At;
use crate::store::{
    Backend, Commit, EventFilter, NewEvent, PageItem, Position, RecordedEvent, RowStore, RowWrite, Span,
    StoredRow, Subscription, Version, is_full,
};
use crate::{App, BoxError};

/// The payload of one of the large events.
const LARGE: usize = 900_000;
/// How many of them there are: some pages.
const EVENTS: usize = 50;
/// What one page has at most.
const PAGE: usize = PAGE_BYTES + LARGE;
/// What processors have of the log: pages that they share, the one that they handle, and the next one.
const SHARED: usize = (16 << 20) + 3 * PAGE;

fn large(amount: i64) -> AccountEvent {
    AccountEvent::Deposited(Deposited { amount, reference: Some("x".repeat(LARGE)) })
}

/// Large events in one stream, between two small ones.
async fn fill<B: Backend + RowStore + Clone>(store: &Patient<B>) {
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    for _ in 0..EVENTS / 5 {
        store.put("account-a", (0..5).map(|_| encoded(&large(1))).collect()).await;
    }
    store.put("account-a", vec![encoded(&opened("eve"))]).await;
}

/// Whether a page ends where it should; it does not have to be full at the end of what there is.
fn assert_page<T: PageItem + fmt::Debug>(page: &[T], limit: usize, is_last: bool) {
    let sizes: Vec<usize> = page.iter().map(PageItem::size).collect();
    let before_last: usize = sizes.iter().rev().skip(1).sum();
    assert!(before_last < PAGE_BYTES, "it ends with what fills it: {sizes:?}");
    assert!(page.len() <= limit, "{} of at most {limit}", page.len());
    assert!(is_last || is_full(page, limit), "it is cut before it is full: {sizes:?}");
}

/// P24
pub async fn a_read_of_large_events_comes_in_pages_bounded_by_bytes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let large = |i: usize| NewEvent {
        id: new_id(),
        codec: "text".into(),
        data: vec![b'x'; if i.is_multiple_of(7) { 10 } else { LARGE }].into(),
        tags: vec![tag("size:large")],
        ..event("scanned")
    };
    for some in 0..5 {
        store.put("a", (0..4).map(|i| large(4 * some + i)).collect()).await;
        store.put("b", vec![event("noted")]).await;
    }
    // Again, since a store may know by now that they are large.
    for limit in [MAX_PAGE, MAX_PAGE, 3, 100] {
        let mut stream: Vec<RecordedEvent> = Vec::new();
        loop {
            let page = store.tail("a", stream.len() as u64, limit).await;
            assert_page(&page, limit, stream.len() + page.len() == 20);
            let last = !is_full(&page, limit);
            stream.extend(page);
            if last {
                break;
            }
        }
        assert_eq!(stream.iter().map(|e| e.version.0).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
        let filters = [
            EventFilter::all(),
            EventFilter::types(["scanned"]),
            EventFilter::all().tagged(&tag("size:large")),
        ];
        for filter in filters {
            let (mut found, mut after): (Vec<RecordedEvent>, _) = (Vec::new(), 0);
            loop {
                let page = store.page(&filter, after, limit).await;
                assert_page(&page.events, limit, !page.more);
                after = page.through.0;
                found.extend(page.events);
                if !page.more {
                    break;
                }
            }
            let all: Vec<_> = found.iter().filter(|e| e.data.len() > 2).cloned().collect();
            assert_eq!(ids(&all), ids(&stream), "{filter:?}: each once and in order");
            assert_eq!(after, 25, "to the head");
        }
    }
    let places: Vec<Position> = (1..=25).map(Position).collect();
    let (mut left, mut found) = (&places[..], Vec::new());
    while !left.is_empty() {
        let (page, answered) = ask(|| crate::store::at_first(&store.0, left)).await;
        assert_page(&page, left.len(), answered == left.len());
        found.extend(page.iter().map(RecordedEvent::place));
        left = &left[answered..];
    }
    assert_eq!(found, places, "by position as well");
}

/// P24
pub async fn a_repetition_of_large_events_is_known_as_one<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let events: Vec<NewEvent> = (0..8).map(|_| encoded(&large(1))).collect();
    let expected = crate::store::ExpectedVersion::NoStream;
    let first = store.append("account-a", expected, events.clone()).await.expect("a new stream");
    let again = store.append("account-a", expected, events).await.expect("the same again");
    assert_eq!((again.versions, store.version("account-a").await), (first.versions, 8));
    let commit = Commit {
        explain: true,
        ..super::data::append(&super::data::id("account-a"), expected, vec![event("x")])
    };
    let Err(crate::store::CommitError::Conflict { since, .. }) = store.commit(commit).await else {
        panic!("the stream is not new")
    };
    assert_page(&since, MAX_PAGE, false);
    assert_eq!(since[0].version, Version(1));
}

fn write(key: String, size: usize) -> RowWrite {
    RowWrite { table: "large".into(), key, rev: 0, row: Some(vec![b'x'; size].into()) }
}

/// P24
pub async fn a_scan_of_large_rows_comes_in_pages_bounded_by_bytes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let sizes =
        [10, 1_500_000, 1_500_000, PAGE_BYTES + 1_000_000, 10, 10, 1_500_000, 1_500_000, 1_500_000, 10];
    for (i, size) in sizes.iter().enumerate() {
        let rows = vec![write(format!("{i:02}"), *size)];
        store.commit(Commit { rows, ..Commit::default() }).await.expect("a new row");
    }
    for limit in [1_000, 1_000, 2] {
        let mut all: Vec<StoredRow> = Vec::new();
        loop {
            let after = all.last().map(|row| row.key.clone());
            let page = ask(|| store.0.scan("large", after.as_deref(), limit)).await;
            assert_page(&page, limit, all.len() + page.len() == sizes.len());
            let last = !is_full(&page, limit);
            all.extend(page);
            if last {
                break;
            }
        }
        let found: Vec<usize> = all.iter().map(|row| row.data.len()).collect();
        assert_eq!(found, sizes, "each once and in order");
    }
    // Of many spans each has its part of the page, and at least one row.
    let span = |first: usize| Span {
        after: format!("{first:02}"),
        before: Some(format!("{:02}", first + 4)),
        limit: 1_000,
    };
    let spans = [span(0), span(2), span(5)];
    let found = ask(|| store.0.scan_many("large", &spans)).await;
    let counts: Vec<usize> = found.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 1, 1], "a third of a page each");
    let found = ask(|| store.0.scan_many("large", &spans[..1])).await;
    assert_eq!(found[0].len(), 3, "a page alone");
}

/// Counts what is paid into any account.
#[derive(Clone)]
struct Paid(Arc<AtomicUsize>);

impl Decision for Paid {
    type State = usize;
    type Error = super::domain::AccountError;

    fn scope(&self) -> EventFilter {
        EventFilter::of::<Deposited>()
    }

    fn apply(&self, n: &mut usize, event: &RecordedEvent) -> Result<(), BoxError> {
        *n += usize::from(event.payload::<Deposited>()?.is_some());
        Ok(())
    }

    fn decide(self, n: &usize) -> Result<Vec<Decided>, Self::Error> {
        self.0.store(*n, Ordering::SeqCst);
        Ok(Vec::new())
    }
}

/// P24
pub async fn who_reads_large_events_holds_two_pages_of_them<S: Subject>(subject: S) {
    let line = Double::new(subject.open().await);
    let store = Patient(line.clone());
    fill(&store).await;
    let app = start(|| App::on(line.clone()).live_view::<Balance>()).await;
    let key = "a".to_owned();
    let held = |what: &str| {
        assert!(line.most_held() >= LARGE, "{what} has read large events");
        assert!(line.most_held() <= 2 * PAGE, "{what}: {} bytes", line.most_held());
        line.forget_most();
    };
    line.forget_most();
    let loaded = read(|| app.load::<Account>(&key)).await.expect("it is there");
    assert_eq!((loaded.balance, &*loaded.owner), (EVENTS as i64, "eve"));
    held("a load");
    let past = read(|| app.load_at::<Account>(&key, At::Version(Version(40)))).await.expect("it is there");
    assert_eq!(past.balance, 39);
    held("a load of the past");
    let n = Arc::new(AtomicUsize::new(0));
    read(|| app.decide(Paid(n.clone()))).await;
    assert_eq!(n.load(Ordering::SeqCst), EVENTS);
    held("a decision");
    let mut subscription = Subscription::new(app.store_handle(), EventFilter::all(), Position(0));
    for place in 1..=EVENTS as u64 + 2 {
        assert_eq!(next(&mut subscription).await.place(), Position(place));
    }
    drop(subscription);
    held("a subscription");
    let row = super::reading::balance(&app, "a").await.expect("there is one");
    assert_eq!(row.n_payments, EVENTS as u64);
    held("a live view");
}

/// P24
pub async fn processors_that_handle_large_events_hold_a_few_pages_of_them<S: Subject>(subject: S) {
    let line = Double::new(subject.open().await);
    let store = Patient(line.clone());
    fill(&store).await;
    line.forget_most();
    let app = start(|| App::on(line.clone()).view::<Balance>()).await;
    settle(&app).await;
    assert_eq!(super::reading::balance(&app, "a").await.expect("a row").n_payments, EVENTS as u64);
    assert!(line.most_held() <= SHARED, "a view: {} bytes", line.most_held());
    line.forget_most();
    answered(|| app.rebuild::<Balance>()).await.expect("it is a view");
    settle(&app).await;
    assert_eq!(super::reading::balance(&app, "a").await.expect("a row").n_payments, EVENTS as u64);
    assert!(line.most_held() <= SHARED, "a rebuild: {} bytes", line.most_held());
}

/// What was said of the payments into each account, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Letters(Vec<String>);

impl Projection for Letters {
    const NAME: &'static str = "letters";
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl View for Letters {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let mut changes = Vec::new();
        for payload in AccountEvent::decode(event)? {
            if let AccountEvent::Deposited(deposited) = payload {
                Change::of(deposited, event, &mut changes)?;
            }
        }
        Ok(changes)
    }
}

impl Fold<Deposited> for Letters {
    fn keys(event: Recorded<'_, Deposited>) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.aggregate_id()?])
    }

    fn fold(mut self, event: Recorded<'_, Deposited>) -> Result<Option<Self>, BoxError> {
        self.0.extend(event.reference.clone());
        Ok(Some(self))
    }
}

/// P24
pub async fn a_view_of_large_rows_keeps_and_writes_some_at_a_time<S: Subject>(subject: S) {
    const ROWS: usize = 40;
    const ROW: usize = 200_000;
    const BYTES: usize = 1 << 20;
    let line = Double::new(subject.open().await);
    let store = Patient(line.clone());
    let put = async |text: &str| {
        for i in 0..ROWS {
            let letter = AccountEvent::Deposited(Deposited { amount: 1, reference: Some(text.to_owned()) });
            store.put(&format!("account-{i}"), vec![encoded(&letter)]).await;
        }
    };
    let wiring =
        || App::on(line.clone()).view::<Letters>().processors(ProcessorOptions::default().bytes(BYTES));
    put(&"x".repeat(ROW)).await;
    line.forget_most();
    let app = start(wiring).await;
    settle(&app).await;
    // What has room left, and one more step.
    assert!(line.most_written() <= 2 * BYTES + 2 * ROW, "rows that are new: {} bytes", line.most_written());
    line.forget_most();
    let keys: Vec<String> = (0..ROWS).map(|i| i.to_string()).collect();
    answered(|| app.processor::<Letters>().expect("it runs").rebuild_keys(&keys, super::LIMIT))
        .await
        .expect("it is a view");
    let written = line.most_written();
    assert!((ROW..=2 * BYTES).contains(&written), "rows that are rebuilt: {written} bytes");
    assert!(app.shutdown(super::LIMIT).await);
    // Small events that touch rows of whose size nothing is known yet: some are tried, then as many as fit.
    put("y").await;
    line.forget_most();
    let app = start(wiring).await;
    settle(&app).await;
    assert!(line.most_written() <= 17 * ROW, "rows that grow: {} bytes", line.most_written());
    for i in 0..ROWS {
        let key = i.to_string();
        let Letters(letters) = read(|| app.view::<Letters>(&key)).await.expect("it has a row");
        assert_eq!(letters.iter().map(String::len).collect::<Vec<_>>(), [ROW, 1]);
    }
}

/// P24
pub async fn a_parked_sequence_of_large_events_is_retried_a_page_at_a_time<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    // A payment with what no program knows: it is ignored.
    let padded = |mut payment: NewEvent| {
        let json = String::from_utf8(payment.data.to_vec()).expect("JSON");
        payment.data = format!(r#"{},"pad":"{}"}}"#, json.trim_end_matches('}'), "x".repeat(LARGE)).into();
        payment
    };
    let n = EVENTS as i64;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    for first in (2..=n).step_by(7) {
        world.put("a", (first..=n.min(first + 6)).map(|amount| padded(payment(amount))).collect()).await;
    }
    let app = start(|| World::<S>::wiring(&line)).await;
    settle(&app).await;
    poison.mend();
    for kind in KINDS {
        assert_eq!(parked_keys(kind.of(&app)).await, [(kind.key("a"), n.unsigned_abs())]);
        line.forget_most();
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None);
        assert!(line.most_held() <= SHARED, "{kind:?}: {} bytes", line.most_held());
    }
    world.assert_complete("a", n).await;
}

//! Becoming inline while events come faster than the last commit can be sent.

use std::cell::RefCell;

use es_core::memory::MemoryBackend;
use es_core::projection::{Change, Projection, Views};
use es_core::store::{
    Append, Commit, CommitError, EventFilter, EventStore, ExpectedVersion, INLINE, NewEvent, RecordedEvent,
    RowStore, StreamId,
};
use es_core::testing::conformance::domain::{Deposit, Deposited, Donate, deposited};
use es_core::{App, BoxError, Event, View};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};

thread_local! {
    /// Where a payment is made whenever the last one is taken in; `None` once that was refused.
    static RIVAL: RefCell<Option<MemoryBackend>> = const { RefCell::new(None) };
}

/// Counts payments, and never comes to an end by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chased {
    n_payments: u64,
}

impl Projection for Chased {
    const NAME: &'static str = "chased";
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl View for Chased {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        RIVAL.with_borrow_mut(|rival| {
            let Some(store) = rival else { return };
            if store.head().now_or_never().unwrap().unwrap() != event.place() {
                return;
            }
            match store.commit(payment()).now_or_never().unwrap() {
                Ok(_) => {}
                Err(CommitError::Inline { .. }) => *rival = None,
                Err(other) => panic!("{other}"),
            }
        });
        Ok(vec![Change::new("all".to_owned(), |row: &mut Self| {
            row.n_payments += 1;
            Ok(())
        })])
    }
}

fn payment() -> Commit {
    let event =
        NewEvent::new(es_core::id::Ids::default().next(), deposited(1).encode().unwrap(), Default::default());
    let stream = StreamId::new("account-rival").unwrap();
    let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event] };
    Commit { appends: vec![append], ..Commit::default() }
}

/// P16
#[tokio::test]
async fn writers_that_are_always_faster_are_shut_out() {
    let store = MemoryBackend::new();
    store.commit(payment()).await.unwrap();
    RIVAL.set(Some(store.clone()));
    let app = App::on(store.clone()).inline_view::<Chased>().start().await.unwrap();
    assert!(RIVAL.take().is_none(), "it was refused");
    let head = store.head().await.unwrap().0;
    assert_eq!(head, 33, "two for each last commit that came too late: its events are read twice");
    let views: &Views = app.services().get().unwrap();
    let all = "all".to_owned();
    assert_eq!(views.get::<Chased>(&all).await.unwrap(), Some(Chased { n_payments: head }));
    app.send(&"a".to_owned(), Donate { amount: 1 }).await.unwrap();
    app.send(&"a".to_owned(), Deposit { amount: 1 }).await.unwrap();
    assert_eq!(views.get::<Chased>(&all).await.unwrap(), Some(Chased { n_payments: head + 2 }));
}

/// P16: whoever shut writers out and then died leaves a store that the old wiring can write again.
#[tokio::test]
async fn a_generation_without_projections_is_named_by_an_app_that_has_none() {
    let store = MemoryBackend::new();
    App::on(store.clone()).inline_view::<Chased>().start().await.unwrap();
    let app = App::on(store.clone()).retire_inline("chased/1").start().await.unwrap();
    let row = store.rows(INLINE.0, &[INLINE.1.to_owned()]).await.unwrap().pop().flatten().unwrap();
    assert_eq!((&row.data[..], row.rev), (&b"[]"[..], 2), "its revisions go on");
    app.send(&"a".to_owned(), Donate { amount: 1 }).await.unwrap();
    let app = App::on(store).start().await.unwrap();
    app.send(&"a".to_owned(), Deposit { amount: 1 }).await.unwrap();
}

//! Events that only a newer program knows: K12, P27.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::data::raw;
use super::domain::AccountEvent;
use super::patient::{Patient, ask};
use super::payments::{answered, discard, eventually, parked_keys, payment, until};
use super::{LIMIT, Subject, settle, start, store};
use crate::event::{DecodeError, Event as _};
use crate::processor::{ProcessorState, RebuildOptions};
use crate::projection::{Change, OnFailure, Partition, Project, Projection, View};
use crate::services::{Scope, Services};
use crate::store::{Backend, EventFilter, RecordedEvent, RowStore};
use crate::{App, AppBuilder, BoxError, Reactor};

/// Short, so that nodes soon see each other.
const LEASE: Duration = Duration::from_millis(400);
const SHORT: Duration = Duration::from_millis(1);
/// A type of events that only newer programs know.
const FROZEN: &str = "account.frozen";
/// A program that knows it.
const KNOWS: bool = true;

/// What a program can read.
fn read<const KNOWS: bool>(event: &RecordedEvent) -> Result<(), DecodeError> {
    if KNOWS && *event.name == *FROZEN { Ok(()) } else { AccountEvent::decode(event).map(drop) }
}

/// An error of a handler, which looks like the one that it wraps; but that one has no source.
#[derive(Debug, thiserror::Error)]
enum Transparent {
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// One that says nothing of what it wraps.
#[derive(Debug, thiserror::Error)]
#[error("this handler has words of its own")]
struct Bare(DecodeError);

/// A view whose errors look like those of the framework.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hiding<const KNOWS: bool>(u64);

impl<const KNOWS: bool> Projection for Hiding<KNOWS> {
    const NAME: &'static str = "hiding";
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<const KNOWS: bool> View for Hiding<KNOWS> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        read::<KNOWS>(event).map_err(Transparent::from)?;
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

/// A projection whose errors do not tell what they come from.
#[derive(Debug)]
struct HidingInSql<S, const KNOWS: bool>(PhantomData<fn() -> S>);

impl<S: Subject, const KNOWS: bool> Projection for HidingInSql<S, KNOWS> {
    const NAME: &'static str = "hiding-in-sql";
    const SCHEMA: &'static str = S::PAID;
    const ON_FAILURE: OnFailure = OnFailure::Skip;
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<S: Subject, const KNOWS: bool> Project<<S::Backend as Backend>::Tx> for HidingInSql<S, KNOWS> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        // Between two calls of one task, what one of them has met must not be taken for the other's.
        tokio::task::yield_now().await;
        read::<KNOWS>(event).map_err(Bare)?;
        S::pay(tx, event.stream.as_str(), 1).await
    }
}

/// A reactor that panics.
#[derive(Debug)]
struct Panicking<const KNOWS: bool>;

impl<const KNOWS: bool> Reactor for Panicking<KNOWS> {
    const NAME: &'static str = "panicking";
    fn filter() -> EventFilter {
        EventFilter::all()
    }
    async fn react(&self, event: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        read::<KNOWS>(event).expect("it has tests for all events");
        Ok(())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

fn hiding<const KNOWS: bool, S: Subject>(backend: &S::Backend) -> AppBuilder<S::Backend> {
    let app = App::on(backend.clone()).view::<Hiding<KNOWS>>().reactor(Panicking::<KNOWS>);
    // An event that is blamed is parked after fewer attempts than are waited for.
    app.projection(HidingInSql::<S, KNOWS>(PhantomData)).processor_retries(1, SHORT, SHORT)
}

/// P27
pub async fn an_unknown_event_is_left_to_a_newer_program_whatever_its_handler_says<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = start(|| hiding::<{ !KNOWS }, S>(&store.0)).await;
    store.put("account-a", vec![payment(1), raw(FROZEN, 1, "{}"), payment(2)]).await;
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, attempts, .. } if *attempts > 3 && error.contains(FROZEN));
    for processor in old.processors() {
        until(processor, |status| fails(&status.state)).await;
        assert_eq!(parked_keys(processor).await, [], "{}", processor.name());
        assert_eq!(ask(|| processor.skipped()).await, [], "{}", processor.name());
    }
    assert!(old.shutdown(LIMIT).await);
    let new = start(|| hiding::<KNOWS, S>(&store.0)).await;
    settle(&new).await;
    for processor in new.processors() {
        assert_eq!(parked_keys(processor).await, [], "{}", processor.name());
    }
    let row = store.row("hiding/1", "account-a").await.expect("it has a row");
    assert_eq!(serde_json::from_slice::<Hiding<KNOWS>>(&row.data).expect("JSON").0, 3);
}

/// A reactor that goes by streams: what one of them waits for is nothing to the others.
#[derive(Debug)]
struct ByStream<const KNOWS: bool>;

impl<const KNOWS: bool> Reactor for ByStream<KNOWS> {
    const NAME: &'static str = "by-stream";
    const PARTITION: Partition = Partition::Stream;
    fn filter() -> EventFilter {
        EventFilter::all()
    }
    async fn react(&self, event: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        Ok(read::<KNOWS>(event)?)
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

async fn by_stream<const KNOWS: bool, S: Subject>(subject: &S, store: &Patient<S::Backend>) -> App {
    let backend = subject.again(&store.0).await;
    start(|| App::on(backend.clone()).reactor(ByStream::<KNOWS>).lease(LEASE)).await
}

/// What a node says of itself.
#[derive(Debug, Deserialize)]
struct Says {
    #[serde(default)]
    stands_by: BTreeSet<String>,
    #[serde(default)]
    outgrown: BTreeSet<String>,
}

/// Until so many nodes share the slices, and each has met what it does not know, or none has.
async fn share<B: Backend + RowStore + Clone>(store: &Patient<B>, app: &App, n: usize, have_met: bool) {
    eventually(async || {
        let rows = ask(|| store.0.scan("nodes", None, 100)).await;
        let says: Vec<Says> =
            rows.iter().map(|row| serde_json::from_slice(&row.data).expect("a node")).collect();
        let status = app.processors()[0].status();
        let owners: BTreeSet<_> = status.ranges.iter().filter_map(|range| range.owner).collect();
        let right = |says: &Says| says.stands_by.is_empty() && says.outgrown.is_empty() != have_met;
        let shared = owners.len() == n && says.len() == n && says.iter().all(right);
        if shared { Ok(()) } else { Err(format!("{says:?} {status:?}")) }
    })
    .await;
}

/// P27
pub async fn nodes_none_of_which_knows_an_event_share_the_others_again<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(by_stream::<{ !KNOWS }, _>(&subject, &store).await);
    }
    share(&store, &nodes[0], 3, false).await;
    store.put("account-a", vec![raw(FROZEN, 1, "{}")]).await;
    share(&store, &nodes[0], 3, true).await;
    let is_ill = async || {
        let mut ill = 0;
        for node in &nodes {
            ill += usize::from(!node.health().await.is_healthy());
        }
        if ill > 0 { Ok(()) } else { Err("all nodes are healthy".to_owned()) }
    };
    eventually(is_ill).await;
    assert_eq!(parked_keys(&nodes[0].processors()[0]).await, []);
    // Another one that does not know it is tried as well.
    nodes.push(by_stream::<{ !KNOWS }, _>(&subject, &store).await);
    share(&store, &nodes[0], 4, true).await;
}

/// P27
pub async fn nodes_that_stood_by_share_the_slices_once_the_newer_program_has_gone<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (one, two) = (
        by_stream::<{ !KNOWS }, _>(&subject, &store).await,
        by_stream::<{ !KNOWS }, _>(&subject, &store).await,
    );
    share(&store, &one, 2, false).await;
    store.put("account-a", vec![raw(FROZEN, 1, "{}")]).await;
    share(&store, &one, 2, true).await;
    let new = by_stream::<KNOWS, _>(&subject, &store).await;
    let stand_by = async || {
        for node in [&one, &two] {
            until(&node.processors()[0], |status| status.state == ProcessorState::StandingBy).await;
        }
    };
    settle(&new).await;
    stand_by().await;
    let mut watched = [&one, &two].map(|node| node.processors()[0].watch());
    // More of them bring no node back that has met one.
    for account in ["account-b", "account-c", "account-d", "account-e"] {
        store.put(account, vec![raw(FROZEN, 1, "{}"), payment(1)]).await;
    }
    settle(&new).await;
    for watched in &mut watched {
        assert_eq!(watched.borrow_and_update().state, ProcessorState::StandingBy);
    }
    assert!(new.shutdown(LIMIT).await);
    share(&store, &one, 2, false).await;
    store.put("account-a", vec![payment(2)]).await;
    settle(&one).await;
}

/// A view that cannot handle what only a newer program knows either.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusing<const KNOWS: bool>(u64);

impl<const KNOWS: bool> Projection for Refusing<KNOWS> {
    const NAME: &'static str = "refusing";
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<const KNOWS: bool> View for Refusing<KNOWS> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        read::<KNOWS>(event)?;
        let is_refused = *event.name == *FROZEN;
        let count = move |row: &mut Self| {
            if is_refused {
                return Err("it is refused".into());
            }
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

/// K12
pub async fn an_unknown_event_that_was_discarded_is_in_the_way_of_no_rebuild<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let new = start(|| App::on(store.0.clone()).view::<Refusing<KNOWS>>()).await;
    store.put("account-a", vec![payment(1), raw(FROZEN, 1, "{}"), payment(2)]).await;
    store.put("account-b", vec![payment(1)]).await;
    settle(&new).await;
    assert!(new.shutdown(LIMIT).await);
    // Rolled back.
    let old = start(|| App::on(store.0.clone()).view::<Refusing<{ !KNOWS }>>()).await;
    let processor = &old.processors()[0];
    assert_eq!(parked_keys(processor).await, [("account-a".to_owned(), 2)]);
    discard(processor, "account-a", "it is never to be frozen").await;
    let keys = ["account-a", "account-b"].map(str::to_owned);
    answered(|| processor.rebuild_keys(&keys, LIMIT)).await.expect("what it does not know is left out");
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    for account in ["account-a", "account-b"] {
        let row = store.row("refusing/1", account).await.expect("it has a row");
        assert_eq!(serde_json::from_slice::<Refusing<KNOWS>>(&row.data).expect("JSON").0, 1, "{account}");
    }
    let skipped = ask(|| processor.skipped()).await;
    let known: BTreeSet<_> = skipped.iter().map(|skip| (skip.position.0, skip.undecoded)).collect();
    assert_eq!(known, [(2, true), (3, false)].into());
}

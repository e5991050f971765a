//! Events that only a newer program knows: P27.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::data::raw;
use super::domain::AccountEvent;
use super::payments::{parked_keys, payment, until};
use super::{Subject, settle, start, store};
use crate::event::{DecodeError, Event as _};
use crate::processor::ProcessorState;
use crate::projection::{Change, OnFailure, Project, Projection, View};
use crate::services::{Scope, Services};
use crate::store::{Backend, EventFilter, RecordedEvent};
use crate::{App, AppBuilder, BoxError, Reactor};

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
    app.projection(HidingInSql::<S, KNOWS>(PhantomData))
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
        assert_eq!(super::patient::ask(|| processor.skipped()).await, [], "{}", processor.name());
    }
    assert!(old.shutdown(super::LIMIT).await);
    let new = start(|| hiding::<KNOWS, S>(&store.0)).await;
    settle(&new).await;
    for processor in new.processors() {
        assert_eq!(parked_keys(processor).await, [], "{}", processor.name());
    }
    let row = store.row("hiding/1", "account-a").await.expect("it has a row");
    assert_eq!(serde_json::from_slice::<Hiding<KNOWS>>(&row.data).expect("JSON").0, 3);
}

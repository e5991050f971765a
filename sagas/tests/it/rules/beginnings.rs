//! Runs that begin with steps that only stage what they do: T107, T108, T110 and T111.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use es_core::store::{Append, ExpectedVersion, NewEvent, RowWrite, StreamId, Transaction};
use es_core::{Backend, BoxError, Event as _};
use sagas::saga::{Cx, OrRetry as _, Outcome, Ran, Retry, Saga, Staged, Staging, Step, StepError, Undo, Why};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::Barrier;
use uuid::Uuid;

use super::Subject;
use super::play::{Entered, LedgerEvent};
use super::staged::{ALL, First, act, definition, sums};
use super::trip::{Outside, Play, Trip, Trips, retry, trip};

/// On a node that works on all runs: each begins with its steps.
async fn start<'s, S: Subject>(
    subject: &'s S,
    saga: impl Fn(&Outside) -> Saga<Trip, <S::Backend as Backend>::Tx>,
) -> Trips<'s, S> {
    let mut trips = Trips::open(subject).await;
    trips.join_with(saga, |app| app).await;
    trips.until_at_work().await;
    trips
}

/// An output that is written as a number, and cannot be read as one.
#[derive(Debug, Serialize)]
struct Odd(u32);

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|_| Self(0))
    }
}

macro_rules! steps {
    ($($step:ident $name:literal $output:ty, |$own:ident, $cx:ident, $at:ident| $does:expr;)+) => { $(
        struct $step(Outside);

        impl Step<Trip> for $step {
            const NAME: &'static str = $name;
            type Needs = ();
            type Output = $output;
            type Refusal = Infallible;
            type Place = Staged;
            async fn run(&self, $cx: Cx<'_, Trip, ()>, $at: &mut Staging) -> Result<$output, StepError<Infallible>> {
                let $own = &self.0;
                $does
            }
            fn retry(&self) -> Retry {
                retry()
            }
        }

        impl Undo<Trip> for $step {
            async fn undo(&self, cx: Cx<'_, Trip, ()>, _: Ran<$output>, at: &mut Staging) -> Result<(), BoxError> {
                acts(&self.0, concat!("undo ", $name), &cx, at).await.map_err(|error| format!("{error:?}").into())
            }
        }
    )+ };
}
steps! {
    Unread "unread" Odd, |own, cx, at| {
        acts(own, "unread", &cx, at).await?;
        Ok(Odd(7))
    };
    TooLong "too-long" (), |own, cx, at| {
        acts(own, "too-long", &cx, at).await?;
        at.staged().rows.push(RowWrite { table: "x".repeat(300).into(), ..one_more(&cx, 0)? });
        Ok(())
    };
    // Each by itself is right, and in one commit they write a row twice.
    Opens "opens" (), |own, cx, at| {
        acts(own, "opens", &cx, at).await?;
        at.staged().rows.push(one_more(&cx, 0)?);
        Ok(())
    };
    Adds "adds" (), |own, cx, at| {
        acts(own, "adds", &cx, at).await?;
        at.staged().rows.push(one_more(&cx, 1)?);
        Ok(())
    };
}

async fn acts(
    outside: &Outside,
    call: &str,
    cx: &Cx<'_, Trip, ()>,
    at: &mut Staging,
) -> Result<(), StepError<Infallible>> {
    act(outside, call, cx, at).await.map_err(|error| StepError::Retry(format!("{error:?}").into()))
}

/// A row beside those that all steps write.
fn one_more(cx: &Cx<'_, Trip, ()>, rev: u64) -> Result<RowWrite, StepError<Infallible>> {
    Ok(RowWrite { rev, ..sums().insert(format!("more of {}", cx.key), 1).or_retry()? })
}

fn failed_at(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Undone(Why::Failed { step, .. }) => step,
        other => panic!("it is {other}"),
    }
}

/// T107
pub(super) async fn what_a_first_step_has_staged_before_it_failed_is_gone<S: Subject>(subject: &S) {
    let trips = start(subject, definition::<<S::Backend as Backend>::Tx>).await;
    for (key, play) in [("a", Play::Fails), ("b", Play::Panics)] {
        let input = trip().with("first", &[play, Play::Acts]);
        assert_eq!(trips.run(key, input).await, Outcome::Completed);
        trips.have_acted(key, &ALL).await;
    }
    // As often as it is tried.
    let outcome = trips.run("c", trip().with("first", &[Play::Fails])).await;
    assert_eq!(failed_at(&outcome), "first");
    trips.have_acted("c", &[]).await;
    trips.end().await;
    // It acts, and what it says cannot be read again.
    let unread = |outside: &Outside| Saga::new("trip", 1).step(Unread(outside.clone())).build();
    let trips = start(subject, unread).await;
    let outcome = trips.run("d", trip()).await;
    assert_eq!(failed_at(&outcome), "unread");
    trips.have_acted("d", &[]).await;
    trips.end().await;
}

/// T108
pub(super) async fn a_start_whose_steps_no_store_takes_begins_and_blames_the_step<S: Subject>(subject: &S) {
    let too_long = |outside: &Outside| {
        let own = || outside.clone();
        Saga::new("trip", 1).step(First(own())).step(TooLong(own())).build()
    };
    let trips = start(subject, too_long).await;
    let outcome = trips.run("a", trip()).await;
    assert_eq!(failed_at(&outcome), "too-long");
    trips.have_acted("a", &["first", "undo first"]).await;
    trips.end().await;
    // Only together: then one after the other.
    let twice = |outside: &Outside| {
        let own = || outside.clone();
        Saga::new("trip", 1).step(Opens(own())).step(Adds(own())).build()
    };
    let trips = start(subject, twice).await;
    assert_eq!(trips.run("b", trip()).await, Outcome::Completed);
    trips.have_acted("b", &["opens", "adds"]).await;
    trips.end().await;
}

/// T110
pub(super) async fn a_start_that_finds_a_run_runs_no_step<S: Subject>(subject: &S) {
    let trips = start(subject, definition::<<S::Backend as Backend>::Tx>).await;
    let handle = trips.begin("a", &trip()).await;
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    let called = trips.outside.called("a", "first");
    for _ in 0..3 {
        assert_eq!(trips.begin("a", &trip()).await.run(), handle.run());
    }
    assert_eq!(trips.outside.called("a", "first"), called);
    trips.have_acted("a", &ALL).await;
    trips.end().await;
}

/// T111: appends an event whose id it makes by itself, once another call of its run is as far.
struct Same(Outside, Arc<Mutex<BTreeMap<String, Arc<Barrier>>>>);

impl Step<Trip> for Same {
    const NAME: &'static str = "same";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Staged;
    async fn run(&self, cx: Cx<'_, Trip, ()>, at: &mut Staging) -> Result<(), StepError<Infallible>> {
        self.0.play(cx.key, "same", cx.input);
        let entered = LedgerEvent::Entered(Entered { what: "same".to_owned(), asked: None });
        let id = Uuid::from_u128(7 + cx.key.parse::<u128>().or_retry()?);
        let events = vec![NewEvent::new(id, entered.encode().or_retry()?, Arc::default())];
        let stream = StreamId::new(format!("ledger-{}", cx.key)).or_retry()?;
        at.staged().appends.push(Append { stream, expected: ExpectedVersion::NoStream, events });
        if self.0.called(cx.key, "same") <= 2 {
            let barrier = self.1.lock().unwrap().entry(cx.key.to_owned()).or_insert_with(pair).clone();
            barrier.wait().await;
        }
        Ok(())
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

fn pair() -> Arc<Barrier> {
    Arc::new(Barrier::new(2))
}

pub(super) async fn of_two_starts_that_append_the_same_events_one_begins<S: Subject>(subject: &S) {
    let barriers = Arc::default();
    let saga =
        |outside: &Outside| Saga::new("trip", 1).pivot(Same(outside.clone(), Arc::clone(&barriers))).build();
    let trips = start(subject, saga).await;
    for key in (0..10).map(|n| n.to_string()) {
        let trip = trip();
        let (one, other) = tokio::join!(trips.begin(&key, &trip), trips.begin(&key, &trip));
        assert_eq!(one.run(), other.run(), "{key}");
        for handle in [one, other] {
            assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
        }
        assert_eq!(trips.entered(&key).await, ["same"]);
    }
    trips.end().await;
}

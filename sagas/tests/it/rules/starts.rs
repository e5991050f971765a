//! Sagas that start in commits of others, and what is told of them: T22 to T24, T26, T88, T89.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use es_core::command::{Dispatch, Halted, Interceptor, Next};
use es_core::prelude::*;
use es_core::services::Services;
use es_core::store::EventFilter;
use es_core::{Backend, ErrorKind};
use sagas::saga::{Announce, Outcome, RunError, RunStatus, SagaEvent, Starter, Verb, Why};
use serde::{Deserialize, Serialize};

use super::Subject;
use super::ground::PATIENCE;
use super::trip::{Play, Trip, Trips, announced, announced_flight, definition, trip};

/// What somebody asks for, and the trip that it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Booked {}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "booking")]
enum BookingEvent {
    Booked(Booked),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("it is not sold")]
struct NotSold;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = BookingEvent, error = NotSold)]
struct Booking {}

impl Apply for Booking {
    fn apply(&mut self, _: &BookingEvent) {}
}

#[derive(Clone, Serialize, Deserialize)]
struct Book {
    trip: String,
    is_sold: bool,
    is_noted: bool,
}

#[commands]
impl Booking {
    #[create_if_missing]
    async fn book(
        &self,
        cmd: Book,
        ctx: &Context,
        trips: &Starter<Trip>,
    ) -> Result<Option<Booked>, Failure<NotSold>> {
        trips.with(ctx, &cmd.trip, &trip()).await.map_err(Failure::service)?;
        if cmd.is_sold { Ok(cmd.is_noted.then_some(Booked {})) } else { Err(NotSold.into()) }
    }
}

type TxOf<S> = <<S as Subject>::Backend as Backend>::Tx;

async fn booking<S: Subject>(subject: &S) -> Trips<'_, S> {
    let mut trips = Trips::open(subject).await;
    trips.join_with(|outside| definition(outside, 1), |app| app.aggregate::<Booking>()).await;
    trips
}

async fn is_there<S: Subject>(trips: &Trips<'_, S>, key: &str) -> bool {
    let runs = trips.runs();
    trips
        .ground
        .ask(async || match runs.show(key).await {
            Ok(_) => Ok(true),
            Err(RunError::Unknown { .. }) => Ok(false),
            Err(error) => Err(error),
        })
        .await
}

/// T22
pub(super) async fn a_start_in_a_transaction_is_of_that_transaction<S: Subject>(subject: &S) {
    let trips = booking(subject).await;
    let services: &Services = trips.nodes[0].services();
    let starter = services.get::<Starter<Trip>>().unwrap();
    let within = async |commits: bool| {
        let mut tx: TxOf<S> = trips.ground.backend.begin().await?;
        let handle = starter.within(&mut tx, "a", &trip()).await?;
        let again = starter.within(&mut tx, "a", &trip()).await?;
        assert_eq!((again.run(), again.was_started_before()), (handle.run(), true));
        let mut other = trip();
        other.note = Some("another".to_owned());
        let other = starter.within(&mut tx, "a", &other).await;
        assert!(
            matches!(&other, Err(RunError::OtherInput { .. }))
                || other.as_ref().is_err_and(|error| error.kind() == ErrorKind::Transient),
            "{other:?}"
        );
        if commits {
            tx.commit().await.map(drop)?;
        } else {
            tx.rollback().await?;
        }
        Ok::<_, BoxError>(handle)
    };
    trips.ground.ask(async || within(false).await).await;
    assert!(!is_there(&trips, "a").await);
    // One that was lost is found by the next.
    let handle = trips.ground.ask(async || within(true).await).await;
    let begun = trips.begin("a", &trip()).await;
    assert!(begun.was_started_before());
    assert_eq!(trips.end_of(&begun).await, Outcome::Completed);
    let later = trips.ground.ask(async || within(true).await).await;
    assert_eq!(later.run(), begun.run());
    assert!(later.was_started_before() || handle.run() == begun.run());
    trips.end().await;
}

/// T23
pub(super) async fn a_start_in_a_decision_is_of_its_commit<S: Subject>(subject: &S) {
    let trips = booking(subject).await;
    let book = async |id: &str, trip: &str, is_sold: bool, is_noted: bool| {
        let id = id.to_owned();
        trips
            .ground
            .ask(async || {
                let book = Book { trip: trip.to_owned(), is_sold, is_noted };
                match trips.nodes[0].send(&id, book).timeout(Duration::from_secs(60)).await {
                    Ok(done) => Ok(Ok(done.events)),
                    Err(CommandError::Refused(NotSold)) => Ok(Err(NotSold)),
                    Err(error) => Err(error),
                }
            })
            .await
    };
    assert_eq!(book("x", "refused", false, true).await, Err(NotSold));
    assert!(!is_there(&trips, "refused").await);
    // With an event, and without one.
    assert!(book("x", "a", true, true).await.is_ok());
    assert!(book("x", "b", true, false).await.is_ok());
    for key in ["a", "b"] {
        assert!(is_there(&trips, key).await, "{key} was not started");
        let handle = trips.begin(key, &trip()).await;
        assert!(handle.was_started_before());
        assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    }
    // Two that decide at once start one.
    let (one, two) = tokio::join!(book("y", "c", true, true), book("z", "c", true, true));
    assert!(one.is_ok() && two.is_ok());
    let handle = trips.begin("c", &trip()).await;
    assert!(handle.was_started_before());
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.effects("c").await, ["mail", "order", "seat"]);
    trips.end().await;
}

async fn told<S: Subject>(trips: &Trips<'_, S>) -> Vec<SagaEvent> {
    let ground = &trips.ground;
    let page = ground
        .ask(async || EventStore::read(&ground.backend, &EventFilter::all(), Position(0), 1_000).await)
        .await;
    page.events.iter().flat_map(|event| SagaEvent::decode(event).unwrap()).collect()
}

/// T24
pub(super) async fn what_happens_to_a_run_is_told_once_with_it<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips.join_with(announced, |app| app).await;
    trips.run("done", trip()).await;
    let waits = trip().with("car", &[Play::Fails]);
    let handle = trips.begin("parked", &waits).await;
    trips.until("parked", "parked", |shown| shown.status == RunStatus::Parked).await;
    assert_eq!(trips.ask("parked", Verb::Cancel).await, Ok(()));
    trips.until("parked", "parked again", |shown| shown.status == RunStatus::Parked).await;
    assert_eq!(trips.ask("parked", Verb::Skip { step: "car".to_owned() }).await, Ok(()));
    trips.end_of(&handle).await;
    let told = told(&trips).await;
    let of = |wanted: &str| -> Vec<&str> {
        let told = told.iter().filter_map(|event| {
            let (key, what) = match event {
                SagaEvent::Started(e) => (&e.key, "started"),
                SagaEvent::Undoing(e) => (&e.key, "undoing"),
                SagaEvent::Parked(e) => (&e.key, "parked"),
                SagaEvent::WentOn(e) => (&e.key, "went on"),
                SagaEvent::Ended(e) if e.outcome == Outcome::Completed => (&e.key, "completed"),
                SagaEvent::Ended(e) if matches!(e.outcome, Outcome::Undone(Why::Cancelled { .. })) => {
                    (&e.key, "undone")
                }
                other => panic!("{other:?}"),
            };
            (key == wanted).then_some(what)
        });
        told.collect()
    };
    assert_eq!(of("done"), ["started", "completed"]);
    let parked = of("parked");
    assert_eq!(parked.iter().filter(|what| **what == "undoing").count(), 1, "{parked:?}");
    assert_eq!((parked.first(), parked.last()), (Some(&"started"), Some(&"undone")));
    assert!(parked.contains(&"parked") && parked.contains(&"went on"), "{parked:?}");
    trips.end().await;
}

/// As long as it is set, nothing is told of sagas.
#[derive(Debug)]
struct Silence(Arc<AtomicBool>);

#[async_trait]
impl Interceptor for Silence {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        if self.0.load(Ordering::SeqCst) && dispatch.payload::<Announce>().is_some() {
            return Err(Halted::because("it is a secret"));
        }
        next.run(dispatch).await
    }
}

/// T26
pub(super) async fn what_cannot_be_told_is_shown_and_is_no_failure_of_a_step<S: Subject>(subject: &S) {
    let (mut trips, silent) = (Trips::open(subject).await, Arc::new(AtomicBool::new(true)));
    trips.join_with(announced, |app| app.interceptor(Silence(silent.clone()))).await;
    let handle = trips.begin("a", &trip()).await;
    let runs = trips.runs();
    trips.until("a", "to be shown to people", |shown| shown.status == RunStatus::Damaged).await;
    let (_, waiting) = trips.ground.ask(async || runs.waiting(None, 10).await).await.pop().unwrap();
    assert!(waiting.damaged && waiting.why.contains("cannot be told"), "{waiting:?}");
    assert!(waiting.why.contains("it is a secret"), "{waiting:?}");
    let journal = trips.show("a").await.journal;
    assert!(journal.iter().all(|(_, what)| !what.contains("failed")), "{journal:?}");
    assert_eq!(told(&trips).await, []);
    silent.store(false, Ordering::SeqCst);
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    let told = told(&trips).await;
    assert!(matches!(told[..], [SagaEvent::Started(_), SagaEvent::Ended(_)]), "{told:?}");
    trips.end().await;
}

/// T88
pub(super) async fn a_start_by_hand_and_one_by_a_handler_in_a_transaction_are_one<S: Subject>(subject: &S) {
    let trips = booking(subject).await;
    let starter = trips.nodes[0].services().get::<Starter<Trip>>().unwrap();
    for (key, by_hand_first) in [("a", true), ("b", false)] {
        let within = async || {
            let mut tx: TxOf<S> = trips.ground.backend.begin().await?;
            let id = format!("of {key}");
            let book = || Book { trip: key.to_owned(), is_sold: true, is_noted: true };
            if !by_hand_first {
                trips.nodes[0].send(&id, book()).within(&mut tx).await?;
            }
            let handle = starter.within(&mut tx, key, &trip()).await?;
            if by_hand_first {
                trips.nodes[0].send(&id, book()).within(&mut tx).await?;
            }
            tx.commit().await?;
            Ok::<_, BoxError>(handle)
        };
        let handle = trips.ground.ask(within).await;
        let begun = trips.begin(key, &trip()).await;
        assert!(begun.was_started_before());
        assert_eq!(begun.run(), handle.run());
        assert_eq!(trips.end_of(&begun).await, Outcome::Completed);
        assert_eq!(trips.effects(key).await, ["mail", "order", "seat"]);
    }
    trips.end().await;
}

/// T89
pub(super) async fn an_answer_that_comes_while_a_node_ends_is_not_asked_for_again<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips.join_with(announced_flight, |app| app).await;
    let handle = trips.begin("a", &trip().with("flight", &[Play::Waits])).await;
    while !trips.outside.is_waiting("a", "flight") {
        trips.ground.pause().await;
    }
    let app = trips.nodes.remove(0);
    // From now on it takes no commands.
    let (ended, ()) = futures::join!(app.shutdown(PATIENCE), async { trips.outside.let_go() });
    assert!(ended);
    trips.join_with(announced_flight, |app| app).await;
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.called("a", "flight"), 1);
    let told = told(&trips).await;
    assert!(matches!(told[..], [SagaEvent::Started(_), SagaEvent::Ended(_)]), "{told:?}");
    trips.end().await;
}

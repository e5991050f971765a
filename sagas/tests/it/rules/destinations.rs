//! Calls to a destination that fails: T27, T28, T33 to T35.

use std::convert::Infallible;
use std::time::Duration;

use es_core::store::{Table, Transaction};
use es_core::{Backend, BoxError};
use futures::future::join_all;
use sagas::saga::{
    Call, Cx, Outcome, Ran, Remote, Retry, RunShown, RunStatus, Saga, Step, StepError, Undo, Verb, Why,
};
use serde_json::{Value, json};

use super::Subject;
use super::trip::{DEADLINE, Outside, Play, Trip, Trips, retry, trip};

/// At a destination of its own.
struct Hotel(Outside);

impl Step<Trip> for Hotel {
    const NAME: &'static str = "hotel";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, ()>, call: &mut Call) -> Result<(), StepError<String>> {
        self.0.call(cx.key, "hotel", cx.input, call.key()).await
    }
    fn retry(&self) -> Retry {
        retry()
    }
    fn destination(&self) -> Option<&str> {
        Some("beds")
    }
}

impl Undo<Trip> for Hotel {
    async fn undo(&self, cx: Cx<'_, Trip, ()>, _: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        let done = self.0.call(cx.key, "undo hotel", cx.input, call.key()).await;
        done.map_err(|error| format!("{error:?}").into())
    }
}

/// The pivot, at a destination that fails.
struct Flight(Outside, Duration);

impl Step<Trip> for Flight {
    const NAME: &'static str = "flight";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, ()>, call: &mut Call) -> Result<(), StepError<String>> {
        self.0.call(cx.key, "flight", cx.input, call.key()).await
    }
    fn retry(&self) -> Retry {
        retry().pauses(self.1, self.1).tries(10)
    }
    fn destination(&self) -> Option<&str> {
        Some("air")
    }
}

fn definition<T: Transaction>(outside: &Outside, pause: Duration) -> Saga<Trip, T> {
    let flight = Flight(outside.clone(), pause);
    Saga::new("trip", 1).deadline(DEADLINE).step(Hotel(outside.clone())).pivot(flight).build()
}

/// A node, and a run that has failed often enough and finds out whether its destination is back.
async fn with_one_that_finds_out<S: Subject>(subject: &S, pause: Duration) -> Trips<'_, S> {
    let mut trips = Trips::open(subject).await;
    let saga = |outside: &_| definition::<<S::Backend as Backend>::Tx>(outside, pause);
    trips.join_with(saga, |app| app).await;
    find_out(&trips).await;
    trips
}

/// The destination of flights has failed often enough, and a run finds out whether it is back.
async fn find_out<S: Subject>(trips: &Trips<'_, S>) {
    let mut plays = vec![Play::Fails; 3];
    // A call that the store has made nobody hear of is made again.
    plays.extend([Play::Waits; 20]);
    trips.begin("first", &trip().with("flight", &plays)).await;
    while !trips.outside.is_waiting("first", "flight") {
        trips.ground.pause().await;
    }
}

fn waits_for_air(shown: &RunShown) -> bool {
    shown.waits_for.starts_with("\"air\" for flight, which has failed: its node")
}

/// T27
pub(super) async fn a_destination_that_fails_is_tried_by_one_and_waiting_is_no_try<S: Subject>(subject: &S) {
    let trips = with_one_that_finds_out(subject, Duration::from_millis(5)).await;
    let mut handles = Vec::new();
    for key in ["cancelled", "late"] {
        handles.push(trips.begin(key, &trip()).await);
        let shown = trips.until(key, "waiting", waits_for_air).await;
        assert!(shown.waits_for.contains("undone at"), "{}", shown.waits_for);
        assert_eq!((shown.status, shown.steps[1].failures), (RunStatus::Running, 0));
        let is_told = |(_, what): &&(_, String)| what.starts_with("flight waits: who is to be called");
        assert_eq!(shown.journal.iter().filter(is_told).count(), 1, "{:?}", shown.journal);
    }
    // It is the pivot, and it is known that nobody has called it, whoever has looked at the run since.
    assert_eq!(trips.ask("cancelled", Verb::Cancel).await, Ok(()));
    let outcome = trips.end_of(&handles[0]).await;
    assert!(matches!(outcome, Outcome::Undone(Why::Cancelled { .. })), "{outcome}");
    trips.ground.seconds(DEADLINE.as_secs() + 1);
    assert_eq!(trips.end_of(&handles[1]).await, Outcome::Undone(Why::Deadline));
    for key in ["cancelled", "late"] {
        assert_eq!(trips.outside.called(key, "flight"), 0);
        assert_eq!(trips.outside.acted(key), ["hotel", "undo hotel"]);
    }
    let after = trips.begin("after", &trip()).await;
    trips.until("after", "waiting", waits_for_air).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&after).await, Outcome::Completed);
    trips.until("first", "done", |shown| shown.outcome == Some(Outcome::Completed)).await;
    assert_eq!(trips.outside.acted("after"), ["hotel", "flight"]);
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// More than a node has in memory at once.
const MANY: usize = 270;

/// T28
pub(super) async fn runs_that_wait_for_a_destination_hold_up_no_other<S: Subject>(subject: &S) {
    let trips = with_one_that_finds_out(subject, Duration::from_millis(500)).await;
    let begin = |n| {
        let trips = &trips;
        async move { trips.begin(&format!("k{n}"), &trip()).await }
    };
    let handles = join_all((0..MANY).map(begin)).await;
    for handle in &handles {
        // Another destination.
        trips.until(handle.key(), "hotel has run", |shown| shown.steps[0].state == "done").await;
        assert_eq!(trips.outside.called(handle.key(), "flight"), 0);
    }
    trips.outside.let_go();
    // They look again.
    trips.ground.seconds(60);
    for handle in &handles {
        assert_eq!(trips.end_of(handle).await, Outcome::Completed);
        assert_eq!(trips.outside.acted(handle.key()), ["hotel", "flight"]);
    }
    trips.end().await;
}

const HOUR: u64 = 60 * 60;

/// Behind the pivot, at the same destination: it is tried once an hour, for a day.
struct Seat(Outside);

impl Step<Trip> for Seat {
    const NAME: &'static str = "seat";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, ()>, call: &mut Call) -> Result<(), StepError<Infallible>> {
        let done = self.0.call(cx.key, "seat", cx.input, call.key()).await;
        done.map_err(|error| StepError::Retry(format!("{error:?}").into()))
    }
    fn retry(&self) -> Retry {
        let hours = |n| Duration::from_secs(n * HOUR);
        Retry::default().pauses(hours(1), hours(1)).late(20, hours(24))
    }
    fn destination(&self) -> Option<&str> {
        Some("air")
    }
}

fn with_a_seat<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let flight = Flight(outside.clone(), Duration::from_millis(5));
    Saga::new("trip", 1).pivot(flight).then(Seat(outside.clone())).build()
}

/// T33
pub(super) async fn an_outage_is_no_time_of_trying<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips.join_with(with_a_seat::<<S::Backend as Backend>::Tx>, |app| app).await;
    let handle = trips.begin("a", &trip().with("seat", &[Play::Fails])).await;
    trips.until("a", "failed", |shown| shown.steps[1].failures > 0).await;
    find_out(&trips).await;
    // Its next try waits for the destination, for longer than it is tried.
    trips.ground.seconds(HOUR);
    let is_held = |shown: &RunShown| shown.waits_for.starts_with("\"air\" for seat, which has failed");
    let failures = trips.until("a", "waiting", is_held).await.steps[1].failures;
    trips.ground.seconds(72 * HOUR);
    let is_tried = |shown: &RunShown| {
        trips.outside.release();
        shown.steps[1].failures > failures
    };
    let shown = trips.until("a", "tried again", is_tried).await;
    assert_eq!(shown.status, RunStatus::Running, "{}", shown.waits_for);
    trips.outside.let_go();
    trips.ground.seconds(HOUR);
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.end().await;
}

/// T34
pub(super) async fn a_panic_says_nothing_of_who_is_called<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let year = Duration::from_secs(365 * 24 * HOUR);
    let saga = |outside: &_| definition::<<S::Backend as Backend>::Tx>(outside, year);
    trips.join_with(saga, |app| app).await;
    for key in ["a", "b", "c"] {
        trips.begin(key, &trip().with("flight", &[Play::Panics; 9])).await;
        trips.until(key, "failed", |shown| shown.steps[1].failures > 0).await;
    }
    assert_eq!(trips.run("d", trip()).await, Outcome::Completed);
    trips.end().await;
}

/// T35
pub(super) async fn a_run_that_is_repaired_while_it_waits_is_not_damaged_any_more<S: Subject>(subject: &S) {
    let trips = with_one_that_finds_out(subject, Duration::from_millis(5)).await;
    let handle = trips.begin("a", &trip().with("flight", &[Play::Waits; 20])).await;
    trips.until("a", "waiting", waits_for_air).await;
    let journal = Table::<Value>::new("txn.journal.trip").unwrap();
    let (runs, run) = (trips.runs(), handle.run().simple().to_string());
    let before = trips.ground.overwrite(&journal, &run, &json!({"odd": 1})).await;
    // It looks again.
    trips.ground.seconds(60);
    while trips.ground.ask(async || runs.waiting(None, 10).await).await.is_empty() {
        trips.ground.pause().await;
    }
    trips.ground.overwrite(&journal, &run, &before).await;
    trips.until("a", "waiting again", |shown| shown.status == RunStatus::Running).await;
    trips.outside.let_go();
    trips.ground.seconds(60);
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["hotel", "flight"]);
    trips.end().await;
}

//! Calls to a destination that fails: T27, T28.

use std::time::Duration;

use es_core::store::Transaction;
use es_core::{Backend, BoxError};
use sagas::saga::{
    Call, Cx, Outcome, Ran, Remote, Retry, RunShown, RunStatus, Saga, Step, StepError, Undo, Verb, Why,
};

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
    let mut plays = vec![Play::Fails; 3];
    // A call that the store has made nobody hear of is made again.
    plays.extend([Play::Waits; 20]);
    trips.begin("first", &trip().with("flight", &plays)).await;
    while !trips.outside.is_waiting("first", "flight") {
        trips.ground.pause().await;
    }
    trips
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
        let is_told = |(_, what): &(_, String)| what.starts_with("flight not called yet");
        assert!(shown.journal.iter().any(is_told), "{:?}", shown.journal);
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
    let mut handles = Vec::new();
    for n in 0..MANY {
        handles.push(trips.begin(&format!("k{n}"), &trip()).await);
    }
    for handle in &handles {
        // Another destination.
        trips.until(handle.key(), "hotel has run", |shown| shown.steps[0].state == "done").await;
        assert_eq!(trips.outside.called(handle.key(), "flight"), 0);
    }
    trips.outside.let_go();
    for handle in &handles {
        assert_eq!(trips.end_of(handle).await, Outcome::Completed);
        assert_eq!(trips.outside.acted(handle.key()), ["hotel", "flight"]);
    }
    trips.end().await;
}

//! A saga that is a step of another one: what becomes of one, and what of the other.

use std::convert::Infallible;
use std::time::Duration;

use es_core::clock::Clock as _;
use es_core::store::{Commit, Table, Transaction};
use es_core::{Backend, BoxError};
use sagas::Data;
use sagas::saga::{
    Call, Child, Cx, DryRun, HowUndone, IfItFailed, IfItRefuses, Kin, Outcome, Ran, Remote, Retry, RunError,
    RunShown, RunStatus, Runs, Saga, SagaApp as _, SagaInput, Sagas as _, Step, StepError, SubSaga, Undo,
    Verb, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Subject;
use super::trip::{DEADLINE, Outside, Play, Trip, Trips, retry, trip};

/// How to the hotel: for the trip of a key.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ride {
    of: String,
    trip: Trip,
}

impl SagaInput for Ride {}

/// The steps of both: who is called does as the trip says.
macro_rules! steps {
    ($($step:ident of $input:ty, $name:literal -> $output:ty = $value:expr, $cx:ident: $of:expr, $trip:expr;)+) => { $(
        struct $step(Outside);

        impl Step<$input> for $step {
            const NAME: &'static str = $name;
            type Needs = ();
            type Output = $output;
            type Refusal = String;
            type Place = Remote;
            async fn run(&self, $cx: Cx<'_, $input>, call: &mut Call) -> Result<$output, StepError<String>> {
                self.0.call($of, $name, $trip, call.key()).await?;
                Ok($value)
            }
            fn retry(&self) -> Retry {
                retry()
            }
            fn refuses_for_good(&self) -> bool {
                true
            }
        }

        impl Undo<$input> for $step {
            async fn undo(&self, $cx: Cx<'_, $input>, _: Ran<$output>, call: &mut Call) -> Result<(), BoxError> {
                let done = self.0.call($of, concat!("undo ", $name), $trip, call.key()).await;
                done.map_err(|error| format!("{error:?}").into())
            }
        }
    )+ };
}
steps! {
    Taxi of Ride, "taxi" -> () = (), cx: &cx.input.of, &cx.input.trip;
    Toll of Ride, "toll" -> u32 = 9, cx: &cx.input.of, &cx.input.trip;
    Fare of Ride, "fare" -> u32 = 9, cx: &cx.input.of, &cx.input.trip;
    Hotel of Trip, "hotel" -> () = (), cx: cx.key, cx.input;
    Pay of Trip, "pay" -> () = (), cx: cx.key, cx.input;
}

/// What has to succeed.
struct Last(Outside);

impl Step<Ride> for Last {
    const NAME: &'static str = "last";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Ride>, call: &mut Call) -> Result<(), StepError<Infallible>> {
        let done = self.0.call(&cx.input.of, "last", &cx.input.trip, call.key()).await;
        done.map_err(|error| StepError::Retry(format!("{error:?}").into()))
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// To the hotel.
struct GetThere;

impl SubSaga<Trip> for GetThere {
    const NAME: &'static str = "get-there";
    type Needs = ();
    type Saga = Ride;
    type Gives = Toll;

    fn input(&self, cx: Cx<'_, Trip>) -> Ride {
        Ride { of: cx.key.to_owned(), trip: cx.input.clone() }
    }

    fn retry(&self) -> Retry {
        retry()
    }
}

/// The same, of a later program: the step that gives its output has another name.
struct GetThereLater;

impl SubSaga<Trip> for GetThereLater {
    const NAME: &'static str = "get-there";
    type Needs = ();
    type Saga = Ride;
    type Gives = Fare;

    fn input(&self, cx: Cx<'_, Trip>) -> Ride {
        GetThere.input(cx)
    }
}

/// Reads what the saga within gives.
struct Note(Outside);

impl Step<Trip> for Note {
    const NAME: &'static str = "note";
    type Needs = (Child<GetThere>,);
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, Self::Needs>, call: &mut Call) -> Result<(), StepError<Infallible>> {
        let what = format!("note {}", cx.needs.0);
        let done = self.0.call(cx.key, &what, cx.input, call.key()).await;
        done.map_err(|error| StepError::Retry(format!("{error:?}").into()))
    }
}

/// hotel · get-there · pay · note
pub(crate) fn around<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let own = || outside.clone();
    let saga = Saga::new("trip", 1).deadline(DEADLINE).step(Hotel(own())).step(Child::of(GetThere));
    saga.pivot(Pay(own())).then(Note(own())).build()
}

/// hotel · get-there · pay
fn brief<T: Transaction>(outside: &Outside, get_there: impl SubSaga<Trip, Needs = ()>) -> Saga<Trip, T> {
    let saga = Saga::new("trip", 1).step(Hotel(outside.clone())).step(Child::of(get_there));
    saga.pivot(Pay(outside.clone())).build()
}

/// hotel · get-there, which decides · note
fn decided_within<T: Transaction>(outside: &Outside, if_it_refuses: IfItRefuses) -> Saga<Trip, T> {
    let (own, get_there) = (|| outside.clone(), Child::of(GetThere).if_it_refuses(if_it_refuses));
    let saga = Saga::new("trip", 1).deadline(DEADLINE).step(Hotel(own()));
    saga.pivot(get_there).then(Note(own())).build()
}

/// pay · get-there · note
pub(crate) fn behind<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let own = || outside.clone();
    Saga::new("trip", 1).pivot(Pay(own())).then(Child::of(GetThere)).then(Note(own())).build()
}

/// taxi · toll
pub(crate) fn within<T: Transaction>(outside: &Outside) -> Saga<Ride, T> {
    Saga::new("ride", 1).step(Taxi(outside.clone())).step(Toll(outside.clone())).build()
}

/// The definition after it.
fn within_later<T: Transaction>(outside: &Outside) -> Saga<Ride, T> {
    Saga::new("ride", 2).step(Taxi(outside.clone())).step(Toll(outside.clone())).build()
}

/// taxi · fare
fn within_with_a_fare<T: Transaction>(outside: &Outside) -> Saga<Ride, T> {
    Saga::new("ride", 2).step(Taxi(outside.clone())).step(Fare(outside.clone())).build()
}

/// taxi · toll, the pivot · last
fn within_with_a_pivot<T: Transaction>(outside: &Outside) -> Saga<Ride, T> {
    let own = || outside.clone();
    Saga::new("ride", 1).step(Taxi(own())).pivot(Toll(own())).then(Last(own())).build()
}

pub(crate) type Tx<S> = <<S as Subject>::Backend as Backend>::Tx;

pub(crate) async fn start<S: Subject>(
    subject: &S,
    trip: impl Fn(&Outside) -> Saga<Trip, Tx<S>>,
    ride: impl Fn(&Outside) -> Saga<Ride, Tx<S>>,
) -> Trips<'_, S> {
    let mut trips = Trips::open(subject).await;
    join(&mut trips, &trip, &ride).await;
    trips
}

async fn join<S: Subject>(
    trips: &mut Trips<'_, S>,
    trip: &impl Fn(&Outside) -> Saga<Trip, Tx<S>>,
    ride: &impl Fn(&Outside) -> Saga<Ride, Tx<S>>,
) {
    let outside = trips.outside.clone();
    trips.join_with(trip, |app| app.saga(ride(&outside))).await;
}

fn rides<S: Subject>(trips: &Trips<'_, S>) -> Runs {
    trips.nodes[0].saga_runs::<Ride>().unwrap()
}

fn child_of(shown: &RunShown) -> Option<Kin> {
    shown.steps.iter().find(|step| step.name == "get-there").and_then(|step| step.child.clone())
}

/// The saga within, once it has begun and looks like this.
pub(crate) async fn until<S: Subject>(
    trips: &Trips<'_, S>,
    key: &str,
    what: &str,
    is_so: impl Fn(&RunShown) -> bool,
) -> RunShown {
    let shown = trips.until(key, "begun within", |shown| child_of(shown).is_some()).await;
    let (kin, begun) = (child_of(&shown).unwrap(), Instant::now());
    loop {
        let ride = trips.ground.ask(async || rides(trips).show(&kin.key).await).await;
        if is_so(&ride) {
            assert_eq!(ride.parent.as_ref().map(|of| &*of.key), Some(key));
            return ride;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came to that: {what}: {ride:#?}");
        trips.ground.pause().await;
    }
}

fn has_ended(shown: &RunShown) -> bool {
    shown.status == RunStatus::Ended
}

fn is_ready(shown: &RunShown) -> bool {
    shown.waits_for.starts_with("its parent, trip ")
}

pub(crate) fn is_parked(shown: &RunShown) -> bool {
    shown.status == RunStatus::Parked
}

async fn is_waiting<S: Subject>(trips: &Trips<'_, S>, key: &str, call: &str) {
    while !trips.outside.is_waiting(key, call) {
        trips.ground.pause().await;
    }
}

/// Asks something of the saga within, until that is answered.
async fn ask<S: Subject>(trips: &Trips<'_, S>, ride: &RunShown, verb: Verb) -> Result<(), String> {
    let mut is_first = true;
    loop {
        let answer =
            rides(trips).ask(&ride.key, verb.clone(), "ada", "because", Duration::from_secs(30)).await;
        match answer {
            Err(RunError::Store(_)) => is_first = false,
            Ok(Err(_)) | Err(RunError::Ended { .. }) if !is_first => return Ok(()),
            answer => return answer.unwrap(),
        }
        trips.ground.pause().await;
    }
}

/// Asks something of the saga within that is declined: why.
async fn declined<S: Subject>(trips: &Trips<'_, S>, ride: &RunShown, verb: Verb) -> String {
    loop {
        match rides(trips).ask(&ride.key, verb.clone(), "ada", "because", Duration::from_secs(30)).await {
            Err(RunError::Store(_)) => trips.ground.pause().await,
            answer => return answer.unwrap().unwrap_err(),
        }
    }
}

async fn nothing_is_left<S: Subject>(trips: Trips<'_, S>) {
    // What a run was told that had ended goes when somebody looks at it.
    while !trips.left_over().await.is_empty() {
        trips.ground.pause().await;
    }
    trips.end().await;
}

/// T71
pub(super) async fn a_saga_within_runs_to_its_end_and_gives_its_output<S: Subject>(subject: &S) {
    let mut trips = start(subject, around, within).await;
    join(&mut trips, &around, &within).await;
    let begun = Instant::now();
    let handle = trips.begin("a", &trip()).await;
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["hotel", "taxi", "toll", "pay", "note 9"]);
    // Each names the other, and the one within has not ended before the one around it.
    let ride = until(&trips, "a", "ended", has_ended).await;
    let parent = ride.parent.as_ref().map(|of| of.run);
    assert_eq!((ride.outcome.as_ref(), parent), (Some(&Outcome::Completed), Some(handle.run())));
    let shown = trips.show("a").await;
    assert_eq!(child_of(&shown).map(|of| (of.saga, of.run)), Some(("ride".to_owned(), ride.run)));
    let told = |what: &str| ride.journal.iter().position(|(_, told)| told.starts_with(what)).unwrap();
    assert!(told("all of it has run") < told("told that its parent is completed"), "{ride:?}");
    // It was told, and has not looked by chance.
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    nothing_is_left(trips).await;
}

/// T72
pub(super) async fn a_saga_within_that_refuses_undoes_the_one_around_it<S: Subject>(subject: &S) {
    let trips = start(subject, around, within).await;
    let outcome = trips.run("a", trip().with("toll", &[Play::Refuses])).await;
    let why = "undone: get-there was refused: toll was refused: toll is sold out";
    assert_eq!(outcome.to_string(), why);
    assert_eq!(trips.outside.acted("a"), ["hotel", "taxi", "undo taxi", "undo hotel"]);
    // The same if it fails as often as it is tried.
    let outcome =
        trips.run("b", trip().with("toll", &[Play::Fails, Play::Fails, Play::Fails, Play::Refuses])).await;
    assert!(outcome.to_string().starts_with("undone: get-there was refused: toll failed"), "{outcome}");
    assert_eq!(trips.outside.acted("b"), ["hotel", "taxi", "undo taxi", "undo hotel"]);
    nothing_is_left(trips).await;
}

/// T73
pub(super) async fn a_saga_within_waits_for_the_one_around_it_and_is_undone_with_it<S: Subject>(subject: &S) {
    let trips = start(subject, around, within).await;
    let handle = trips.begin("a", &trip().with("pay", &[Play::Waits])).await;
    is_waiting(&trips, "a", "pay").await;
    let ride = until(&trips, "a", "ready", is_ready).await;
    for verb in [Verb::Cancel, Verb::GoForward] {
        let declined = declined(&trips, &ride, verb).await;
        assert!(
            declined.contains("its parent says what becomes of it: ask that one, trip \"a\""),
            "{declined}"
        );
    }
    // So it is not taken for one that is stuck.
    let wakes = Table::<Value>::new("hot.txn.wakes.ride.v1").unwrap();
    let wakes = trips.ground.ask(|| wakes.all(&trips.ground.backend)).await;
    let waits = |wake: &Value| wake["waits"] == true || !wake["asked"].is_null();
    assert!(!wakes.is_empty() && wakes.iter().all(|row| waits(&row.value)), "{wakes:?}");
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.end().await;

    let trips = start(subject, around, within).await;
    let outcome = trips.run("c", trip().with("pay", &[Play::Refuses])).await;
    assert_eq!(outcome.to_string(), "undone: pay was refused: pay is sold out");
    let all = ["hotel", "taxi", "toll", "undo toll", "undo taxi", "undo hotel"];
    assert_eq!(trips.outside.acted("c"), all);
    let ride = until(&trips, "c", "ended", has_ended).await;
    let why = "undone: cancelled by saga trip: pay was refused: pay is sold out";
    assert_eq!(ride.outcome.unwrap().to_string(), why);
    nothing_is_left(trips).await;
}

/// T74
pub(super) async fn a_cancellation_and_a_deadline_reach_the_saga_within<S: Subject>(subject: &S) {
    let trips = start(subject, around, within).await;
    let waits = trip().with("toll", &[Play::Waits]);
    let cancelled = trips.begin("cancelled", &waits).await;
    let late = trips.begin("late", &waits).await;
    for key in ["cancelled", "late"] {
        is_waiting(&trips, key, "toll").await;
        let shown = trips.show(key).await;
        assert!(shown.waits_for.starts_with("the get-there, which is ride "), "{}", shown.waits_for);
    }
    assert_eq!(trips.ask("cancelled", Verb::Cancel).await, Ok(()));
    trips.ground.seconds(DEADLINE.as_secs() + 1);
    for key in ["cancelled", "late"] {
        until(&trips, key, "undoing", |ride| ride.status == RunStatus::Undoing).await;
    }
    trips.outside.let_go();
    assert!(matches!(trips.end_of(&cancelled).await, Outcome::Undone(Why::Cancelled { .. })));
    assert_eq!(trips.end_of(&late).await, Outcome::Undone(Why::Deadline));
    for key in ["cancelled", "late"] {
        let all = ["hotel", "taxi", "toll", "undo toll", "undo taxi", "undo hotel"];
        assert_eq!(trips.outside.acted(key), all);
    }
    nothing_is_left(trips).await;
}

/// T75
pub(super) async fn a_saga_within_that_is_the_pivot_decides<S: Subject>(subject: &S) {
    let around = |outside: &_| decided_within(outside, IfItRefuses::GoForward);
    let trips = start(subject, around, within_with_a_pivot).await;
    assert_eq!(trips.run("fine", trip()).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("fine"), ["hotel", "taxi", "toll", "last", "note 9"]);
    let outcome = trips.run("refused", trip().with("toll", &[Play::Refuses])).await;
    assert_eq!(outcome.to_string(), "undone: get-there was refused: toll was refused: toll is sold out");
    assert_eq!(trips.outside.acted("refused"), ["hotel", "taxi", "undo taxi", "undo hotel"]);
    // Each of its steps fails once.
    let once = [Play::Fails, Play::Acts];
    let input = trip().with("taxi", &once).with("toll", &once).with("last", &once);
    assert_eq!(trips.run("once", input).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("once"), ["hotel", "taxi", "toll", "last", "note 9"]);
    let outcome = trips.run("then", trip().with("toll", &[Play::Fails, Play::Refuses])).await;
    assert!(outcome.to_string().starts_with("undone: get-there was refused"), "{outcome}");
    // Before its own pivot has run it is undone, and with it the one around it.
    let waits = trip().with("taxi", &[Play::Waits]);
    let (cancelled, late) = (trips.begin("cancelled", &waits).await, trips.begin("late", &waits).await);
    for key in ["cancelled", "late"] {
        is_waiting(&trips, key, "taxi").await;
    }
    // Whatever it was told before.
    assert_eq!(trips.ask("cancelled", Verb::GoForward).await, Ok(()));
    assert_eq!(trips.ask("cancelled", Verb::Cancel).await, Ok(()));
    trips.is_declined("cancelled", Verb::Cancel).await;
    trips.ground.seconds(DEADLINE.as_secs() + 1);
    for key in ["cancelled", "late"] {
        until(&trips, key, "undoing", |ride| ride.status == RunStatus::Undoing).await;
    }
    trips.outside.let_go();
    assert!(matches!(trips.end_of(&cancelled).await, Outcome::Undone(Why::Cancelled { .. })));
    assert_eq!(trips.end_of(&late).await, Outcome::Undone(Why::Deadline));
    for key in ["cancelled", "late"] {
        assert_eq!(trips.outside.acted(key), ["hotel", "taxi", "undo taxi", "undo hotel"]);
    }
    nothing_is_left(trips).await;
}

/// T76
pub(super) async fn a_saga_within_that_has_decided_is_not_undone<S: Subject>(subject: &S) {
    let waits = trip().with("last", &[Play::Waits]);
    for (key, if_it_refuses) in [("a", IfItRefuses::GoForward), ("b", IfItRefuses::Park)] {
        let trips =
            start(subject, |outside| decided_within(outside, if_it_refuses), within_with_a_pivot).await;
        let handle = trips.begin(key, &waits).await;
        is_waiting(&trips, key, "last").await;
        let foreseen = trips.ground.ask(async || trips.runs().if_it_failed(key).await).await;
        assert!(
            matches!(&foreseen, Ok(IfItFailed::Forward(why)) if why.contains("saga of its own")),
            "{foreseen:?}"
        );
        assert_eq!(trips.ask(key, Verb::Cancel).await, Ok(()));
        let told = |ride: &RunShown| {
            ride.journal.iter().any(|(_, told)| told.contains("was declined: the pivot has run"))
        };
        until(&trips, key, "declined", told).await;
        // What woke the one around it is gone, also where nothing comes of it.
        if if_it_refuses == IfItRefuses::GoForward {
            let begun = Instant::now();
            while !matches!(&trips.left_over().await[..], [(row, _)] if is_late(&trips, row)) {
                assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", trips.left_over().await);
                trips.ground.pause().await;
            }
        }
        if if_it_refuses == IfItRefuses::Park {
            let shown = trips.until(key, "parked", is_parked).await;
            assert!(shown.waits_for.contains("retry to go forward with it"), "{}", shown.waits_for);
            trips.is_declined(key, Verb::Skip { step: "get-there".to_owned() }).await;
            assert_eq!(trips.ask(key, Verb::Retry { step: None }).await, Ok(()));
        }
        trips.outside.let_go();
        assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
        assert_eq!(trips.outside.acted(key), ["hotel", "taxi", "toll", "last", "note 9"]);
        nothing_is_left(trips).await;
    }
}

/// T77
pub(super) async fn what_an_operator_does_to_one_says_what_becomes_of_the_other<S: Subject>(subject: &S) {
    let trips = start(subject, around, within).await;
    let (there, waits) = ("get-there".to_owned(), |step: &str| trip().with(step, &[Play::Waits]));
    // The one within is cancelled: that is a no of the step.
    let cancelled = trips.begin("cancelled", &waits("taxi")).await;
    is_waiting(&trips, "cancelled", "taxi").await;
    let ride = until(&trips, "cancelled", "begun", |_| true).await;
    assert_eq!(ask(&trips, &ride, Verb::Cancel).await, Ok(()));
    let ends = RunError::By("how the parent of a run ends is said by that run only".to_owned());
    let spoken = Verb::Parent { ends: Outcome::Completed };
    let refused = rides(&trips).ask(&ride.key, spoken, "ada", "because", Duration::from_secs(1)).await;
    assert_eq!(refused.unwrap_err().to_string(), ends.to_string());
    // It is abandoned: the one around it waits for a person, who takes the step for run.
    let abandoned = trips.begin("abandoned", &waits("toll")).await;
    is_waiting(&trips, "abandoned", "toll").await;
    let ride = until(&trips, "abandoned", "begun", |_| true).await;
    let taken_for_run = Verb::Resolve { step: there.clone(), output: Data::of(&5).unwrap() };
    trips.is_declined("abandoned", taken_for_run.clone()).await;
    assert_eq!(ask(&trips, &ride, Verb::Abandon).await, Ok(()));
    // The one around it is abandoned: the one within waits for a person, who says what becomes of it.
    for key in ["left", "kept"] {
        trips.begin(key, &waits("pay")).await;
        is_waiting(&trips, key, "pay").await;
        assert_eq!(trips.ask(key, Verb::Abandon).await, Ok(()));
    }
    // What is asked of the one around it is foreseen with what the one within is told.
    trips.begin("foreseen", &waits("toll")).await;
    is_waiting(&trips, "foreseen", "toll").await;
    let foreseen = trips.ground.ask(async || trips.runs().if_it_failed("foreseen").await).await.unwrap();
    let IfItFailed::Undone(rounds) = foreseen else { panic!("{foreseen:?}") };
    let would: Vec<_> = rounds.iter().flatten().map(|would| (&*would.step, would.how)).collect();
    assert_eq!(would, [("get-there", HowUndone::Child), ("hotel", HowUndone::Undone)]);
    let dry = async || trips.runs().dry_run("foreseen", Verb::Cancel, "ada", "because").await;
    let DryRun { records, .. } = trips.ground.ask(dry).await.unwrap();
    assert!(
        records.iter().any(|told| told.starts_with("get-there was told that it is to be undone")),
        "{records:?}"
    );
    trips.outside.let_go();
    let outcome = trips.end_of(&cancelled).await;
    assert_eq!(outcome.to_string(), "undone: get-there was refused: cancelled by ada: because");
    let shown = trips.until("abandoned", "parked", is_parked).await;
    assert!(shown.waits_for.contains("was abandoned by ada: resolve this, or cancel"), "{}", shown.waits_for);
    assert_eq!(trips.ask("abandoned", taken_for_run).await, Ok(()));
    assert_eq!(trips.end_of(&abandoned).await, Outcome::Completed);
    assert!(trips.outside.acted("abandoned").contains(&"note 5".to_owned()));
    for (key, verb) in [("left", Verb::Cancel), ("kept", Verb::GoForward)] {
        let ride = until(&trips, key, "parked", is_parked).await;
        assert!(ride.waits_for.contains("its parent, trip"), "{}", ride.waits_for);
        assert_eq!(ask(&trips, &ride, verb.clone()).await, Ok(()));
        let ride = until(&trips, key, "ended", has_ended).await;
        assert_eq!(ride.outcome == Some(Outcome::Completed), verb == Verb::GoForward, "{ride:?}");
    }
    trips.end().await;
}

/// T78
pub(super) async fn a_saga_within_behind_the_pivot_is_tried_again<S: Subject>(subject: &S) {
    let trips = start(subject, behind, within_with_a_pivot).await;
    let refuses = |n: usize| trip().with("toll", &vec![Play::Refuses; n]);
    assert_eq!(trips.run("a", refuses(2)).await, Outcome::Completed);
    let acted = trips.outside.acted("a");
    assert_eq!(acted, ["pay", "taxi", "undo taxi", "taxi", "undo taxi", "taxi", "toll", "last", "note 9"]);
    // Until a person is asked.
    let handle = trips.begin("b", &refuses(4)).await;
    trips.until("b", "parked", is_parked).await;
    trips.is_declined("b", Verb::Cancel).await;
    assert_eq!(trips.ask("b", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    nothing_is_left(trips).await;
}

/// T79
pub(super) async fn families_go_on_on_other_nodes_and_act_once<S: Subject>(subject: &S) {
    let mut trips = start(subject, around, within).await;
    let keys: Vec<String> = (0..4).map(|n| format!("k{n}")).collect();
    let mut handles = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let input = if n % 2 == 0 { trip() } else { trip().with("pay", &[Play::Refuses]) };
        handles.push(trips.begin(key, &input.with(["taxi", "toll"][n / 2], &[Play::Waits])).await);
    }
    for (n, key) in keys.iter().enumerate() {
        is_waiting(&trips, key, ["taxi", "toll"][n / 2]).await;
    }
    // Their node is gone, in the middle of calls; then the next one, wherever they are.
    trips.crash(0);
    for _ in 0..2 {
        join(&mut trips, &around, &within).await;
    }
    trips.ground.seconds(2);
    trips.outside.release();
    trips.ground.pause().await;
    trips.crash(0);
    join(&mut trips, &around, &within).await;
    trips.ground.seconds(2);
    for (n, handle) in handles.iter().enumerate() {
        let is_completed = trips.end_of(handle).await == Outcome::Completed;
        let acted = trips.outside.acted(&keys[n]);
        assert_eq!(is_completed, n % 2 == 0, "{acted:?}");
        let of = |call: &str| acted.iter().filter(|acted| *acted == call).count();
        for step in ["hotel", "taxi", "toll"] {
            assert_eq!((of(step), of(&format!("undo {step}"))), (1, usize::from(!is_completed)), "{acted:?}");
        }
        let ride = until(&trips, &keys[n], "ended", has_ended).await;
        assert_eq!(ride.outcome == Some(Outcome::Completed), is_completed);
    }
    nothing_is_left(trips).await;
}

/// T80
pub(super) async fn a_saga_within_that_wakes_nobody_is_looked_at_all_the_same<S: Subject>(subject: &S) {
    let mut trips = start(subject, behind, within).await;
    let handle = trips.begin("a", &trip().with("toll", &[Play::Waits])).await;
    is_waiting(&trips, "a", "toll").await;
    let ride = until(&trips, "a", "begun", |_| true).await;
    // Until the one around it sleeps: what wakes it is due in hours.
    let wakes = Table::<Value>::new("hot.txn.wakes.trip.v1").unwrap();
    let sleeps = until_asleep(&trips, "a").await;
    // A node that has the one within only: it ends, and what it says waits for a node.
    let outside = trips.outside.clone();
    let alone = trips.ground.join(|app| app.saga(within(&outside))).await;
    trips.crash(0);
    trips.ground.seconds(2);
    trips.outside.let_go();
    let rides = alone.saga_runs::<Ride>().unwrap();
    while !has_ended(&trips.ground.ask(async || rides.show(&ride.key).await).await) {
        trips.ground.pause().await;
    }
    let all = trips.ground.ask(|| wakes.all(&trips.ground.backend)).await;
    let said: Vec<_> = all.into_iter().filter(|row| row.key != sleeps).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let rows = said.iter().map(|row| wakes.delete_at(row.key.clone(), row.rev)).collect();
    trips.ground.commit(Commit { rows, ..Commit::default() }).await;
    drop(alone);
    join(&mut trips, &behind, &within).await;
    trips.ground.seconds(2 * 60 * 60);
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["pay", "taxi", "toll", "note 9"]);
    nothing_is_left(trips).await;
}

/// T42
pub(super) async fn a_run_that_is_repaired_while_the_saga_within_runs_is_not_damaged_any_more<S: Subject>(
    subject: &S,
) {
    let trips = start(subject, behind, within).await;
    let handle = trips.begin("a", &trip().with("toll", &[Play::Waits; 20])).await;
    is_waiting(&trips, "a", "toll").await;
    until_asleep(&trips, "a").await;
    let journal = Table::<Value>::new("txn.journal.trip").unwrap();
    let (runs, run) = (trips.runs(), handle.run().simple().to_string());
    let before = trips.ground.overwrite(&journal, &run, &json!({"odd": 1})).await;
    // It looks at the one within.
    trips.ground.seconds(2 * 60 * 60);
    while trips.ground.ask(async || runs.waiting(None, 10).await).await.is_empty() {
        trips.ground.pause().await;
    }
    trips.ground.overwrite(&journal, &run, &before).await;
    trips.until("a", "waiting again", |shown| shown.status == RunStatus::Running).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    nothing_is_left(trips).await;
}

/// T92
pub(super) async fn a_saga_within_gives_the_output_of_the_step_that_it_began_with<S: Subject>(subject: &S) {
    let mut trips = start(subject, |outside| brief(outside, GetThere), within).await;
    let handle = trips.begin("a", &trip().with("toll", &[Play::Waits])).await;
    is_waiting(&trips, "a", "toll").await;
    trips.crash(0);
    let (outside, later) = (trips.outside.clone(), |outside: &_| brief(outside, GetThereLater));
    trips.join_with(later, |app| app.saga(within_with_a_fare(&outside)).earlier_saga(within(&outside))).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["hotel", "taxi", "toll", "pay"]);
    assert_eq!(trips.run("b", trip()).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("b"), ["hotel", "taxi", "fare", "pay"]);
    trips.end().await;
}

/// Until a run sleeps, and what wakes it is due in hours: the key of that.
async fn until_asleep<S: Subject>(trips: &Trips<'_, S>, key: &str) -> String {
    let wakes = Table::<Value>::new("hot.txn.wakes.trip.v1").unwrap();
    loop {
        let all = trips.ground.ask(|| wakes.all(&trips.ground.backend)).await;
        match &all[..] {
            [row] if trips.show(key).await.holder.is_some() && is_late(trips, &row.key) => {
                return row.key.clone();
            }
            _ => trips.ground.pause().await,
        }
    }
}

/// Whether a wake-up is due in an hour or later.
fn is_late<S: Subject>(trips: &Trips<'_, S>, key: &str) -> bool {
    let now = trips.ground.clock.now().as_microsecond();
    let due: i64 = key.split(':').nth(1).unwrap().parse().unwrap();
    due > now + 3_600_000_000
}

/// T91
pub(super) async fn that_no_node_has_the_version_of_a_saga_within_is_said<S: Subject>(subject: &S) {
    let mut trips = start(subject, around, within).await;
    let handle = trips.begin("a", &trip().with("toll", &[Play::Waits])).await;
    is_waiting(&trips, "a", "toll").await;
    let ride = until(&trips, "a", "begun", |_| true).await;
    assert!(!trips.show("a").await.waits_for.contains("no node"), "there is one");
    trips.crash(0);
    join(&mut trips, &around, &within_later).await;
    trips.ground.seconds(2);
    let alone = format!("no node is running that has version 1 of ride {:?}", ride.key);
    trips.until("a", "said", |shown| shown.waits_for.contains(&alone)).await;
    // It comes.
    let outside = trips.outside.clone();
    trips.join_with(around, |app| app.saga(within_later(&outside)).earlier_saga(within(&outside))).await;
    trips.until("a", "not said any more", |shown| !shown.waits_for.contains("no node")).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.end().await;
}

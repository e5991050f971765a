//! What is sent to runs from outside: T29 to T32, T36 to T40.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::App;
use es_core::store::{Table, Transaction};
use es_core::{Backend, BoxError, ErrorKind, chain};
use futures::future::join_all;
use sagas::Data;
use sagas::saga::{
    Call, Cx, Outcome, Ran, Remote, Retry, RunError, RunFilter, RunShown, RunStatus, Saga, SagaSignal,
    Sagas as _, Signal, Signals, Step, StepError, Undo, Unknown, Verb, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Subject;
use super::ground::{Ground, PATIENCE};
use super::trip::{DEADLINE, Outside, Play, Trip, Trips, retry, trip};

/// What the first step waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Approved {
    by: String,
}

impl SagaSignal for Approved {
    type Saga = Trip;
    const NAME: &'static str = "approved";
}

fn by(by: &str) -> Approved {
    Approved { by: by.to_owned() }
}

/// What the last step has read, by run.
type Read = Arc<Mutex<Vec<(String, Vec<u32>)>>>;

/// Before the signal, or beside it.
struct Hotel(Outside, Retry);

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
        self.1
    }
    fn unknown(&self) -> Unknown {
        Unknown::Park
    }
}

impl Undo<Trip> for Hotel {
    async fn undo(&self, cx: Cx<'_, Trip, ()>, _: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        let done = self.0.call(cx.key, "undo hotel", cx.input, call.key()).await;
        done.map_err(|error| format!("{error:?}").into())
    }
}

/// Behind it.
struct Pay(Outside);

impl Step<Trip> for Pay {
    const NAME: &'static str = "pay";
    type Needs = (Signal<Approved>,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, Self::Needs>, call: &mut Call) -> Result<(), StepError<String>> {
        self.0.call(cx.key, &format!("pay, says {}", cx.needs.0.by), cx.input, call.key()).await
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

fn definition<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let own = || outside.clone();
    let approved = Signal::<Approved>::new();
    let hotel = Hotel(own(), retry());
    Saga::new("trip", 1).deadline(DEADLINE).step(hotel).step(approved).pivot(Pay(own())).build()
}

async fn start<S: Subject>(subject: &S) -> Trips<'_, S> {
    let mut trips = Trips::open(subject).await;
    trips.join_with(definition::<<S::Backend as Backend>::Tx>, |app| app).await;
    trips
}

/// Sends it until there is an answer.
async fn send<S: Subject, G: SagaSignal>(
    ground: &Ground<'_, S>,
    app: &App,
    key: &str,
    id: &str,
    signal: &G,
) -> Result<(), RunError> {
    loop {
        match app.signal_saga(key, id, signal).await {
            Err(error) if error.kind() == ErrorKind::Transient || error.kind() == ErrorKind::Unknown => {
                ground.pause().await;
            }
            answer => return answer,
        }
    }
}

/// T29
pub(super) async fn a_step_waits_for_what_is_sent_whenever_that_comes<S: Subject>(subject: &S) {
    let mut trips = start(subject).await;
    trips.join_with(definition::<<S::Backend as Backend>::Tx>, |app| app).await;
    let late = trips.begin("late", &trip()).await;
    let is_awaited = |shown: &RunShown| shown.waits_for.starts_with("somebody who sends approved");
    let shown = trips.until("late", "waiting", is_awaited).await;
    assert!(shown.waits_for.contains("it is undone at"), "{}", shown.waits_for);
    assert_eq!((shown.status, &*shown.steps[1].state), (RunStatus::Running, "0 of 1 sent"));
    // From another node than it began on; and once more.
    for node in [1, 0] {
        send(&trips.ground, &trips.nodes[node], "late", "mail 1", &by("ada")).await.unwrap();
    }
    assert_eq!(trips.end_of(&late).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("late"), ["hotel", "pay, says ada"]);
    // Before it waits for it.
    let early = trips.begin("early", &trip().with("hotel", &[Play::Waits; 9])).await;
    while !trips.outside.is_waiting("early", "hotel") {
        trips.ground.pause().await;
    }
    send(&trips.ground, &trips.nodes[0], "early", "mail 2", &by("bob")).await.unwrap();
    let shown = trips.show("early").await;
    assert_eq!(shown.steps[1].state, "1 of 1 sent");
    assert!(shown.journal.iter().any(|(_, what)| what == "approved was sent, as mail 2"), "{shown:?}");
    trips.outside.let_go();
    assert_eq!(trips.end_of(&early).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("early"), ["hotel", "pay, says bob"]);
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T30
pub(super) async fn what_comes_too_late_or_is_not_wanted_is_answered_as_that<S: Subject>(subject: &S) {
    let trips = start(subject).await;
    let (ground, app) = (&trips.ground, &trips.nodes[0]);
    let unknown = send(ground, app, "nobody", "mail 1", &by("ada")).await;
    assert!(matches!(unknown, Err(RunError::Unknown { .. })), "{unknown:?}");
    assert!(matches!(send(ground, app, "nobody", " ", &by("ada")).await, Err(RunError::By(_))));
    let waits = trip().with("hotel", &[Play::Waits; 9]);
    let taken = trips.begin("taken", &waits).await;
    send(ground, app, "taken", "mail 1", &by("ada")).await.unwrap();
    let second = send(ground, app, "taken", "mail 2", &by("bob")).await;
    assert!(matches!(second, Err(RunError::Declined { .. })), "{second:?}");
    // Neither a cancellation nor the deadline waits for it.
    let cancelled = trips.begin("cancelled", &trip()).await;
    let late = trips.begin("late", &trip()).await;
    let is_awaited = |shown: &RunShown| shown.waits_for.starts_with("somebody who sends approved");
    for key in ["cancelled", "late"] {
        trips.until(key, "waiting", is_awaited).await;
    }
    assert_eq!(trips.ask("cancelled", Verb::Cancel).await, Ok(()));
    let outcome = trips.end_of(&cancelled).await;
    assert!(matches!(outcome, Outcome::Undone(Why::Cancelled { .. })), "{outcome}");
    trips.outside.let_go();
    assert_eq!(trips.end_of(&taken).await, Outcome::Completed);
    trips.ground.seconds(DEADLINE.as_secs() + 1);
    assert_eq!(trips.end_of(&late).await, Outcome::Undone(Why::Deadline));
    for key in ["cancelled", "late"] {
        assert_eq!(trips.outside.acted(key), ["hotel", "undo hotel"]);
        let ended = send(ground, app, key, "mail 1", &by("ada")).await;
        assert!(matches!(ended, Err(RunError::Ended { .. })), "{ended:?}");
    }
    // What it has taken it has taken, though it has ended.
    send(ground, app, "taken", "mail 1", &by("ada")).await.unwrap();
    let ended = send(ground, app, "taken", "mail 2", &by("bob")).await;
    assert!(matches!(ended, Err(RunError::Ended { .. })), "{ended:?}");
    trips.end().await;
}

/// One of many.
#[derive(Debug, Serialize, Deserialize)]
struct Vote(u32);

impl SagaSignal for Vote {
    type Saga = Trip;
    const NAME: &'static str = "vote";
}

/// More than a run takes in at once.
const MANY: u32 = 120;

/// Reads all of them.
struct Count(Read);

impl Step<Trip> for Count {
    const NAME: &'static str = "count";
    type Needs = (Signals<Vote>,);
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, Self::Needs>, _: &mut Call) -> Result<(), StepError<Infallible>> {
        let votes = cx.needs.0.iter().map(|vote| vote.0).collect();
        self.0.lock().unwrap().push((cx.key.to_owned(), votes));
        Ok(())
    }
}

fn counted<T: Transaction>(read: &Read, votes: u32) -> Saga<Trip, T> {
    Saga::new("trip", 1).step(Signals::<Vote>::of(votes)).pivot(Count(read.clone())).build()
}

fn read_by(read: &Read, key: &str) -> Vec<u32> {
    let all = read.lock().unwrap();
    all.iter().rfind(|(of, _)| of == key).expect("it was read").1.clone()
}

/// T31
pub(super) async fn a_flood_of_signals_is_taken_once_by_nodes_that_come_and_go<S: Subject>(subject: &S) {
    let (mut trips, read) = (Trips::open(subject).await, Read::default());
    let saga = |_: &_| counted::<<S::Backend as Backend>::Tx>(&read, MANY);
    for _ in 0..3 {
        trips.join_with(saga, |app| app).await;
    }
    let handle = trips.begin("a", &trip()).await;
    // A node that nobody sends from ends, and one is gone, while the others send.
    let (gone, apps) = (trips.nodes.pop().unwrap(), trips.nodes.clone());
    let ground = &trips.ground;
    let senders = (0..MANY).map(|n| {
        let app = &apps[n as usize % apps.len()];
        async move {
            // Each says it twice: the answer to the first may have been lost.
            for _ in 0..2 {
                send(ground, app, "a", &n.to_string(), &Vote(n)).await.unwrap();
            }
        }
    });
    let owners = async {
        for _ in 0..3 {
            ground.pause().await;
            // Who has the run is taken for dead, and works on.
            ground.seconds(2);
        }
        drop(gone);
    };
    futures::join!(join_all(senders), owners);
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    let mut votes = read_by(&read, "a");
    votes.sort_unstable();
    assert_eq!(votes, (0..MANY).collect::<Vec<_>>());
    drop(apps);
    trips.end().await;
}

/// T32
pub(super) async fn a_signal_at_the_end_of_a_run_is_answered_as_it_was<S: Subject>(subject: &S) {
    let (mut trips, read) = (Trips::open(subject).await, Read::default());
    let saga = |_: &_| counted::<<S::Backend as Backend>::Tx>(&read, 1);
    for _ in 0..2 {
        trips.join_with(saga, |app| app).await;
    }
    for n in 0..10 {
        let key = format!("k{n}");
        let handle = trips.begin(&key, &trip()).await;
        let senders = (0..6_u32).map(|n| {
            let (ground, app, key) = (&trips.ground, &trips.nodes[n as usize % 2], &key);
            async move { send(ground, app, key, &n.to_string(), &Vote(n)).await }
        });
        let answers = join_all(senders).await;
        assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
        let votes = read_by(&read, &key);
        for (n, answer) in (0..).zip(answers) {
            match answer {
                Ok(()) => assert_eq!(votes, [n]),
                Err(RunError::Declined { .. } | RunError::Ended { .. }) => assert_ne!(votes, [n]),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// A step beside the signal.
fn beside<T: Transaction>(outside: &Outside, retry: Retry) -> Saga<Trip, T> {
    let own = || outside.clone();
    let approved = Signal::<Approved>::new();
    Saga::new("trip", 1).both(Hotel(own(), retry), approved).pivot(Pay(own())).build()
}

/// T36
pub(super) async fn what_is_sent_to_a_run_that_waits_for_a_person_is_taken<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let saga = |outside: &_| beside::<<S::Backend as Backend>::Tx>(outside, retry());
    trips.join_with(saga, |app| app).await;
    let handle = trips.begin("a", &trip().with("hotel", &[Play::Fails])).await;
    let is_parked = |shown: &RunShown| shown.status == RunStatus::Parked;
    trips.until("a", "parked", is_parked).await;
    send(&trips.ground, &trips.nodes[0], "a", "mail 1", &by("ada")).await.unwrap();
    let shown = trips.show("a").await;
    assert!(is_parked(&shown) && shown.waits_for.contains("hotel: no connection"), "{shown:?}");
    assert_eq!(shown.steps[1].state, "done");
    trips.outside.mend();
    assert_eq!(trips.ask("a", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["hotel", "pay, says ada"]);
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// Longer than any test: what waits for it waits until it is asked to go on.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// T37
pub(super) async fn what_a_run_fails_with_is_known_whatever_is_sent_to_it<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let saga = |outside: &_| beside::<<S::Backend as Backend>::Tx>(outside, retry().pauses(YEAR, YEAR));
    trips.join_with(saga, |app| app).await;
    let handle = trips.begin("a", &trip().with("hotel", &[Play::Fails])).await;
    trips.until("a", "failed", |shown| shown.steps[0].failures > 0).await;
    send(&trips.ground, &trips.nodes[0], "a", "mail 1", &by("ada")).await.unwrap();
    let (runs, filter) = (trips.runs(), RunFilter::all().failing_with("hotel: no connection"));
    let page = trips.ground.ask(async || runs.list(&filter, None, 10).await).await;
    assert_eq!(page.runs.iter().map(|run| &*run.key).collect::<Vec<_>>(), ["a"]);
    trips.outside.mend();
    assert_eq!(trips.ask("a", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.end().await;
}

/// One signal, and then two.
fn several<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let own = || outside.clone();
    let (approved, votes) = (Signal::<Approved>::new(), Signals::<Vote>::of(2));
    Saga::new("trip", 1).step(Hotel(own(), retry())).step(approved).step(votes).pivot(Pay(own())).build()
}

fn asked(name: &str, id: &str, value: &impl Serialize) -> Verb {
    Verb::Signal { name: name.to_owned(), id: id.to_owned(), value: Data::of(value).unwrap() }
}

/// T38
pub(super) async fn what_is_too_large_or_says_something_else_is_not_taken<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips.join_with(several::<<S::Backend as Backend>::Tx>, |app| app).await;
    let (ground, app, runs) = (&trips.ground, &trips.nodes[0], trips.runs());
    let handle = trips.begin("a", &trip().with("hotel", &[Play::Waits; 9])).await;
    let large = by(&"x".repeat(256 << 10));
    let unfit = send(ground, app, "a", "mail 1", &large).await;
    assert!(matches!(unfit, Err(RunError::Input { .. })), "{unfit:?}");
    // Nor if a person sends it; and of two, each has half of that.
    for verb in [asked("approved", "mail 1", &large), asked("approved", " ", &by("ada"))] {
        let unfit = runs.ask("a", verb, "ada", "because", PATIENCE).await;
        assert!(matches!(unfit, Err(RunError::Input { .. } | RunError::By(_))), "{unfit:?}");
    }
    trips.is_declined("a", asked("vote", "0", &"x".repeat(128 << 10))).await;
    send(ground, app, "a", "mail 1", &by("eve")).await.unwrap();
    send(ground, app, "a", "mail 1", &by("eve")).await.unwrap();
    let other = send(ground, app, "a", "mail 1", &by("bob")).await;
    assert!(matches!(other, Err(RunError::Declined { .. })), "{other:?}");
    for n in 1..3 {
        send(ground, app, "a", &n.to_string(), &Vote(n)).await.unwrap();
    }
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["hotel", "pay, says eve"]);
    // It has ended with the one, and not with the other.
    send(ground, app, "a", "mail 1", &by("eve")).await.unwrap();
    let other = send(ground, app, "a", "mail 1", &by("bob")).await;
    assert!(matches!(other, Err(RunError::Declined { .. })), "{other:?}");
    // What was sent is kept with the step and as its output, and nothing else is.
    let journal = Table::<Value>::new("txn.journal.trip").unwrap();
    let rows = ground.ask(async || journal.all(&ground.backend).await).await;
    let with = |what: &str| rows.iter().filter(|row| row.value.to_string().contains(what)).count();
    assert_eq!(["eve", "bob", "xx"].map(with), [2, 0, 0]);
    trips.end().await;
}

/// The same signal in another program.
#[derive(Debug, Serialize, Deserialize)]
struct Stamped(u32);

impl SagaSignal for Stamped {
    type Saga = Trip;
    const NAME: &'static str = Approved::NAME;
}

/// T39
pub(super) async fn what_only_another_program_can_read_can_be_sent_again<S: Subject>(subject: &S) {
    let trips = start(subject).await;
    let (ground, app) = (&trips.ground, &trips.nodes[0]);
    let handle = trips.begin("a", &trip()).await;
    loop {
        let error = app.signal_saga("a", "mail 1", &Stamped(7)).await.unwrap_err();
        assert!([ErrorKind::Transient, ErrorKind::Unknown].contains(&error.kind()), "{error:?}");
        if chain(&error).contains("cannot read it") {
            break;
        }
        ground.pause().await;
    }
    send(ground, app, "a", "mail 1", &by("ada")).await.unwrap();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.outside.acted("a"), ["hotel", "pay, says ada"]);
    trips.end().await;
}

/// One of many, each of which has a step of its own.
#[derive(Serialize, Deserialize)]
struct Sent<const N: usize> {}

impl<const N: usize> SagaSignal for Sent<N> {
    type Saga = Trip;
    const NAME: &'static str = NAMES[N];
}

const NAMES: [&str; 17] = [
    "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15",
    "s16",
];

macro_rules! awaiting {
    ($saga:expr, $($n:literal)+) => { $saga$(.step(Signal::<Sent<$n>>::new()))+ };
}

/// hotel · one signal after the other
fn one_after_the_other<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let saga = Saga::new("trip", 1).step(Hotel(outside.clone(), retry()));
    awaiting!(saga, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16).build()
}

/// T40
pub(super) async fn signals_that_came_early_are_taken_in_turn_however_many<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips.join_with(one_after_the_other::<<S::Backend as Backend>::Tx>, |app| app).await;
    let signal = |n: usize| {
        let value = Data::of(&Sent::<0> {}).unwrap();
        Verb::Signal { name: NAMES[n].to_owned(), id: "a".to_owned(), value }
    };
    // Behind a call, and behind the first of them.
    let call = trips.begin("call", &trip().with("hotel", &[Play::Waits])).await;
    let first = trips.begin("first", &trip()).await;
    while !trips.outside.is_waiting("call", "hotel") {
        trips.ground.pause().await;
    }
    for n in (0..NAMES.len()).rev() {
        for key in ["call", "first"] {
            assert_eq!(trips.ask(key, signal(n)).await, Ok(()), "{n}");
        }
    }
    assert_eq!(trips.end_of(&first).await, Outcome::Completed);
    trips.outside.let_go();
    assert_eq!(trips.end_of(&call).await, Outcome::Completed);
    assert_eq!(trips.outside.called("call", "hotel"), 1);
    trips.end().await;
}

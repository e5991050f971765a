//! What is sent to runs from outside: T29 to T32.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use es_core::App;
use es_core::store::Transaction;
use es_core::{Backend, BoxError, ErrorKind};
use futures::future::join_all;
use sagas::saga::{
    Call, Cx, Outcome, Ran, Remote, Retry, RunError, RunStatus, Saga, SagaSignal, Sagas as _, Signal,
    Signals, Step, StepError, Undo, Verb, Why,
};
use serde::{Deserialize, Serialize};

use super::Subject;
use super::ground::Ground;
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

/// Before the signal.
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
    Saga::new("trip", 1).deadline(DEADLINE).step(Hotel(own())).step(approved).pivot(Pay(own())).build()
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
    let is_awaited =
        |shown: &sagas::saga::RunShown| shown.waits_for.starts_with("somebody who sends approved");
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
    let is_awaited =
        |shown: &sagas::saga::RunShown| shown.waits_for.starts_with("somebody who sends approved");
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

const MANY: u32 = 500;

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
    for n in 0..20 {
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

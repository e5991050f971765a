//! A saga that does as it is told: its input says what each call of each step comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::processor::SLICES;
use es_core::store::{RowWrite, Table, Transaction};
use es_core::{App, AppBuilder, Backend, BoxError};
use sagas::saga::{
    Call, Compensating, Cx, Handle, Journal, Outcome, Ran, Remote, Retry, RunError, RunShown, Runs, Saga,
    SagaApp as _, SagaBuilder, SagaInput, Sagas as _, Step, StepError, Undo, Unknown, Verb,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Subject;
use super::ground::{Ground, PATIENCE};

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Play {
    /// It acts, and says so.
    Acts,
    /// A no, without having acted.
    Refuses,
    /// An error, without having acted.
    Fails,
    /// It acts, and its answer is lost.
    ActsUnheard,
    Panics,
    /// It waits until it is let go, and acts.
    Waits,
}

/// What the calls of each step come to, one after the other; those that are not named act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trip {
    plays: BTreeMap<String, Vec<Play>>,
    /// A field that older programs did not have.
    #[serde(default)]
    pub(crate) note: Option<String>,
}

impl SagaInput for Trip {}

impl Trip {
    pub(crate) fn with(mut self, call: &str, plays: &[Play]) -> Self {
        self.plays.insert(call.to_owned(), plays.to_vec());
        self
    }
}

pub(crate) fn trip() -> Trip {
    Trip::default()
}

/// What the steps of all nodes share: whoever is called, outside of any store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What acted, by run and call, in order; under each key once.
    acted: Mutex<Vec<(String, String)>>,
    keys: Mutex<BTreeSet<String>>,
    /// How often each call of a run was made.
    calls: Mutex<BTreeMap<(String, String), usize>>,
    let_go: Notify,
    waiting: Mutex<BTreeSet<(String, String)>>,
    /// Everything works from now on.
    mended: Mutex<bool>,
}

impl Outside {
    pub(crate) fn play(&self, of: &str, call: &str, trip: &Trip) -> Play {
        let mut calls = self.0.calls.lock().unwrap();
        let n = calls.entry((of.to_owned(), call.to_owned())).or_default();
        *n += 1;
        if *self.0.mended.lock().unwrap() {
            return Play::Acts;
        }
        let plays = trip.plays.get(call).map(Vec::as_slice).unwrap_or_default();
        // The last of them goes on if it is not one that acts.
        plays
            .get(*n - 1)
            .or_else(|| plays.last().filter(|last| **last == Play::Fails))
            .copied()
            .unwrap_or(Play::Acts)
    }

    pub(crate) fn mend(&self) {
        *self.0.mended.lock().unwrap() = true;
    }

    fn act(&self, of: &str, call: &str, key: &str) {
        if self.0.keys.lock().unwrap().insert(key.to_owned()) {
            self.0.acted.lock().unwrap().push((of.to_owned(), call.to_owned()));
        }
    }

    /// What acted outside of a run, in order.
    pub(crate) fn acted(&self, of: &str) -> Vec<String> {
        let acted = self.0.acted.lock().unwrap();
        acted.iter().filter(|(run, _)| run == of).map(|(_, call)| call.clone()).collect()
    }

    /// How often a call of a run was made.
    pub(crate) fn called(&self, of: &str, call: &str) -> usize {
        self.0.calls.lock().unwrap().get(&(of.to_owned(), call.to_owned())).copied().unwrap_or_default()
    }

    pub(crate) fn is_waiting(&self, of: &str, call: &str) -> bool {
        self.0.waiting.lock().unwrap().contains(&(of.to_owned(), call.to_owned()))
    }

    pub(crate) fn let_go(&self) {
        self.mend();
        self.release();
    }

    /// Those that wait act; what comes later does as it is told.
    pub(crate) fn release(&self) {
        self.0.let_go.notify_waiters();
    }

    pub(crate) async fn wait(&self, of: &str, call: &str) {
        let woken = self.0.let_go.notified();
        self.0.waiting.lock().unwrap().insert((of.to_owned(), call.to_owned()));
        if !*self.0.mended.lock().unwrap() {
            woken.await;
        }
        self.0.waiting.lock().unwrap().remove(&(of.to_owned(), call.to_owned()));
    }

    /// A call to somewhere else.
    pub(crate) async fn call(
        &self,
        of: &str,
        call: &str,
        trip: &Trip,
        key: &str,
    ) -> Result<(), StepError<String>> {
        match self.play(of, call, trip) {
            Play::Acts => {}
            Play::Waits => self.wait(of, call).await,
            Play::Refuses => return Err(StepError::Refused(format!("{call} is sold out"))),
            Play::Fails => return Err(StepError::Retry("no connection".into())),
            Play::ActsUnheard => {
                self.act(of, call, key);
                return Err(StepError::Retry("the answer was lost".into()));
            }
            Play::Panics => panic!("{call} panics"),
        }
        self.act(of, call, key);
        Ok(())
    }

    /// The same in a transaction of the store.
    async fn local<T: Transaction>(
        &self,
        of: &str,
        call: &str,
        trip: &Trip,
        tx: &mut T,
    ) -> Result<(), StepError<String>> {
        let play = self.play(of, call, trip);
        if play == Play::Waits {
            self.wait(of, call).await;
        }
        // Before it fails: nothing of it may stay.
        let row = Table::<String>::new("effects").unwrap().insert(format!("{of}/{call}"), "done".to_owned());
        let row: RowWrite = row.unwrap();
        tx.staged().rows.push(row);
        match play {
            Play::Acts | Play::Waits => Ok(()),
            Play::Refuses => Err(StepError::Refused(format!("{call} is sold out"))),
            Play::Fails | Play::ActsUnheard => Err(StepError::Retry("a statement failed".into())),
            Play::Panics => panic!("{call} panics"),
        }
    }
}

pub(crate) fn retry() -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(3).late(4, Duration::from_secs(3_600))
}

/// The steps: what each does is the same, under its own name and in its own place.
macro_rules! local {
    ($($step:ident $name:literal ($($needs:ident),*);)+) => { $(
        pub(crate) struct $step<T>(pub(crate) Outside, pub(crate) PhantomData<fn() -> T>);

        impl<T: Transaction> Step<Trip> for $step<T> {
            const NAME: &'static str = $name;
            type Needs = ($($needs<T>,)*);
            type Output = String;
            type Refusal = String;
            type Place = Journal<T>;
            async fn run(&self, cx: Cx<'_, Trip, Self::Needs>, tx: &mut T) -> Result<String, StepError<String>> {
                self.0.local(cx.key, $name, cx.input, tx).await?;
                Ok(format!("{} of {}", $name, cx.key))
            }
            fn retry(&self) -> Retry {
                retry()
            }
        }

        impl<T: Transaction> Undo<Trip> for $step<T> {
            async fn undo(&self, cx: Cx<'_, Trip, Self::Needs>, ran: Ran<String>, tx: &mut T) -> Result<(), BoxError> {
                // What is done here is known.
                assert_eq!(ran, Ran::Yes(format!("{} of {}", $name, cx.key)));
                self.0.local(cx.key, concat!("undo ", $name), cx.input, tx).await.map_err(|_| "not undone".into())
            }
        }
    )+ };
}
local! {
    Order "order" ();
    Seat "seat" (Order);
}

macro_rules! remote {
    ($($step:ident $name:literal $unknown:expr;)+) => { $(
        pub(crate) struct $step(pub(crate) Outside);

        impl Step<Trip> for $step {
            const NAME: &'static str = $name;
            type Needs = ();
            type Output = u32;
            type Refusal = String;
            type Place = Remote;
            async fn run(&self, cx: Cx<'_, Trip, ()>, call: &mut Call) -> Result<u32, StepError<String>> {
                self.0.call(cx.key, $name, cx.input, call.key()).await?;
                Ok(7)
            }
            fn retry(&self) -> Retry {
                retry()
            }
            fn unknown(&self) -> Unknown {
                $unknown
            }
        }

        impl Undo<Trip> for $step {
            async fn undo(&self, cx: Cx<'_, Trip, ()>, ran: Ran<u32>, call: &mut Call) -> Result<(), BoxError> {
                let what = match ran {
                    Ran::Yes(output) => {
                        assert_eq!(output, 7);
                        concat!("undo ", $name)
                    }
                    Ran::Maybe => concat!("void ", $name),
                };
                let done = self.0.call(cx.key, what, cx.input, call.key()).await;
                done.map_err(|error| format!("{error:?}").into())
            }
        }
    )+ };
}
remote! {
    Flight "flight" Unknown::Settle;
    Hotel "hotel" Unknown::Fence;
    Car "car" Unknown::Park;
}

/// The pivot, elsewhere.
pub(crate) struct Pay(pub(crate) Outside);

impl Step<Trip> for Pay {
    const NAME: &'static str = "pay";
    type Needs = (Flight,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, (Flight,)>, call: &mut Call) -> Result<(), StepError<String>> {
        assert_eq!(cx.needs, (7,));
        self.0.call(cx.key, "pay", cx.input, call.key()).await
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// What has to succeed.
pub(crate) struct Mail<T>(Outside, PhantomData<fn() -> T>);

impl<T: Transaction> Step<Trip> for Mail<T> {
    const NAME: &'static str = "mail";
    type Needs = (Seat<T>,);
    type Output = ();
    type Refusal = std::convert::Infallible;
    type Place = Journal<T>;
    async fn run(
        &self,
        cx: Cx<'_, Trip, (Seat<T>,)>,
        tx: &mut T,
    ) -> Result<(), StepError<std::convert::Infallible>> {
        assert_eq!(cx.needs.0, format!("seat of {}", cx.key));
        self.0.local(cx.key, "mail", cx.input, tx).await.map_err(|_| StepError::Retry("no mail".into()))
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// Five minutes to be decided in.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// order · seat with flight, hotel and car · pay · mail
pub(crate) fn definition<T: Transaction>(outside: &Outside, version: u32) -> Saga<Trip, T> {
    steps(Saga::new("trip", version), outside)
}

/// flight; what happens to its runs is told.
pub(crate) fn announced_flight<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    Saga::new("trip", 1).announced().step(Flight(outside.clone())).build()
}

/// The same as the first; what happens to its runs is told.
pub(crate) fn announced<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    steps(Saga::new("trip", 1).announced(), outside)
}

fn steps<T: Transaction>(saga: SagaBuilder<Trip, T, (), Compensating>, outside: &Outside) -> Saga<Trip, T> {
    let own = || outside.clone();
    saga.deadline(DEADLINE)
        .step(Order(own(), PhantomData))
        .all((Seat(own(), PhantomData), Flight(own()), Hotel(own()), Car(own())))
        .pivot(Pay(own()))
        .then(Mail(own(), PhantomData))
        .build()
}

pub(crate) struct Trips<'s, S: Subject> {
    pub(crate) ground: Ground<'s, S>,
    pub(crate) outside: Outside,
    pub(crate) nodes: Vec<App>,
}

impl<'s, S: Subject> Trips<'s, S> {
    pub(crate) async fn start(subject: &'s S) -> Self {
        let mut trips = Self::open(subject).await;
        trips.join().await;
        trips
    }

    /// Without a node.
    pub(crate) async fn open(subject: &'s S) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        Self { ground, outside: Outside::default(), nodes: Vec::new() }
    }

    /// A node with this definition, and what else is wired.
    pub(crate) async fn join_with(
        &mut self,
        saga: impl Fn(&Outside) -> Saga<Trip, <S::Backend as Backend>::Tx>,
        wire: impl Fn(AppBuilder<S::Backend>) -> AppBuilder<S::Backend>,
    ) {
        let app = self.ground.join(|app| wire(app.saga(saga(&self.outside)))).await;
        self.nodes.push(app);
    }

    pub(crate) async fn join(&mut self) {
        self.join_as(&[1]).await;
    }

    /// A node with these versions of the definition, the newest first.
    pub(crate) async fn join_as(&mut self, versions: &[u32]) {
        let wire = |app: AppBuilder<S::Backend>| {
            let of = |version: &u32| definition::<<S::Backend as Backend>::Tx>(&self.outside, *version);
            let app = app.saga(of(&versions[0]));
            versions[1..].iter().fold(app, |app, version| app.earlier_saga(of(version)))
        };
        let app = self.ground.join(wire).await;
        self.nodes.push(app);
    }

    pub(crate) async fn stop(&mut self) {
        for app in self.nodes.drain(..) {
            assert!(app.shutdown(PATIENCE).await);
        }
    }

    /// One of the nodes ends.
    pub(crate) async fn stop_one(&mut self, node: usize) {
        assert!(self.nodes.swap_remove(node).shutdown(PATIENCE).await);
    }

    /// A node is gone from one moment to the next.
    pub(crate) fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
    }

    /// Until the first node works on all runs.
    pub(crate) async fn until_at_work(&self) {
        loop {
            let health = self.nodes[0].health().await;
            if health.engines.iter().all(|engine| engine.slices == SLICES) {
                return;
            }
            self.ground.pause().await;
        }
    }

    pub(crate) async fn begin(&self, key: &str, trip: &Trip) -> Handle {
        self.ground.ask(async || self.nodes[0].start_saga(key, trip).await).await
    }

    /// Runs one to its end.
    pub(crate) async fn run(&self, key: &str, trip: Trip) -> Outcome {
        let handle = self.begin(key, &trip).await;
        self.end_of(&handle).await
    }

    /// Until it has ended, while the clock may go on.
    pub(crate) async fn end_of(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            if begun.elapsed() > PATIENCE / 10 {
                panic!("it does not end: {:#?}", self.show(handle.key()).await);
            }
            self.ground.pause().await;
        }
    }

    pub(crate) fn runs(&self) -> Runs {
        self.nodes[0].saga_runs::<Trip>().unwrap()
    }

    pub(crate) async fn show(&self, key: &str) -> RunShown {
        let runs = self.runs();
        self.ground.ask(async || runs.show(key).await).await
    }

    /// Until a run looks like this.
    pub(crate) async fn until(&self, key: &str, what: &str, is_so: impl Fn(&RunShown) -> bool) -> RunShown {
        let begun = Instant::now();
        loop {
            let shown = self.show(key).await;
            if is_so(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it never came to that: {what}: {shown:#?}");
            self.ground.pause().await;
        }
    }

    /// Asks for something, until that is answered.
    pub(crate) async fn ask(&self, key: &str, verb: Verb) -> Result<(), String> {
        let (runs, mut is_first) = (self.runs(), true);
        loop {
            let answer = runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await;
            match answer {
                Err(RunError::Store(_)) => is_first = false,
                // It was done the first time.
                Ok(Err(_)) | Err(RunError::Ended { .. }) if !is_first => return Ok(()),
                answer => return answer.unwrap(),
            }
            self.ground.pause().await;
        }
    }

    /// Asks for something that is declined.
    pub(crate) async fn is_declined(&self, key: &str, verb: Verb) {
        let runs = self.runs();
        loop {
            match runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await {
                Err(RunError::Store(_)) => self.ground.pause().await,
                answer => return assert!(matches!(answer, Ok(Err(_))), "{answer:?}"),
            }
        }
    }

    /// What is stored of what steps did in the store.
    pub(crate) async fn effects(&self, of: &str) -> Vec<String> {
        let table = Table::<Value>::new("effects").unwrap();
        let rows = self.ground.ask(async || table.all(&self.ground.backend).await).await;
        let prefix = format!("{of}/");
        rows.into_iter().filter_map(|row| row.key.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    /// The rows of runs that have ended, in tables of what comes and goes.
    pub(crate) async fn left_over(&self) -> Vec<(String, Value)> {
        let mut left = Vec::new();
        for table in ["hot.txn.wakes.trip.v1", "txn.attention.trip"] {
            let table = Table::<Value>::new(table).unwrap();
            let rows = self.ground.ask(async || table.all(&self.ground.backend).await).await;
            left.extend(rows.into_iter().map(|row| (row.key, row.value)));
        }
        left
    }

    pub(crate) async fn end(mut self) {
        self.stop().await;
    }
}

impl<S: Subject> fmt::Debug for Trips<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outside.fmt(f)
    }
}

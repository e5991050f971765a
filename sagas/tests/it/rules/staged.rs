//! Steps that only stage what they do: T99 to T106, and T109.

use std::convert::Infallible;
use std::fmt::Display;
use std::marker::PhantomData;

use es_core::store::{AppendCondition, EventFilter, Position, RowStore as _, RowWrite, Table, Transaction};
use es_core::{Backend, BoxError, Event as _, EventStore as _, Payload as _, Views};
use sagas::message::{Publish, Topic};
use sagas::saga::{
    Cx, Handle, Needs, OrRetry as _, Outcome, Ran, Retry, RunShown, RunStatus, Saga, SagaSignal, Signal,
    Staged, Staging, Step, StepError, Undo, Verb, Why,
};
use serde::{Deserialize, Serialize};

use super::Subject;
use super::play::{Enter, Entered, LedgerEvent};
use super::programs::Counts;
use super::trip::{DEADLINE, Flight, Hotel, Order, Outside, Pay, Play, Trip, Trips, retry, trip};

pub(super) fn sums() -> Table<usize> {
    Table::new("sums").unwrap()
}

/// What each call stages: a row of its own, an entry in the ledger of its run, a message, and one more in a row of all steps. Told that
/// it is to act unheard, it stages what no store takes.
pub(super) async fn act<N: Needs<Trip>>(
    outside: &Outside,
    call: &str,
    cx: &Cx<'_, Trip, N>,
    at: &mut Staging,
) -> Result<(), StepError<String>> {
    let play = outside.play(cx.key, call, cx.input);
    if play == Play::Waits {
        outside.wait(cx.key, call).await;
    }
    let done = Table::new("effects").or_retry()?.insert(format!("{}/{call}", cx.key), "done".to_owned());
    at.write(done.or_retry()?).or_retry()?;
    let enter = Enter { what: call.to_owned(), refuse: false, asked: None };
    cx.sender.send(&cx.key.to_owned(), enter).within(at).await.or_retry()?;
    let (topic, message) = (Topic::new("trips", cx.key).or_retry()?, Publish::of(&call).or_retry()?);
    cx.sender.send(&topic, message).within(at).await.or_retry()?;
    let sum = at.row(&sums(), cx.key).await.or_retry()?;
    let sum =
        sum.map_or_else(|| sums().insert(cx.key, 1), |row| sums().put(&row.clone().with(row.value + 1)));
    at.write(sum.or_retry()?).or_retry()?;
    match play {
        Play::Acts | Play::Waits => Ok(()),
        Play::Refuses => Err(StepError::Refused(format!("{call} is sold out"))),
        Play::Fails => Err(StepError::Retry("it cannot be staged".into())),
        Play::Panics => panic!("{call} panics"),
        Play::ActsUnheard => {
            let nowhere = RowWrite { rev: 99, ..sums().insert("nowhere", 1).or_retry()? };
            at.write(nowhere).or_retry()
        }
    }
}

fn refusal<T, R>(
    done: Result<T, StepError<String>>,
    refuses: impl Fn(String) -> StepError<R>,
) -> Result<T, StepError<R>> {
    done.map_err(|error| match error {
        StepError::Refused(why) => refuses(why),
        StepError::Retry(error) => StepError::Retry(error),
    })
}

/// Whether it can say no.
trait Says: Display + Send + Sync + Sized + 'static {
    fn no(why: String) -> StepError<Self>;
}

impl Says for String {
    fn no(why: String) -> StepError<Self> {
        StepError::Refused(why)
    }
}

impl Says for Infallible {
    fn no(why: String) -> StepError<Self> {
        StepError::Retry(why.into())
    }
}

macro_rules! staged {
    ($($step:ident $name:literal $refusal:ty, ($($needs:ident),*);)+) => { $(
        pub(super) struct $step(pub(super) Outside);

        impl Step<Trip> for $step {
            const NAME: &'static str = $name;
            type Needs = ($($needs,)*);
            type Output = String;
            type Refusal = $refusal;
            type Place = Staged;
            async fn run(&self, cx: Cx<'_, Trip, Self::Needs>, at: &mut Staging) -> Result<String, StepError<$refusal>> {
                refusal(act(&self.0, $name, &cx, at).await, <$refusal>::no)?;
                Ok(format!("{} of {}", $name, cx.key))
            }
            fn retry(&self) -> Retry {
                retry()
            }
        }

        impl Undo<Trip> for $step {
            async fn undo(&self, cx: Cx<'_, Trip, Self::Needs>, ran: Ran<String>, at: &mut Staging) -> Result<(), BoxError> {
                // What is staged is known.
                assert_eq!(ran, Ran::Yes(format!("{} of {}", $name, cx.key)));
                act(&self.0, concat!("undo ", $name), &cx, at).await.map_err(|error| format!("{error:?}").into())
            }
        }
    )+ };
}
staged! {
    First "first" String, ();
    Next "next" String, (First);
    Decides "decides" String, (Next);
    Late "late" Infallible, (First);
}

/// first · next · decides · late: all of them staged.
pub(super) fn definition<T: Transaction>(outside: &Outside) -> Saga<Trip, T> {
    let own = || outside.clone();
    Saga::new("trip", 1).step(First(own())).step(Next(own())).pivot(Decides(own())).then(Late(own())).build()
}

async fn start<S: Subject>(subject: &S) -> Trips<'_, S> {
    let mut trips = Trips::open(subject).await;
    trips.join_with(definition::<<S::Backend as Backend>::Tx>, |app| app).await;
    trips
}

pub(super) const ALL: [&str; 4] = ["first", "next", "decides", "late"];

fn sorted(of: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = of.iter().map(|of| (*of).to_owned()).collect();
    all.sort();
    all
}

impl<S: Subject> Trips<'_, S> {
    /// What was entered by the steps of a run, in the order of the log.
    pub(super) async fn entered(&self, of: &str) -> Vec<String> {
        let (filter, stream) = (EventFilter::types(Entered::SOURCES.to_vec()), format!("ledger-{of}"));
        let page = self.ground.ask(|| self.ground.backend.read(&filter, Position(0), 1_000)).await;
        let of_run = page.events.iter().filter(|event| event.stream.as_str() == stream);
        let entries = of_run.flat_map(|event| LedgerEvent::decode(event).unwrap());
        entries.map(|LedgerEvent::Entered(entered)| entered.what).collect()
    }

    /// How many messages the steps of a run have published.
    async fn published(&self, of: &str) -> usize {
        let filter = EventFilter::all();
        let page = self.ground.ask(|| self.ground.backend.read(&filter, Position(0), 1_000)).await;
        page.events.iter().filter(|event| event.stream.as_str() == format!("message-trips/{of}")).count()
    }

    async fn sum(&self, of: &str) -> Option<usize> {
        let sum = self.ground.ask(async || sums().get(&self.ground.backend, of).await).await;
        sum.map(|row| row.value)
    }

    /// These have acted, in this order, and each once.
    pub(super) async fn have_acted(&self, of: &str, calls: &[&str]) {
        assert_eq!(self.effects(of).await, sorted(calls));
        assert_eq!(self.entered(of).await, calls);
        assert_eq!(self.published(of).await, calls.len());
        assert_eq!(self.sum(of).await, (!calls.is_empty()).then_some(calls.len()));
    }

    /// How often the head of a run was written: in each commit, once.
    async fn commits(&self, shown: &RunShown) -> u64 {
        let rows = async || {
            let all = self.ground.backend.scan("txn.heads.trip", None, 100).await?;
            Ok::<_, es_core::store::StoreError>(all)
        };
        let run = shown.run.simple().to_string();
        let heads = self.ground.ask(rows).await;
        heads.into_iter().find(|row| row.key.ends_with(&run)).unwrap().rev
    }
}

/// T99
pub(super) async fn what_staged_steps_leave_and_their_records_are_one_commit<S: Subject>(subject: &S) {
    let trips = start(subject).await;
    // Until the store has answered each call the first time: one that is called again is in a commit of its own.
    for n in 0.. {
        let key = format!("a{n}");
        assert_eq!(trips.run(&key, trip()).await, Outcome::Completed);
        trips.have_acted(&key, &ALL).await;
        let shown = trips.show(&key).await;
        assert!(shown.steps.iter().all(|step| step.state == "done"), "{:?}", shown.steps);
        if ALL.iter().all(|step| trips.outside.called(&key, step) == 1) {
            // That of the start, and one.
            assert!(trips.commits(&shown).await <= 2);
            break;
        }
    }
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// No step does such a thing: here it stands for somebody else, who writes to the same ledger.
async fn enters_as_rival(cx: &Cx<'_, Trip, ()>) {
    let enter = || Enter { what: "rival".to_owned(), refuse: false, asked: None };
    let (ledger, key) = (cx.key.to_owned(), format!("rival of {}", cx.key));
    while cx.sender.send(&ledger, enter()).idempotency_key(&key).await.is_err() {}
}

/// T100: the steps, one of which is overtaken the first time.
struct Overtaken(Outside);

impl Step<Trip> for Overtaken {
    const NAME: &'static str = "overtaken";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Staged;
    async fn run(&self, cx: Cx<'_, Trip, ()>, at: &mut Staging) -> Result<(), StepError<String>> {
        // Under one key: it is there from the first time on, and before what may fail.
        enters_as_rival(&cx).await;
        act(&self.0, "overtaken", &cx, at).await
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

impl Undo<Trip> for Overtaken {
    async fn undo(&self, cx: Cx<'_, Trip, ()>, _: Ran<()>, at: &mut Staging) -> Result<(), BoxError> {
        act(&self.0, "undo overtaken", &cx, at).await.map_err(|error| format!("{error:?}").into())
    }
}

pub(super) async fn a_refused_commit_runs_staged_steps_again_and_they_act_once<S: Subject>(subject: &S) {
    // In the commit that begins the run, and in a later one.
    let begins = |outside: &Outside| {
        let own = || outside.clone();
        Saga::<Trip, <S::Backend as Backend>::Tx>::new("trip", 1)
            .step(First(own()))
            .step(Overtaken(own()))
            .step(Next(own()))
            .build()
    };
    let follows = |outside: &Outside| {
        let own = || outside.clone();
        Saga::<Trip, <S::Backend as Backend>::Tx>::new("trip", 2)
            .step(Order(own(), PhantomData))
            .step(First(own()))
            .step(Overtaken(own()))
            .step(Next(own()))
            .build()
    };
    let mut trips = Trips::open(subject).await;
    trips.join_with(begins, |app| app).await;
    is_overtaken(&trips, "a", &["first", "next", "overtaken"]).await;
    trips.stop().await;
    trips.join_with(follows, |app| app).await;
    is_overtaken(&trips, "b", &["first", "next", "order", "overtaken"]).await;
    trips.end().await;
}

async fn is_overtaken<S: Subject>(trips: &Trips<'_, S>, of: &str, effects: &[&str]) {
    assert_eq!(trips.run(of, trip()).await, Outcome::Completed);
    assert_eq!(trips.entered(of).await, ["rival", "first", "overtaken", "next"]);
    assert_eq!(trips.effects(of).await, effects);
    assert_eq!(trips.sum(of).await, Some(3));
    // The first one too: it had not been written.
    assert!(trips.outside.called(of, "first") > 1 && trips.outside.called(of, "overtaken") > 1);
    assert!(trips.show(of).await.steps.iter().all(|step| step.state == "done"));
}

/// T101
pub(super) async fn what_staged_steps_have_not_committed_goes_with_their_node<S: Subject>(subject: &S) {
    let mut trips = start(subject).await;
    let handle = trips.begin("a", &trip().with("decides", &[Play::Waits; 20])).await;
    while !trips.outside.is_waiting("a", "decides") {
        trips.ground.pause().await;
    }
    trips.have_acted("a", &[]).await;
    let called = trips.outside.called("a", "first");
    trips.crash(0);
    trips.join_with(definition::<<S::Backend as Backend>::Tx>, |app| app).await;
    while trips.outside.called("a", "first") == called {
        trips.ground.pause().await;
    }
    trips.have_acted("a", &[]).await;
    trips.outside.let_go();
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.have_acted("a", &ALL).await;
    trips.end().await;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Approved {}

impl SagaSignal for Approved {
    type Saga = Trip;
    const NAME: &'static str = "approved";
}

/// T102
pub(super) async fn a_cancel_between_staged_steps_undoes_those_that_are_written<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let saga = |outside: &Outside| {
        let own = || outside.clone();
        Saga::<Trip, <S::Backend as Backend>::Tx>::new("trip", 1)
            .deadline(DEADLINE)
            .step(First(own()))
            .step(Next(own()))
            .step(Signal::<Approved>::new())
            .pivot(Decides(own()))
            .build()
    };
    trips.join_with(saga, |app| app).await;
    let handle = trips.begin("a", &trip()).await;
    let has_run = |shown: &RunShown| shown.steps[1].state == "done";
    let shown = trips.until("a", "it waits for a signal", has_run).await;
    assert!(shown.waits_for.contains("approved"), "{}", shown.waits_for);
    assert_eq!(trips.ask("a", Verb::Cancel).await, Ok(()));
    let outcome = trips.end_of(&handle).await;
    assert!(matches!(outcome, Outcome::Undone(Why::Cancelled { .. })), "{outcome}");
    trips.have_acted("a", &["first", "next", "undo next", "undo first"]).await;
    assert_eq!(trips.outside.called("a", "decides"), 0);
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T103
pub(super) async fn staged_steps_are_undone_from_the_last_to_the_first<S: Subject>(subject: &S) {
    let trips = start(subject).await;
    let outcome = trips.run("a", trip().with("decides", &[Play::Refuses; 20])).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Refused { step, .. }) if step == "decides"), "{outcome}");
    trips.have_acted("a", &["first", "next", "undo next", "undo first"]).await;
    // One that fails as often as it is tried.
    let outcome = trips.run("b", trip().with("next", &[Play::Fails])).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "next"), "{outcome}");
    trips.have_acted("b", &["first", "undo first"]).await;
    // An undo that fails is called again.
    let input = trip().with("decides", &[Play::Refuses; 20]).with("undo next", &[Play::Panics]);
    trips.run("c", input).await;
    trips.have_acted("c", &["first", "next", "undo next", "undo first"]).await;
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T104: first · order in a transaction · next with flight and hotel, elsewhere · pay elsewhere · late
pub(super) async fn staged_steps_among_others_keep_their_order<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    let saga = |outside: &Outside| {
        let own = || outside.clone();
        Saga::<Trip, <S::Backend as Backend>::Tx>::new("trip", 1)
            .step(First(own()))
            .step(Order(own(), PhantomData))
            .all((Next(own()), Flight(own()), Hotel(own())))
            .pivot(Pay(own()))
            .then(Late(own()))
            .build()
    };
    trips.join_with(saga, |app| app).await;
    let lost = [Play::ActsUnheard, Play::Fails, Play::Acts];
    assert_eq!(trips.run("a", trip().with("flight", &lost)).await, Outcome::Completed);
    assert_eq!(trips.entered("a").await, ["first", "next", "late"]);
    assert_eq!(trips.effects("a").await, sorted(&["first", "order", "next", "late"]));
    assert_eq!(trips.outside.acted("a").last().map(String::as_str), Some("pay"));
    for refuses in ["order", "next", "flight", "hotel", "pay"] {
        let outcome = trips.run(refuses, trip().with(refuses, &[Play::Refuses; 20])).await;
        assert!(
            matches!(&outcome, Outcome::Undone(Why::Refused { step, .. }) if step == refuses),
            "{outcome}"
        );
        let (effects, entered) = (trips.effects(refuses).await, trips.entered(refuses).await);
        for step in ["first", "order", "next"] {
            let has = |what: &str| effects.iter().any(|of| of == what);
            assert_eq!(has(step), has(&format!("undo {step}")), "{refuses}: {effects:?}");
        }
        assert_eq!(entered.last().map(String::as_str), Some("undo first"), "{refuses}: {entered:?}");
        for step in ["flight", "hotel"] {
            let acted = trips.outside.acted(refuses);
            let n = |what: &str| acted.iter().filter(|of| *of == what).count();
            assert_eq!(n(step), n(&format!("undo {step}")), "{refuses}: {acted:?}");
        }
    }
    assert_eq!(trips.left_over().await, []);
    trips.end().await;
}

/// T105
pub(super) async fn a_staged_step_that_no_store_takes_waits_alone_for_a_person<S: Subject>(subject: &S) {
    let trips = start(subject).await;
    // Each time that counts it was refused nine times.
    let poison = [Play::ActsUnheard; 200];
    let handle = trips.begin("a", &trip().with("late", &poison)).await;
    let shown = trips.until("a", "parked", |shown| shown.status == RunStatus::Parked).await;
    // Those that it shared a commit with are not blamed.
    let states: Vec<&str> = shown.steps.iter().map(|step| &*step.state).collect();
    assert_eq!(states[..3], ["done"; 3], "{states:?}");
    assert!(shown.waits_for.contains("late"), "{}", shown.waits_for);
    trips.have_acted("a", &ALL[..3]).await;
    assert_eq!(trips.run("b", trip()).await, Outcome::Completed);
    // One before the pivot is undone, and with it what came before.
    let outcome = trips.run("c", trip().with("next", &poison)).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "next"), "{outcome}");
    trips.have_acted("c", &["first", "undo first"]).await;
    trips.outside.mend();
    assert_eq!(trips.ask("a", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    trips.have_acted("a", &ALL).await;
    trips.end().await;
}

/// T106
pub(super) async fn what_staged_steps_append_is_in_inline_views_at_once<S: Subject>(subject: &S) {
    let mut trips = Trips::open(subject).await;
    trips
        .join_with(definition::<<S::Backend as Backend>::Tx>, |app| app.inline_view::<Counts<false>>())
        .await;
    assert_eq!(trips.run("a", trip()).await, Outcome::Completed);
    trips.run("b", trip().with("decides", &[Play::Refuses; 20])).await;
    trips.have_acted("b", &["first", "next", "undo next", "undo first"]).await;
    let views: &Views = trips.nodes[0].services().get().unwrap();
    let counted = trips.ground.ask(async || views.get::<Counts<false>>(&"all".to_owned()).await).await;
    assert_eq!(counted, Some(Counts(8)));
    trips.end().await;
}

/// T109: takes a seat of a hall that all runs share, by what it has read before it waits.
struct Seat(Outside);

impl Step<Trip> for Seat {
    const NAME: &'static str = "seat";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Staged;
    async fn run(&self, cx: Cx<'_, Trip, ()>, at: &mut Staging) -> Result<(), StepError<Infallible>> {
        let hall = at.row(&sums(), "hall").await.or_retry()?;
        if self.0.play(cx.key, "seat", cx.input) == Play::Waits {
            self.0.wait(cx.key, "seat").await;
        }
        let hall = match hall {
            Some(row) => sums().put(&row.clone().with(row.value + 1)),
            None => sums().insert("hall", 1),
        };
        at.write(hall.or_retry()?).or_retry()
    }
    fn retry(&self) -> Retry {
        retry().tries(1)
    }
}

/// T109: nobody else has entered anything since it looked, it says; the first time somebody has.
struct Alone(Outside);

impl Step<Trip> for Alone {
    const NAME: &'static str = "alone";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Staged;
    async fn run(&self, cx: Cx<'_, Trip, ()>, at: &mut Staging) -> Result<(), StepError<Infallible>> {
        self.0.play(cx.key, "alone", cx.input);
        let store = cx.sender.store().ok_or_else(|| StepError::Retry("it has no store".into()))?;
        let after = store.read(&EventFilter::all(), Position(0), 1_000).await.or_retry()?.through;
        let fail_if_events_match = EventFilter::types(Entered::SOURCES.to_vec());
        at.staged().condition = Some(AppendCondition { fail_if_events_match, after });
        if self.0.called(cx.key, "alone") == 1 {
            enters_as_rival(&cx).await;
        }
        Ok(())
    }
    fn retry(&self) -> Retry {
        retry().tries(1)
    }
}

/// T109
pub(super) async fn staged_steps_that_others_are_faster_than_have_not_failed<S: Subject>(subject: &S) {
    let seats = |outside: &Outside| {
        let own = || outside.clone();
        Saga::<Trip, <S::Backend as Backend>::Tx>::new("trip", 1)
            .step(Order(own(), PhantomData))
            .pivot(Seat(own()))
            .build()
    };
    let alone = |outside: &Outside| {
        let own = || outside.clone();
        Saga::<Trip, <S::Backend as Backend>::Tx>::new("trip", 2)
            .step(Order(own(), PhantomData))
            .pivot(Alone(own()))
            .build()
    };
    let mut trips = Trips::open(subject).await;
    trips.join_with(seats, |app| app).await;
    let keys: Vec<String> = (0..10).map(|n| format!("a{n}")).collect();
    let mut handles = Vec::new();
    for key in &keys {
        handles.push(trips.begin(key, &trip().with("seat", &[Play::Waits])).await);
    }
    while !keys.iter().all(|key| trips.outside.is_waiting(key, "seat")) {
        trips.ground.pause().await;
    }
    // All of them have read the same.
    trips.outside.release();
    for handle in &handles {
        have_not_failed(&trips, handle).await;
    }
    assert_eq!(trips.sum("hall").await, Some(keys.len()));
    trips.stop().await;
    trips.join_with(alone, |app| app).await;
    let handle = trips.begin("b", &trip()).await;
    have_not_failed(&trips, &handle).await;
    assert!(trips.outside.called("b", "alone") > 1);
    trips.end().await;
}

async fn have_not_failed<S: Subject>(trips: &Trips<'_, S>, handle: &Handle) {
    assert_eq!(trips.end_of(handle).await, Outcome::Completed);
    let shown = trips.show(handle.key()).await;
    assert!(shown.journal.iter().all(|(_, what)| !what.contains("failed")), "{:?}", shown.journal);
}

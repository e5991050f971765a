//! Steps in a second database: D7 to D11, D19, D22, Z4.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::clock::Clock as _;
use es_core::guard::{GuardKey, GuardRow, GuardRows as _, GuardedDatabase as _, Standing};
use es_core::store::{Table, Transaction};
use es_core::{App, AppBuilder, Backend, BoxError, guard};
use sagas::overview::Transactions as _;
use sagas::reconcile::{self, Class};
use sagas::saga::{
    Cx, Guarded, Handle, Journal, OrRetry as _, Outcome, Ran, Retry, RunShown, RunStatus, Saga, SagaApp as _,
    SagaInput, Sagas as _, Staged, Staging, Step, StepError, Undo, Verb, Why,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use super::ground::{Ground, PATIENCE};
use super::shaky::{Fault, Ledger, Shaky, ShakyTx, WithOther};

#[derive(Serialize, Deserialize)]
struct Errand {
    cents: u32,
}
impl SagaInput for Errand {}

/// What the pivot refuses.
const DEAR: u32 = 1_000;

/// What the next call of the step comes to; none: it acts.
#[derive(Clone, Copy, Debug)]
enum Play {
    Acts,
    Fails,
    Refuses,
    /// It says that it waits, and goes on when it is let go.
    Waits,
}

#[derive(Clone)]
struct Script(Arc<Inner>);

struct Inner {
    plays: Mutex<VecDeque<Play>>,
    waiting: Semaphore,
    let_go: Semaphore,
}

impl Script {
    fn new() -> Self {
        let (waiting, let_go) = (Semaphore::new(0), Semaphore::new(0));
        Self(Arc::new(Inner { plays: Mutex::default(), waiting, let_go }))
    }

    async fn play(&self) -> Result<(), StepError<String>> {
        let play = self.0.plays.lock().unwrap().pop_front();
        match play {
            None | Some(Play::Acts) => Ok(()),
            Some(Play::Fails) => Err(StepError::Retry("a statement failed".into())),
            Some(Play::Refuses) => Err(StepError::Refused("sold out".to_owned())),
            Some(Play::Waits) => {
                self.0.waiting.add_permits(1);
                self.0.let_go.acquire().await.unwrap().forget();
                Ok(())
            }
        }
    }
}

fn retry() -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(3).late(3, Duration::from_secs(3_600))
}

/// In the other database.
struct Reserve<D>(Script, PhantomData<fn() -> D>);

impl<D: Ledger> Step<Errand> for Reserve<D> {
    const NAME: &'static str = "reserve";
    type Needs = ();
    type Output = u32;
    type Refusal = String;
    type Place = Guarded<Shaky<D>>;
    async fn run(&self, cx: Cx<'_, Errand, ()>, tx: &mut ShakyTx<D::Tx>) -> Result<u32, StepError<String>> {
        // Before it fails: nothing of it may stay.
        D::write(&mut tx.tx, &format!("{} reserved", cx.key)).await.map_err(StepError::Retry)?;
        self.0.play().await?;
        Ok(cx.input.cents)
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

impl<D: Ledger> Undo<Errand> for Reserve<D> {
    async fn undo(
        &self,
        cx: Cx<'_, Errand, ()>,
        ran: Ran<u32>,
        tx: &mut ShakyTx<D::Tx>,
    ) -> Result<(), BoxError> {
        // What the row says is certain.
        assert_eq!(ran, Ran::Yes(cx.input.cents));
        D::write(&mut tx.tx, &format!("{} returned", cx.key)).await
    }
}

/// The pivot, in the database of the journal.
struct Pay<D, T>(PhantomData<fn() -> (D, T)>);

impl<D: Ledger, T: Transaction> Step<Errand> for Pay<D, T> {
    const NAME: &'static str = "pay";
    type Needs = (Reserve<D>,);
    type Output = ();
    type Refusal = String;
    type Place = Journal<T>;
    async fn run(&self, cx: Cx<'_, Errand, Self::Needs>, _: &mut T) -> Result<(), StepError<String>> {
        assert_eq!(cx.needs, (cx.input.cents,));
        if cx.input.cents < DEAR { Ok(()) } else { Err(StepError::Refused("too dear".to_owned())) }
    }
}

/// What has to succeed, in the other database.
struct Ship<D>(Script, PhantomData<fn() -> D>);

impl<D: Ledger> Step<Errand> for Ship<D> {
    const NAME: &'static str = "ship";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Guarded<Shaky<D>>;
    async fn run(
        &self,
        cx: Cx<'_, Errand, ()>,
        tx: &mut ShakyTx<D::Tx>,
    ) -> Result<(), StepError<Infallible>> {
        D::write(&mut tx.tx, &format!("{} shipped", cx.key)).await.map_err(StepError::Retry)?;
        self.0.play().await.map_err(|_| StepError::Retry("it is not shipped".into()))
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

fn definition<D: Ledger, T: Transaction>(script: &Script) -> Saga<Errand, T> {
    Saga::new("errand", 1)
        .step(Reserve::<D>(script.clone(), PhantomData))
        .pivot(Pay::<D, T>(PhantomData))
        .then(Ship::<D>(script.clone(), PhantomData))
        .build()
}

struct Errands<'s, S: WithOther> {
    ground: Ground<'s, S>,
    other: Shaky<S::Other>,
    script: Script,
    nodes: Vec<App>,
}

impl<S: WithOther> fmt::Debug for Errands<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Errands")
    }
}

impl<'s, S: WithOther> Errands<'s, S> {
    async fn start(subject: &'s S) -> Self {
        let mut errands = Self::open(subject).await;
        errands.join().await;
        errands
    }

    /// Without a node.
    async fn open(subject: &'s S) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        let other = subject.other().await;
        other.make().await;
        Self { ground, other: Shaky::new(other), script: Script::new(), nodes: Vec::new() }
    }

    async fn join(&mut self) {
        self.join_as(definition::<S::Other, <S::Backend as Backend>::Tx>).await;
    }

    async fn join_as(&mut self, saga: impl Fn(&Script) -> Saga<Errand, <S::Backend as Backend>::Tx>) {
        let wire = |app: AppBuilder<S::Backend>| app.provide(self.other.clone()).saga(saga(&self.script));
        self.nodes.push(self.ground.join(wire).await);
    }

    fn plays(&self, plays: &[Play]) {
        self.script.0.plays.lock().unwrap().extend(plays);
    }

    async fn begin(&self, key: &str, cents: u32) -> Handle {
        let errand = Errand { cents };
        self.ground.ask(async || self.nodes[0].start_saga(key, &errand).await).await
    }

    async fn run(&self, key: &str, cents: u32) -> Outcome {
        let handle = self.begin(key, cents).await;
        self.end_of(&handle).await
    }

    async fn end_of(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it does not end: {:#?}", self.show(handle.key()).await);
            self.ground.pause().await;
        }
    }

    async fn show(&self, key: &str) -> RunShown {
        let runs = self.nodes[0].saga_runs::<Errand>().unwrap();
        self.ground.ask(async || runs.show(key).await).await
    }

    async fn until_parked(&self, key: &str) -> RunShown {
        let begun = Instant::now();
        loop {
            let shown = self.show(key).await;
            if shown.status == RunStatus::Parked {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it is not parked: {shown:#?}");
            self.ground.pause().await;
        }
    }

    async fn end(self) {
        for app in self.nodes {
            assert!(app.shutdown(PATIENCE).await);
        }
    }
}

fn refused(outcome: &Outcome) -> Option<(&str, &str)> {
    match outcome {
        Outcome::Undone(Why::Refused { step, why }) => Some((step, why)),
        _ => None,
    }
}

/// D8
pub(super) async fn a_step_in_another_database_acts_once_whatever_becomes_of_its_answers<S: WithOther>(
    subject: &S,
) {
    let errands = Errands::start(subject).await;
    errands.other.will(&[Fault::Lost, Fault::Unheard, Fault::Unheard]);
    assert_eq!(errands.run("a", 5).await, Outcome::Completed);
    assert_eq!(errands.other.written().await, ["a reserved", "a shipped"]);
    errands.end().await;
}

/// D9
pub(super) async fn a_step_in_another_database_is_undone_if_it_has_run_and_else_barred<S: WithOther>(
    subject: &S,
) {
    let errands = Errands::start(subject).await;
    // It has run, and answered.
    assert_eq!(refused(&errands.run("a", DEAR).await), Some(("pay", "too dear")));
    // Its undo is in doubt twice.
    errands.other.will(&[Fault::Unheard, Fault::Lost, Fault::Unheard]);
    assert_eq!(refused(&errands.run("b", DEAR).await), Some(("pay", "too dear")));
    assert_eq!(errands.other.written().await, ["a reserved", "a returned", "b reserved", "b returned"]);
    // It never runs to its end: there is nothing to undo, and its undo is not called.
    errands.plays(&[Play::Fails; 3]);
    let outcome = errands.run("c", 5).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "reserve"), "{outcome}");
    assert_eq!(errands.other.written().await.len(), 4);
    // It fails, and then runs, and nobody hears of that: it has run.
    errands.plays(&[Play::Fails, Play::Fails]);
    errands.other.will(&[Fault::Unheard]);
    let outcome = errands.run("d", 5).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "reserve"), "{outcome}");
    assert_eq!(errands.other.written().await[4..], ["d reserved", "d returned"]);
    errands.end().await;
}

/// D10
pub(super) async fn a_refusal_of_another_database_is_final<S: WithOther>(subject: &S) {
    let errands = Errands::start(subject).await;
    // After a failure, and with its own commit in doubt: it has refused, and there is nothing to undo.
    errands.plays(&[Play::Fails, Play::Refuses]);
    errands.other.will(&[Fault::Unheard]);
    assert_eq!(refused(&errands.run("a", 5).await), Some(("reserve", "sold out")));
    assert_eq!(errands.other.written().await, [""; 0]);
    let shown = errands.show("a").await;
    assert_eq!(shown.steps[0].state, "refused", "{:?}", shown.journal);
    errands.end().await;
}

/// D8
pub(super) async fn a_step_that_another_node_has_begun_acts_once<S: WithOther>(subject: &S) {
    let mut errands = Errands::start(subject).await;
    errands.plays(&[Play::Waits]);
    let handle = errands.begin("a", DEAR).await;
    errands.script.0.waiting.acquire().await.unwrap().forget();
    drop(errands.nodes.remove(0));
    errands.join().await;
    errands.script.0.let_go.add_permits(1);
    assert_eq!(refused(&errands.end_of(&handle).await), Some(("pay", "too dear")));
    assert_eq!(errands.other.written().await, ["a reserved", "a returned"]);
    errands.end().await;
}

/// D11
pub(super) async fn a_run_that_another_database_has_forgotten_waits_for_a_person<S: WithOther>(subject: &S) {
    let errands = Errands::start(subject).await;
    let later = errands.ground.clock.now() + Duration::from_secs(3_600);
    guard::forget(&errands.other, later).await.unwrap();
    let handle = errands.begin("a", 5).await;
    let shown = errands.until_parked("a").await;
    assert!(shown.waits_for.contains("find out whether it has run"), "{}", shown.waits_for);
    assert_eq!(errands.other.written().await, [""; 0]);
    let runs = errands.nodes[0].saga_runs::<Errand>().unwrap();
    let skip = Verb::Skip { step: "reserve".to_owned() };
    runs.ask("a", skip, "ada", "by hand", PATIENCE).await.unwrap().unwrap();
    let outcome = errands.end_of(&handle).await;
    assert!(matches!(outcome, Outcome::Undone(_)), "{outcome}");
    errands.end().await;
}

/// D7
pub(super) async fn an_app_without_the_other_database_does_not_start<S: WithOther>(subject: &S) {
    let ground = Ground::open(subject).await;
    let (other, script) = (Shaky::new(subject.other().await), Script::new());
    let wire = || {
        let definition = definition::<S::Other, <S::Backend as Backend>::Tx>(&script);
        App::on(ground.backend.clone()).clock(ground.clock.clone()).saga(definition)
    };
    let error = wire().start().await.unwrap_err().to_string();
    assert!(
        error.contains("step \"reserve\" of saga errand: no `") && error.contains(".provide("),
        "{error}"
    );
    let error = wire().provide(other.clone()).start().await.unwrap_err().to_string();
    assert!(error.contains("step \"reserve\" of saga errand: ") && error.contains("::install"), "{error}");
    other.inner.make().await;
    assert!(wire().provide(other).start().await.unwrap().shutdown(PATIENCE).await);
}

/// D19
pub(super) async fn guard_rows_are_forgotten_up_to_what_no_run_needs<S: WithOther>(subject: &S) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let errands = Errands::start(subject).await;
    errands.plays(&[Play::Acts, Play::Fails, Play::Fails, Play::Fails]);
    let old = errands.begin("old", 5).await;
    errands.until_parked("old").await;
    errands.ground.clock.advance(DAY * 40);
    assert_eq!(errands.run("new", 5).await, Outcome::Completed);
    let runs = errands.nodes[0].saga_runs::<Errand>().unwrap();
    let until = async || errands.ground.ask(async || runs.guards_needed_since(DAY * 32).await).await;
    let floor = until().await;
    assert!(floor < errands.ground.clock.now() - DAY * 39, "{floor}");
    assert_eq!(guard::forget(&errands.other, floor).await.unwrap(), 0);
    // It goes on, and its calls are not refused.
    let retry = Verb::Retry { step: None };
    runs.ask("old", retry, "ada", "it is back", PATIENCE).await.unwrap().unwrap();
    assert_eq!(errands.end_of(&old).await, Outcome::Completed);
    let floor = until().await;
    assert!(floor > errands.ground.clock.now() - DAY * 33, "{floor}");
    assert_eq!(guard::forget(&errands.other, floor).await.unwrap(), 2);
    assert_eq!(errands.run("newer", 5).await, Outcome::Completed);
    let brief = runs.guards_needed_since(DAY / 2).await.unwrap_err().to_string();
    assert_eq!(brief, "the store failed");
    errands.end().await;
}

/// Staged, before the one in the other database and behind it.
struct Note<const N: usize>;

impl<const N: usize> Step<Errand> for Note<N> {
    const NAME: &'static str = ["noted", "noted-again"][N];
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Staged;
    async fn run(&self, cx: Cx<'_, Errand, ()>, at: &mut Staging) -> Result<(), StepError<Infallible>> {
        let row = notes().insert(format!("{} {}", cx.key, Self::NAME), ()).or_retry()?;
        at.write(row).or_retry()
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

impl<const N: usize> Undo<Errand> for Note<N> {
    async fn undo(&self, cx: Cx<'_, Errand, ()>, _: Ran<()>, at: &mut Staging) -> Result<(), BoxError> {
        Ok(at.write(notes().insert(format!("{} {} undone", cx.key, Self::NAME), ())?)?)
    }
}

fn notes() -> Table<()> {
    Table::new("notes").unwrap()
}

/// D22
pub(super) async fn a_step_in_another_database_among_staged_ones_acts_once_and_is_undone_with_them<
    S: WithOther,
>(
    subject: &S,
) {
    let mut errands = Errands::open(subject).await;
    let among_staged = |script: &Script| {
        Saga::new("errand", 1)
            .step(Note::<0>)
            .step(Reserve::<S::Other>(script.clone(), PhantomData))
            .step(Note::<1>)
            .pivot(Pay::<S::Other, <S::Backend as Backend>::Tx>(PhantomData))
            .then(Ship::<S::Other>(script.clone(), PhantomData))
            .build()
    };
    errands.join_as(among_staged).await;
    errands.other.will(&[Fault::Lost, Fault::Unheard, Fault::Unheard]);
    assert_eq!(errands.run("a", 5).await, Outcome::Completed);
    assert_eq!(refused(&errands.run("b", DEAR).await), Some(("pay", "too dear")));
    assert_eq!(errands.other.written().await, ["a reserved", "a shipped", "b reserved", "b returned"]);
    let noted = errands.ground.ask(async || notes().all(&errands.ground.backend).await).await;
    let noted: Vec<&str> = noted.iter().map(|row| &*row.key).collect();
    let of_b = ["b noted", "b noted undone", "b noted-again", "b noted-again undone"];
    assert_eq!(noted, [&["a noted", "a noted-again"][..], &of_b].concat());
    errands.end().await;
}

/// Z4
pub(super) async fn guard_rows_and_journals_are_compared_both_ways<S: WithOther>(subject: &S) {
    let errands = Errands::start(subject).await;
    assert_eq!(errands.run("done", 5).await, Outcome::Completed);
    assert!(refused(&errands.run("dear", DEAR).await).is_some());
    let compares = || {
        let all = errands.nodes[0].transactions();
        let other = Arc::new(errands.other.clone());
        let guards = reconcile::guards(&all, errands.ground.backend.clone(), "stock", other).unwrap();
        guards.looks_again_after(Duration::ZERO)
    };
    let report = compares().run().await.unwrap();
    assert!(report.is_clean() && report.keys == 3, "{report}");
    // One that goes on is none, whatever the database says.
    errands.plays(&[Play::Acts, Play::Fails, Play::Fails, Play::Fails]);
    errands.begin("stuck", 5).await;
    let stuck = errands.until_parked("stuck").await.run;

    // Rows that nobody here has written: of a step that was refused, of a run that was lost, of another kind of calls.
    let plant = async |run: Uuid, call: &str| {
        let mut tx = errands.other.begin().await.unwrap();
        let row = GuardRow { fingerprint: 7, standing: Standing::Done("1".to_owned()) };
        assert!(tx.insert(&GuardKey::new(run, call).unwrap(), &row).await.unwrap());
        tx.commit().await.unwrap();
    };
    plant(stuck, "errand/ship").await;
    let report = compares().run().await.unwrap();
    assert!(report.is_clean() && report.pending == 2, "{report}");
    let dear = errands.show("dear").await.run;
    plant(dear, "errand/ship").await;
    let lost = errands.nodes[0].new_id();
    plant(lost, "errand/reserve").await;
    plant(lost, "somebody/reserve").await;
    let report = compares().run().await.unwrap();
    let of = |class| {
        report.first.iter().filter(|of| of.class == class).map(|of| of.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(Class::Mismatch), [format!("errand/ship {dear}")], "{report}");
    assert_eq!(of(Class::MissingLeft), [format!("errand/reserve {lost}")]);
    assert_eq!(report.differences(), 2);
    errands.end().await;
}

/// Z4
pub(super) async fn a_guard_row_that_a_database_has_lost_is_missed<S: WithOther>(subject: &S) {
    let errands = Errands::start(subject).await;
    assert_eq!(errands.run("done", 5).await, Outcome::Completed);
    let run = errands.show("done").await.run;
    errands.other.inner.loses("errand/reserve").await;
    let all = errands.nodes[0].transactions();
    let other = Arc::new(errands.other.clone());
    let guards = reconcile::guards(&all, errands.ground.backend.clone(), "stock", other).unwrap();
    let report = guards.looks_again_after(Duration::ZERO).run().await.unwrap();
    let [missing] = &report.first[..] else { panic!("{report}") };
    assert_eq!((missing.class, &*missing.key), (Class::MissingRight, &*format!("errand/reserve {run}")));
    assert_eq!((missing.left.as_deref(), missing.right.as_deref()), (Some("\"done\""), None));
    errands.end().await;
}

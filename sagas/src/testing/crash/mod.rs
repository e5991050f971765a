//! A saga that crashes wherever it can: see [`crash_matrix`].
//!
//! | file | what is in it |
//! | --- | --- |
//! | `point.rs` | where a run can fail, and how |
//! | `probe.rs` | what stands between an engine and its surroundings |
//! | `case.rs` | one run, in which one thing goes wrong |
//! | `judge.rs` | what has to be true then |
//! | `provided.rs` | what the steps need of the app |
//! | `tried.rs` | what can be tried: a saga, a TCC |
//! | `clock.rs` | time as the runtime has it |

mod case;
mod clock;
mod judge;
mod point;
mod probe;
mod provided;
mod tried;

use std::fmt;
use std::sync::Arc;

use es_core::guarded::caught;
use es_core::memory::MemoryBackend;
use es_core::{App, Backend, BoxError, chain};
use futures::{StreamExt as _, stream};

use self::case::{Makes, Play};
pub use self::clock::VirtualClock;
use self::point::{Case, Point};
pub(crate) use self::point::{Fault, PointKind};
pub(crate) use self::probe::Probe;
pub use self::provided::Provided;
pub use self::tried::Tried;
pub(crate) use self::tried::confirming;
use crate::saga::{Outcome, RunError, RunShown, Runs, SagaInput};

/// The environment variable that names the one case to be run.
const ONLY: &str = "CRASH_MATRIX";

/// Runs a saga, a pair of one and of the saga that is a [step](crate::saga::SubSaga) of it, or a [TCC](crate::tcc), once for each place where it can fail and each thing that can go wrong there, each time on a new store.
///
/// The places are the calls of steps and undos (of a TCC: `reserve`, `confirm` and `cancel`), and the commits of the engine. What goes wrong:
///
/// | | |
/// | --- | --- |
/// | `error` | it is not done, and an error comes back; `errors`: as often as it is tried before the saga is undone |
/// | `answer lost` | it is done, and the answer is lost; `answers lost`: as often |
/// | `kill` | it is done, and the node is gone before it hears of it; `kill midway`: where the call first waits for something |
/// | `stall` | the node stands still for longer than its lease; another one takes over, and then it goes on |
/// | `duplicate` | the call arrives twice; the client asks twice for the run |
///
/// A node that is gone or stands still is followed by another one, for which the definition is built anew. When nothing goes
/// on any more, it is looked whether all of it has run or all of it is undone, whether each step in the journal's database
/// was done once, whether there was one decision, whether steps and undos came in their order, and whether the run has
/// ended, or waits for a person, and its rows say so. Then the test's own check is asked: what the steps have done elsewhere
/// only the test knows.
///
/// The run is started once the first node works on all runs, so it begins with its first steps, if those are
/// [`Staged`](crate::saga::Staged).
///
/// Nothing is sent to a run: one that waits for a [`Signal`](crate::saga::Signal) is undone at its deadline, or waits for ever.
///
/// What steps call (a fake of a payment service, say) lives longer than a node: it is made outside of the definition. Each
/// run has a key of its own, [`World::key`].
///
/// Run it with paused time (`#[tokio::test(start_paused = true)]`): then leases and retries cost nothing. With a step that
/// refuses, the undos are tried as well: have a matrix for each way that the saga can go.
///
/// ```
/// # use std::convert::Infallible;
/// # use sagas::es_core::BoxError;
/// # use sagas::es_core::memory::{MemoryBackend, Tx};
/// # use sagas::saga::{Cx, Journal, Outcome, Ran, Saga, SagaInput, Step, StepError, Undo};
/// use sagas::testing::{World, crash_matrix};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Order {}
/// # impl SagaInput for Order {}
/// # struct Reserve;
/// # impl Step<Order> for Reserve {
/// #     const NAME: &'static str = "reserve";
/// #     type Needs = ();
/// #     type Output = ();
/// #     type Refusal = Infallible;
/// #     type Place = Journal<Tx>;
/// #     async fn run(&self, cx: Cx<'_, Order, ()>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
/// #         tx.put("reserved", cx.key, "tea");
/// #         Ok(())
/// #     }
/// # }
/// # impl Undo<Order> for Reserve {
/// #     async fn undo(&self, cx: Cx<'_, Order, ()>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
/// #         tx.delete("reserved", cx.key);
/// #         Ok(())
/// #     }
/// # }
/// # fn place_order() -> Saga<Order, Tx> {
/// #     Saga::new("place-order", 1).step(Reserve).build()
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # tokio::time::pause();
/// crash_matrix(place_order, Order {})
///     .check(async |world: &World<MemoryBackend>| {
///         let is_reserved = world.backend().row("reserved", world.key()).is_some();
///         assert_eq!(is_reserved, world.outcome() == Some(&Outcome::Completed));
///     })
///     .await;
/// # }
/// ```
pub fn crash_matrix<X, D>(definition: D, input: X::Input) -> CrashMatrix<D, X::Input, InMemory>
where
    X: Tried,
    D: Fn() -> X,
{
    CrashMatrix {
        definition,
        input: Arc::new(input),
        open: InMemory(()),
        provided: (),
        only: None,
        at_once: 1,
    }
}

/// How a new store is opened for each run.
pub trait Opens {
    /// What it is.
    type Backend: Backend + Clone;

    /// A new, empty store with this clock.
    fn open(&self, clock: VirtualClock) -> impl Future<Output = Self::Backend>;
}

/// In memory.
#[derive(Debug)]
pub struct InMemory(());

impl Opens for InMemory {
    type Backend = MemoryBackend;

    async fn open(&self, clock: VirtualClock) -> MemoryBackend {
        MemoryBackend::with_clock(clock)
    }
}

impl<O, F> Opens for O
where
    O: Fn(VirtualClock) -> F,
    F: Future<Output: Backend + Clone>,
{
    type Backend = F::Output;

    fn open(&self, clock: VirtualClock) -> impl Future<Output = F::Output> {
        self(clock)
    }
}

/// A saga, and how it is to be tried.
#[must_use = "nothing runs without `.check(..)`"]
pub struct CrashMatrix<D, In, O, P = ()> {
    definition: D,
    input: Arc<In>,
    open: O,
    provided: P,
    only: Option<String>,
    at_once: usize,
}

impl<D, In, O, P> fmt::Debug for CrashMatrix<D, In, O, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashMatrix").field("only", &self.only).finish_non_exhaustive()
    }
}

impl<D, In, O, P> CrashMatrix<D, In, O, P> {
    /// On another store than one in memory: `.on(|clock| async { .. })` opens a new one for each run, with this clock. Time
    /// is not to be paused where a store is reached by the network, or by another thread.
    pub fn on<N, F>(self, open: N) -> CrashMatrix<D, In, N, P>
    where
        N: Fn(VirtualClock) -> F,
        F: Future<Output: Backend + Clone>,
    {
        let Self { definition, input, provided, only, at_once, .. } = self;
        CrashMatrix { definition, input, open, provided, only, at_once }
    }

    /// Gives each node what its steps need of the app, as a database [with guard rows](crate::saga::Guarded). All runs have
    /// the same, each under a key of its own.
    pub fn provide<V: Clone + Send + Sync + 'static>(self, value: V) -> CrashMatrix<D, In, O, (P, V)> {
        let Self { definition, input, open, provided, only, at_once } = self;
        CrashMatrix { definition, input, open, provided: (provided, value), only, at_once }
    }

    /// So many runs at the same time: for those that wait in earnest, as time is not paused.
    pub fn at_once(mut self, runs: usize) -> Self {
        self.at_once = runs.max(1);
        self
    }

    /// One case only, as a report names it. The environment variable `CRASH_MATRIX` does the same.
    pub fn only(mut self, case: impl Into<String>) -> Self {
        self.only = Some(case.into());
        self
    }
}

impl<D, X, In, O, P> CrashMatrix<D, In, O, P>
where
    In: SagaInput,
    X: Tried<Input = In, Tx = <O::Backend as Backend>::Tx>,
    O: Opens,
    P: Provided,
    D: Fn() -> X,
{
    /// Runs all of it. `check` is asked after each run, and panics if something is wrong.
    ///
    /// # Panics
    ///
    /// If something is wrong: it says at which point and with which fault, and how that one is run alone.
    pub async fn check(self, check: impl AsyncFn(&World<O::Backend>)) -> Checked {
        match self.try_check(check).await {
            Ok(checked) => checked,
            Err(failures) => panic!("{failures}"),
        }
    }

    /// The same, for a test that has to see what is wrong.
    ///
    /// # Errors
    ///
    /// What went wrong, and where.
    pub async fn try_check(self, check: impl AsyncFn(&World<O::Backend>)) -> Result<Checked, Failures> {
        let tried = (self.definition)().outline().title;
        let (mut failures, mut checked) = (Vec::new(), Checked::default());
        let Passed { points, one_writer, .. } = match self.play(None, "fine", &check).await {
            Ok(passed) => passed,
            Err(wrong) => {
                let failure = Failure { case: "nothing goes wrong".to_owned(), wrong };
                return Err(Failures { tried, runs: 1, failures: vec![failure] });
            }
        };
        (checked.points, checked.runs) = (points.len(), 1);
        let only = self.only.clone().or_else(|| std::env::var(ONLY).ok());
        let cases = points.into_iter().flat_map(|point| {
            let faults = Fault::ALL.into_iter().filter(|fault| fault.can_be_at(&point, one_writer));
            faults.map(|fault| Case { point: point.clone(), fault }).collect::<Vec<_>>()
        });
        let wanted = |case: &Case| only.as_ref().is_none_or(|only| *only == case.to_string());
        let wanted = cases.enumerate().filter(|(_, case)| wanted(case)).collect();
        for (case, played) in self.play_each(wanted, &check).await {
            checked.runs += 1;
            match played {
                Ok(passed) => checked.missed += usize::from(!passed.struck),
                Err(wrong) => failures.push(Failure { case, wrong }),
            }
        }
        if let Some(only) = only.filter(|_| checked.runs == 1) {
            let wrong = vec!["there is no such case: a step may have another name by now".to_owned()];
            failures.push(Failure { case: only, wrong });
        } else if checked.missed + 1 == checked.runs && checked.missed > 0 {
            let wrong = vec!["no fault has struck: nothing was tried".to_owned()];
            failures.push(Failure { case: "all of them".to_owned(), wrong });
        }
        match failures.is_empty() {
            true => Ok(checked),
            false => Err(Failures { tried, runs: checked.runs, failures }),
        }
    }

    /// One run for each case. Gives what each came to, in their order.
    async fn play_each(
        &self,
        cases: Vec<(usize, Case)>,
        check: &impl AsyncFn(&World<O::Backend>),
    ) -> Vec<(String, Result<Passed, Vec<String>>)> {
        let plays = cases.into_iter().map(|(n, case)| async move {
            let named = case.to_string();
            (named, self.play(Some(case), &format!("run-{n}"), check).await)
        });
        stream::iter(plays).buffered(self.at_once).collect().await
    }

    /// One run. Gives what it passed, or what is wrong.
    async fn play(
        &self,
        case: Option<Case>,
        key: &str,
        check: &impl AsyncFn(&World<O::Backend>),
    ) -> Result<Passed, Vec<String>> {
        Box::pin(self.played(case, key, check)).await.map_err(|error| vec![chain(&*error)])?
    }

    async fn played(
        &self,
        case: Option<Case>,
        key: &str,
        check: &impl AsyncFn(&World<O::Backend>),
    ) -> Result<Result<Passed, Vec<String>>, BoxError> {
        let clock = VirtualClock::default();
        let backend = self.open.open(clock.clone()).await;
        let provide = |app| self.provided.provide(app);
        let makes = Makes::<_, X> { definition: &self.definition, provide: &provide };
        let mut play = Play::new((backend, clock), makes, self.input.clone(), key.to_owned(), case.clone())?;
        let stored = match play.run().await {
            Ok(stored) => stored,
            Err(error) => {
                play.end().await;
                return Err(error);
            }
        };
        let definition = (self.definition)();
        play.watch.seen().settle(&stored.records);
        let mut wrong = judge::judge(&definition.outline(), &stored, &play.watch.seen());
        let folded = definition.folded(stored.run, &stored.records, judge::last(&stored));
        wrong.extend(judge::folded(&stored, folded));
        let world =
            World::of::<X>(play.app().ok_or("each node is gone")?, play.backend.clone(), key, case).await?;
        wrong.extend(caught(check(&world)).await.err().map(|panic| panic.0));
        drop(world);
        let seen = std::mem::take(&mut *play.watch.seen());
        let one_writer = play.backend.has_one_writer();
        let passed = Passed { points: seen.points, struck: seen.struck, one_writer };
        play.end().await;
        Ok(if wrong.is_empty() { Ok(passed) } else { Err(wrong) })
    }
}

/// A run in which nothing is wrong.
#[derive(Debug)]
struct Passed {
    points: Vec<Point>,
    /// Whether what was to go wrong has.
    struck: bool,
    one_writer: bool,
}

/// What there is after a run, for a test to look at.
#[derive(Debug)]
pub struct World<B> {
    app: App,
    backend: B,
    runs: Runs,
    shown: RunShown,
    case: Option<String>,
}

impl<B> World<B> {
    async fn of<X: Tried>(app: App, backend: B, key: &str, case: Option<Case>) -> Result<Self, RunError> {
        let runs = X::runs(&app)?;
        let shown = runs.show(key).await?;
        Ok(Self { app, backend, runs, shown, case: case.map(|case| case.to_string()) })
    }

    /// The app of a node that is there.
    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// The store.
    #[must_use]
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// The key that the saga was started under.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.shown.key
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> &RunShown {
        &self.shown
    }

    /// What an operator can have done: a run that waits for a person can be helped in a check.
    #[must_use]
    pub const fn runs(&self) -> &Runs {
        &self.runs
    }

    /// How it has ended; `None` if it waits for a person.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.shown.outcome.as_ref()
    }

    /// What went wrong, and where; `None` in the run in which nothing did.
    #[must_use]
    pub fn case(&self) -> Option<&str> {
        self.case.as_deref()
    }
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Places where the run can fail.
    pub points: usize,
    /// Runs, with the one in which nothing went wrong.
    pub runs: usize,
    /// Runs that did not come to the place where something was to go wrong: they took another way by chance.
    pub missed: usize,
}

/// A run that came to something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Where it failed, and how.
    pub case: String,
    /// What is wrong, a line each.
    pub wrong: Vec<String>,
}

/// What a crash matrix has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    tried: String,
    runs: usize,
    failures: Vec<Failure>,
}

impl Failures {
    /// Each run that came to something wrong.
    pub fn iter(&self) -> impl Iterator<Item = &Failure> {
        self.failures.iter()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, runs, failures } = self;
        writeln!(f, "{} of {runs} runs of {tried} came to something wrong:", failures.len())?;
        for Failure { case, wrong } in failures {
            writeln!(f, "- {case}")?;
            wrong.iter().try_for_each(|wrong| writeln!(f, "  {wrong}"))?;
        }
        let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "..".to_owned());
        let thread = std::thread::current();
        let (test, first) = (thread.name().unwrap_or_default(), failures.first());
        let case = first.map_or("..", |first| &first.case);
        write!(f, "repeat one with: {ONLY}='{case}' cargo test -p {package} -- {test}")
    }
}

impl std::error::Error for Failures {}

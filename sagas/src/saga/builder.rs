//! The definition of a saga: which steps there are, in which order, checked by types.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::Transaction;

use super::erased::{DynStep, Forward, Undoable};
use super::lock::{Lock, SagaLock};
use super::place::PlaceOn;
use super::step::{CannotRefuse, SagaInput, Step, Undo};
use crate::transaction::REMEMBER;

/// Before the pivot.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark of a type")]
pub struct Compensating;

/// Behind the pivot.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark of a type")]
pub struct Retrying;

/// Where steps can stand that can be undone.
#[diagnostic::on_unimplemented(
    message = "the pivot of this saga comes before this",
    label = "stands behind the pivot",
    note = "behind the pivot nothing is undone: add steps that cannot refuse, with `.then(..)`, or move this before the pivot"
)]
pub trait BeforePivot {}
impl BeforePivot for Compensating {}

/// Where a pivot can stand.
#[diagnostic::on_unimplemented(
    message = "this saga has a pivot already",
    label = "a second pivot",
    note = "only one step decides: add steps behind it with `.then(..)`, or make the first one a `.step(..)`, which can be undone"
)]
pub trait WithoutPivot {}
impl WithoutPivot for Compensating {}

/// Where steps can stand that have to succeed.
#[diagnostic::on_unimplemented(
    message = "this saga has no pivot yet",
    label = "stands behind the pivot, and there is none",
    note = "add the pivot before it with `.pivot(..)`, or make this a `.step(..)`, which can be undone"
)]
pub trait BehindPivot {}
impl BehindPivot for Retrying {}

/// A place in the list of the steps so far.
#[doc(hidden)]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark of a type")]
pub struct Here;

/// A place further on.
#[doc(hidden)]
#[derive(Debug)]
pub struct There<I>(PhantomData<I>);

/// Steps so far, with this one among them.
#[diagnostic::on_unimplemented(
    message = "no earlier step of this saga is `{S}`, whose output this step reads",
    note = "put `{S}` before it; steps that run together do not see each other"
)]
pub trait Contains<S, I> {}
impl<S, L> Contains<S, Here> for (S, L) {}
impl<S, H, L: Contains<S, I>, I> Contains<S, There<I>> for (H, L) {}

/// A tuple of steps that are all among those so far.
pub trait AllIn<Done, I> {}
impl<L> AllIn<L, ()> for () {}
impl<L: Contains<A, I>, A, I> AllIn<L, (I,)> for (A,) {}
impl<L: Contains<A, I> + Contains<B, J>, A, B, I, J> AllIn<L, (I, J)> for (A, B) {}
impl<L: Contains<A, I> + Contains<B, J> + Contains<C, K>, A, B, C, I, J, K> AllIn<L, (I, J, K)>
    for (A, B, C)
{
}
impl<L, A, B, C, D, I, J, K, M> AllIn<L, (I, J, K, M)> for (A, B, C, D) where
    L: Contains<A, I> + Contains<B, J> + Contains<C, K> + Contains<D, M>
{
}

/// A saga: its name, its version, its steps. `T` is the `Tx` of the backend that the app runs on.
pub struct Saga<In, T> {
    pub(super) name: &'static str,
    pub(super) version: u32,
    pub(super) deadline: Option<Duration>,
    pub(super) remember: Duration,
    pub(super) announced: bool,
    pub(super) stages: Vec<Vec<Arc<dyn DynStep<In, T>>>>,
    /// Which stage is the pivot.
    pub(super) pivot: Option<usize>,
}

impl<In, T> fmt::Debug for Saga<In, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |stage: &Vec<Arc<dyn DynStep<In, T>>>| stage.iter().map(|step| step.name()).collect();
        let stages: Vec<Vec<&str>> = self.stages.iter().map(names).collect();
        let of = f.debug_struct("Saga").field("name", &self.name).field("version", &self.version).finish();
        of.and_then(|()| write!(f, " {stages:?}"))
    }
}

impl<In, T> Saga<In, T> {
    /// Whether a step of it takes locks.
    pub(super) fn has_locks(&self) -> bool {
        self.stages.iter().flatten().any(|step| step.locks().is_some())
    }
}

impl<In: SagaInput, T: Transaction> Saga<In, T> {
    /// Begins a definition. Runs keep the version of the definition that they began with: change the number when steps
    /// come, go, or change places, and keep the older definition for as long as there are runs of it.
    #[expect(clippy::new_ret_no_self, reason = "reads as one chain")]
    pub fn new(name: &'static str, version: u32) -> SagaBuilder<In, T, (), Compensating> {
        let saga = Self {
            name,
            version,
            deadline: None,
            remember: REMEMBER,
            announced: false,
            stages: Vec::new(),
            pivot: None,
        };
        SagaBuilder { saga, at: PhantomData }
    }
}

/// A definition in the making.
#[must_use = "finish it with `.build()`"]
pub struct SagaBuilder<In, T, Done, Phase> {
    saga: Saga<In, T>,
    at: PhantomData<fn() -> (Done, Phase)>,
}

impl<In, T, Done, Phase> fmt::Debug for SagaBuilder<In, T, Done, Phase> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.saga.fmt(f)
    }
}

impl<In: SagaInput, T: Transaction, Done, Phase> SagaBuilder<In, T, Done, Phase> {
    fn with<D, P>(mut self, stage: Vec<Arc<dyn DynStep<In, T>>>) -> SagaBuilder<In, T, D, P> {
        self.saga.stages.push(stage);
        SagaBuilder { saga: self.saga, at: PhantomData }
    }

    /// What happens to a run is told in the log, as [`SagaEvent`](super::SagaEvent)s in the stream of the run, in the commits
    /// of what they tell of: for views, and for processes that follow a saga. Each costs what a command costs, so it is only
    /// done on demand.
    pub const fn announced(mut self) -> Self {
        self.saga.announced = true;
        self
    }

    /// For how long a run is kept once it has ended: 30 days, unless this says otherwise, and up to a day longer. Then it is
    /// forgotten, with its journal: nobody can look at it any more, and its key stands for nothing. **Whoever starts a saga
    /// under that key then starts another one**, so this has to be longer than anybody repeats a start. An hour at least;
    /// [`Duration::MAX`] keeps runs for ever.
    ///
    /// The newest definition that a node runs says it for the runs of all of them.
    pub const fn remember(mut self, time: Duration) -> Self {
        self.saga.remember = time;
        self
    }

    /// The definition.
    #[must_use]
    pub fn build(self) -> Saga<In, T> {
        self.saga
    }

    /// A run that is not decided by then, counted from its start, is undone. Once the pivot may have run, it is too late.
    pub const fn deadline(mut self, limit: Duration) -> Self
    where
        Phase: BeforePivot,
    {
        self.saga.deadline = Some(limit);
        self
    }

    /// A step that can be undone.
    pub fn step<S, I>(self, step: S) -> SagaBuilder<In, T, (S, Done), Compensating>
    where
        Phase: BeforePivot,
        S: Undo<In, Place: PlaceOn<T>, Needs: AllIn<Done, I>>,
    {
        self.with(vec![Arc::new(Undoable(step))])
    }

    /// Locks that the run takes, or waits for, and has until it ends: see [`SagaLock`].
    pub fn lock<L, I>(self, lock: L) -> SagaBuilder<In, T, (Lock<L>, Done), Compensating>
    where
        Phase: BeforePivot,
        L: SagaLock<In, Needs: AllIn<Done, I>>,
    {
        self.with(vec![Arc::new(Undoable(Lock(lock)))])
    }

    /// Two steps that run, and are undone, at the same time.
    pub fn both<A, B, I, J>(self, a: A, b: B) -> SagaBuilder<In, T, (B, (A, Done)), Compensating>
    where
        Phase: BeforePivot,
        A: Undo<In, Place: PlaceOn<T>, Needs: AllIn<Done, I>>,
        B: Undo<In, Place: PlaceOn<T>, Needs: AllIn<Done, J>>,
    {
        self.with(vec![Arc::new(Undoable(a)), Arc::new(Undoable(b))])
    }

    /// A tuple of three to six steps that run, and are undone, at the same time.
    pub fn all<S, I>(self, steps: S) -> SagaBuilder<In, T, S::Done, Compensating>
    where
        Phase: BeforePivot,
        S: Branches<In, T, Done, I>,
    {
        self.with(steps.steps())
    }

    /// The last step that may refuse. Once it has run, the saga goes forward.
    pub fn pivot<S, I>(mut self, step: S) -> SagaBuilder<In, T, (S, Done), Retrying>
    where
        Phase: WithoutPivot,
        S: Step<In, Place: PlaceOn<T>, Needs: AllIn<Done, I>>,
    {
        self.saga.pivot = Some(self.saga.stages.len());
        self.with(vec![Arc::new(Forward(step))])
    }

    /// A step behind the pivot: tried until it succeeds.
    pub fn then<S, I>(self, step: S) -> SagaBuilder<In, T, (S, Done), Retrying>
    where
        Phase: BehindPivot,
        S: Step<In, Place: PlaceOn<T>, Needs: AllIn<Done, I>, Refusal: CannotRefuse>,
    {
        self.with(vec![Arc::new(Forward(step))])
    }
}

/// A tuple of steps that run at the same time.
pub trait Branches<In, T, Done, I> {
    /// The steps so far, with these.
    type Done;

    /// The steps.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the builder asks")]
    fn steps(self) -> Vec<Arc<dyn DynStep<In, T>>>;
}

macro_rules! branches { ($($list:ty: ($($step:ident $at:ident),+);)+) => { $(
    impl<In: SagaInput, T: Transaction, Done, $($step, $at),+> Branches<In, T, Done, ($($at,)+)> for ($($step,)+)
    where
        $($step: Undo<In, Place: PlaceOn<T>, Needs: AllIn<Done, $at>>),+
    {
        type Done = $list;

        #[expect(private_interfaces, non_snake_case, reason = "only the builder asks; a name for each step")]
        fn steps(self) -> Vec<Arc<dyn DynStep<In, T>>> {
            let ($($step,)+) = self;
            vec![$(Arc::new(Undoable($step))),+]
        }
    }
)+ } }
branches! {
    (C, (B, (A, Done))): (A I, B J, C K);
    (D, (C, (B, (A, Done)))): (A I, B J, C K, D M);
    (E, (D, (C, (B, (A, Done))))): (A I, B J, C K, D M, E N);
    (F, (E, (D, (C, (B, (A, Done)))))): (A I, B J, C K, D M, E N, F O);
}

//! The definition of a chain: which databases, in which order, and what becomes of a partial outcome.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use es_core::BoxError;
use es_core::store::Transaction;

use super::attempt::Attempt;
use super::link::{DynLink, Link, LinkCx, Typed, UndoLink, Undoable};
use crate::data::Data;
use crate::saga::{Call, Cx, Ran, Remote, Retry, Saga, SagaInput, Step, StepError, Undo, Unknown};
use crate::transaction::REMEMBER;

/// What is left is done again until it commits.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark of a type")]
pub struct Forward;

/// What has committed is undone.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark of a type")]
pub struct Compensate;

/// It waits for an operator.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark of a type")]
pub struct Park;

/// Which links a chain can have, by what becomes of a partial outcome.
#[diagnostic::on_unimplemented(
    message = "`{L}` cannot be a link of this chain with the input `{In}`",
    note = "write `impl Link<{In}> for {L}`, and `impl UndoLink<{In}> for {L}` for a chain that is compensated"
)]
pub trait Takes<In, L> {
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the builder asks")]
    fn erased(link: L) -> Arc<dyn DynLink<In>>;
}

impl<In: SagaInput, L: Link<In>> Takes<In, L> for Forward {
    #[expect(private_interfaces, reason = "only the builder asks")]
    fn erased(link: L) -> Arc<dyn DynLink<In>> {
        Arc::new(Typed(link))
    }
}

impl<In: SagaInput, L: Link<In>> Takes<In, L> for Park {
    #[expect(private_interfaces, reason = "only the builder asks")]
    fn erased(link: L) -> Arc<dyn DynLink<In>> {
        Arc::new(Typed(link))
    }
}

impl<In: SagaInput, L: UndoLink<In>> Takes<In, L> for Compensate {
    #[expect(private_interfaces, reason = "only the builder asks")]
    fn erased(link: L) -> Arc<dyn DynLink<In>> {
        Arc::new(Undoable(link))
    }
}

/// A chain in the making. `M` says what becomes of a partial outcome: [`Forward`], [`Compensate`] or [`Park`].
#[must_use = "finish it with `.build()`"]
pub struct Chain<In, M> {
    name: &'static str,
    version: u32,
    deadline: Option<Duration>,
    remember: Duration,
    retry: Retry,
    limit: Duration,
    links: Vec<Arc<dyn DynLink<In>>>,
    mode: PhantomData<fn() -> M>,
}

impl<In, M> fmt::Debug for Chain<In, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links: Vec<&str> = self.links.iter().map(|link| link.name()).collect();
        f.debug_struct("Chain").field("name", &self.name).field("links", &links).finish_non_exhaustive()
    }
}

impl<In: SagaInput> Chain<In, Forward> {
    /// A chain of which what is left is done again, in new transactions, until it commits: its links can do nothing but succeed
    /// once the first one has. One that says no then waits for an operator.
    pub fn fixed_forward(name: &'static str, version: u32) -> Self {
        Self::new(name, version)
    }

    /// The definition, as a saga: `.saga(..)`, `app.run_saga(key, input)`.
    #[must_use]
    pub fn build<T: Transaction>(self) -> Saga<In, T> {
        let (name, version, remember) = (self.name, self.version, self.remember);
        let saga = Saga::new(name, version).remember(remember);
        let saga = if let Some(deadline) = self.deadline { saga.deadline(deadline) } else { saga };
        saga.pivot(self.step(Unknown::Settle)).build()
    }
}

impl<In: SagaInput> Chain<In, Compensate> {
    /// A chain of which what has committed is undone, the last one first, once it was tried in vain.
    pub fn compensated(name: &'static str, version: u32) -> Self {
        Self::new(name, version)
    }

    /// The definition, as a saga: `.saga(..)`, `app.run_saga(key, input)`.
    #[must_use]
    pub fn build<T: Transaction>(self) -> Saga<In, T> {
        self.in_a_saga(Unknown::Fence)
    }
}

impl<In: SagaInput> Chain<In, Park> {
    /// A chain of which a partial outcome is left as it is, for an operator, who finishes it or undoes it by hand, and says so:
    /// [`Resolve`](crate::saga::Verb::Resolve) or [`Skip`](crate::saga::Verb::Skip) of the step `chain`.
    pub fn parked(name: &'static str, version: u32) -> Self {
        Self::new(name, version)
    }

    /// The definition, as a saga: `.saga(..)`, `app.run_saga(key, input)`.
    #[must_use]
    pub fn build<T: Transaction>(self) -> Saga<In, T> {
        self.in_a_saga(Unknown::Park)
    }
}

impl<In: SagaInput, M: Send + Sync + 'static> Chain<In, M> {
    fn new(name: &'static str, version: u32) -> Self {
        Self {
            name,
            version,
            deadline: None,
            remember: REMEMBER,
            retry: Retry::default(),
            limit: Duration::from_secs(30),
            links: Vec::new(),
            mode: PhantomData,
        }
    }

    /// A link. They are committed in the order in which they are added: put first the one whose commit fails most easily, and
    /// last the one that has to be seen last.
    pub fn link<L>(mut self, link: L) -> Self
    where
        M: Takes<In, L>,
    {
        self.links.push(M::erased(link));
        self
    }

    /// A run that has not begun to commit by then, counted from its start, is undone. Of a chain that is fixed forward, only
    /// one that was not tried in vain.
    pub const fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// For how long a run is kept once it has ended: as [`remember`](crate::saga::SagaBuilder::remember) says of sagas.
    pub const fn remember(mut self, time: Duration) -> Self {
        self.remember = time;
        self
    }

    /// How it is tried.
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How long a try may take: 30 seconds, unless this says otherwise. What has not committed by then is rolled back.
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn step(self, unknown: Unknown) -> Links<In> {
        let Self { name, retry, limit, links, .. } = self;
        Links { chain: name, retry, limit, unknown, links }
    }

    fn in_a_saga<T: Transaction>(self, unknown: Unknown) -> Saga<In, T> {
        let saga = Saga::new(self.name, self.version).remember(self.remember);
        let saga = if let Some(deadline) = self.deadline { saga.deadline(deadline) } else { saga };
        saga.step(self.step(unknown)).build()
    }
}

/// The only step of the saga that a chain is.
struct Links<In> {
    chain: &'static str,
    retry: Retry,
    limit: Duration,
    unknown: Unknown,
    links: Vec<Arc<dyn DynLink<In>>>,
}

impl<In: SagaInput> Links<In> {
    fn attempt(&self, cx: &Cx<'_, In>) -> Result<Attempt<'_, In>, BoxError> {
        let input = Data::of(cx.input)?;
        // Each try reads it anew, and a map is then in another order.
        let of = (self.chain, input.fingerprint());
        Ok(Attempt { links: &self.links, of, finishes: self.unknown != Unknown::Park })
    }
}

impl<In: SagaInput> Step<In> for Links<In> {
    const NAME: &'static str = "chain";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;

    async fn run(&self, cx: Cx<'_, In>, _: &mut Call) -> Result<(), StepError<String>> {
        let attempt = self.attempt(&cx).map_err(StepError::Retry)?;
        attempt.make(LinkCx::new(cx.input, cx.key, cx.run)).await
    }

    fn retry(&self) -> Retry {
        self.retry
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    fn unknown(&self) -> Unknown {
        self.unknown
    }

    /// The first database keeps it.
    fn refuses_for_good(&self) -> bool {
        true
    }
}

impl<In: SagaInput> Undo<In> for Links<In> {
    async fn undo(&self, cx: Cx<'_, In>, ran: Ran<()>, _: &mut Call) -> Result<(), BoxError> {
        let attempt = self.attempt(&cx)?;
        attempt.undo(LinkCx::new(cx.input, cx.key, cx.run), ran != Ran::Maybe).await
    }
}

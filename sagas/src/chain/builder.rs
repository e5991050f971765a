//! The definition of a chain: which databases, in which order, and what becomes of a partial outcome.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use es_core::BoxError;
use es_core::store::Transaction;
use futures::future::join_all;

use super::attempt::Attempt;
use super::link::{DynLink, Link, LinkCx, Typed, UndoLink, Undoable, named};
use super::traces::OfLinks;
use crate::saga::{Call, Cx, Ran, Remote, Retry, Saga, SagaInput, Step, StepError, Undo, Unknown};
use crate::transaction::{REMEMBER, Traces};

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
        self.into_pivot(Unknown::Settle)
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
        let saga = Saga::new(self.name, self.version).remember(self.remember);
        let saga = if let Some(deadline) = self.deadline { saga.deadline(deadline) } else { saga };
        saga.step(self.step(Unknown::Fence)).build()
    }
}

impl<In: SagaInput> Chain<In, Park> {
    /// A chain of which a partial outcome is left as it is, for an operator, who finishes it by hand and says so by
    /// [`Resolve`](crate::saga::Verb::Resolve) of the step `chain`, or undoes it by hand and says so by
    /// [`Skip`](crate::saga::Verb::Skip). While it is not known that it is partial, `Skip` is declined: `Retry` finds out.
    pub fn parked(name: &'static str, version: u32) -> Self {
        Self::new(name, version)
    }

    /// The definition, as a saga: `.saga(..)`, `app.run_saga(key, input)`.
    #[must_use]
    pub fn build<T: Transaction>(self) -> Saga<In, T> {
        self.into_pivot(Unknown::Park)
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

    /// By when it is to be done, counted from its start. Of a chain that is compensated, a run that has not completed by then is
    /// undone. Of the others only one that nothing was tried for: a try that is under way goes on, and one that was made in
    /// vain is followed by others.
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

    /// What may have committed is not undone: neither by its deadline, nor by a person.
    fn into_pivot<T: Transaction>(self, unknown: Unknown) -> Saga<In, T> {
        let saga = Saga::new(self.name, self.version).remember(self.remember);
        let saga = if let Some(deadline) = self.deadline { saga.deadline(deadline) } else { saga };
        saga.pivot(self.step(unknown)).build()
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
    /// With a fingerprint of what the journal has of its input: written anew it may be another text.
    fn attempt(&self, call: &Call) -> Attempt<'_, In> {
        let of = (self.chain, call.fingerprint());
        Attempt { links: &self.links, of, finishes: self.unknown != Unknown::Park }
    }
}

impl<In: SagaInput> Step<In> for Links<In> {
    const NAME: &'static str = "chain";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;

    async fn run(&self, cx: Cx<'_, In>, call: &mut Call) -> Result<(), StepError<String>> {
        self.attempt(call).make(LinkCx::new(cx.input, cx.key, cx.run)).await
    }

    fn retry(&self) -> Retry {
        self.retry
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    async fn check(&self) -> Result<(), BoxError> {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        if self.links.is_empty() {
            wrong.push("it has no links".to_owned());
        }
        for link in &self.links {
            if !seen.insert(link.name()) {
                wrong.push(format!("it has two links named {:?}", link.name()));
            }
        }
        let checked = join_all(self.links.iter().map(|link| link.check())).await;
        for (link, checked) in self.links.iter().zip(checked) {
            wrong.extend(checked.err().map(|error| named(link.name(), &error)));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ").into()) }
    }

    fn traces(&self) -> Option<Arc<dyn Traces>> {
        let links = self.links.clone();
        Some(Arc::new(OfLinks { step: <Self as Step<In>>::NAME, chain: self.chain, links }))
    }

    fn unknown(&self) -> Unknown {
        self.unknown
    }

    fn acts_in_parts(&self) -> bool {
        true
    }

    /// The first database keeps it.
    fn refuses_for_good(&self) -> bool {
        true
    }
}

impl<In: SagaInput> Undo<In> for Links<In> {
    async fn undo(&self, cx: Cx<'_, In>, ran: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        self.attempt(call).undo(LinkCx::new(cx.input, cx.key, cx.run), ran != Ran::Maybe).await
    }
}

#[cfg(test)]
mod tests {
    use es_core::App;
    use es_core::memory::MemoryBackend;
    use es_sqlite::{GuardedTx, SqliteGuarded};
    use serde::{Deserialize, Serialize};
    use sqlx::SqlitePool;

    use super::*;
    use crate::saga::SagaApp as _;

    #[derive(Serialize, Deserialize)]
    struct Move {}
    impl SagaInput for Move {}

    struct Leg(SqliteGuarded);

    impl Link<Move> for Leg {
        const NAME: &'static str = "leg";
        type Database = SqliteGuarded;
        fn database(&self) -> &SqliteGuarded {
            &self.0
        }
        async fn run(&self, _: LinkCx<'_, Move>, _: &mut GuardedTx) -> Result<(), StepError<String>> {
            Ok(())
        }
    }

    async fn leg() -> Result<Leg, BoxError> {
        Ok(Leg(SqliteGuarded::new(SqlitePool::connect("sqlite::memory:").await?)))
    }

    async fn wrong(chain: Chain<Move, Forward>) -> String {
        let started = App::on(MemoryBackend::new()).saga(chain.build()).start().await;
        started.err().map(|error| es_core::chain(&error)).unwrap_or_default()
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_chain_is_said_at_the_start_of_its_app() -> Result<(), BoxError> {
        let chain = || Chain::fixed_forward("move", 1);
        let why = wrong(chain()).await;
        assert!(why.contains(r#"step "chain" of saga move: it has no links"#), "{why}");
        let why = wrong(chain().link(leg().await?).link(leg().await?)).await;
        assert!(why.contains(r#"it has two links named "leg""#), "{why}");
        let why = wrong(chain().link(leg().await?)).await;
        assert!(why.contains("leg: ") && why.contains("install"), "{why}");
        Ok(())
    }
}

//! Steps that are sagas of their own.

use std::any::type_name;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::RowWrite;
use es_core::{BoxError, chain};

use super::machine::Doable;
use super::signal::Awaited;
use super::starter::{SagaKind, Starter};
use super::step::{Cx, Needs, Outputs, Ran, Retry, SagaInput, Step, StepError, Undo};
use crate::transaction::{Kin, OwnFault, Parent, Site};

/// A saga that is a step of sagas with the input `In`, as [`Child::of`] it.
///
/// The step begins a run of the other saga, which any node works on that has it, and waits for what becomes of that:
///
/// | the saga within | the step |
/// | --- | --- |
/// | has run all of its steps | is done, and its output is that of the step which it [gives](Self::Gives) |
/// | is undone: a step said no, it failed, its deadline passed, somebody has cancelled it | has refused; behind the pivot it has failed, and is tried again, with another run |
/// | was abandoned | waits for a person |
///
/// Before the pivot, a saga within that has run all of its steps does not end: it waits for the run that it is a step of. If
/// that is undone, so is it, by its own undos; it ends when that ends. So it cannot have a pivot: an app with such a saga does
/// not start. As the pivot, the saga within decides, and may have a pivot of its own. A deadline and a cancellation are told to
/// it, and it is undone, unless its own pivot has run, or may have, or it has completed: then what comes is as
/// [`Child::if_it_refuses`] says.
///
/// ```
/// # use std::convert::Infallible;
/// # use sagas::es_core::memory::{MemoryBackend, Tx};
/// # use sagas::es_core::{App, BoxError};
/// # use sagas::saga::{Child, Cx, Outcome, Ran, Saga, SagaApp, SagaInput, Sagas, StepError, SubSaga, step};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize)]
/// struct Shipment {
///     item: String,
/// }
/// impl SagaInput for Shipment {}
///
/// struct Book;
/// #[step(name = "book", undo = cancel)]
/// impl Book {
///     async fn book(&self, cx: Cx<'_, Shipment>, tx: &mut Tx) -> Result<String, StepError<Infallible>> {
///         tx.put("booked", cx.key, cx.input.item.clone());
///         Ok(format!("a place for {}", cx.input.item))
///     }
///     async fn cancel(&self, cx: Cx<'_, Shipment>, _: Ran<String>, tx: &mut Tx) -> Result<(), BoxError> {
///         tx.delete("booked", cx.key);
///         Ok(())
///     }
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Order {
///     item: String,
/// }
/// impl SagaInput for Order {}
///
/// struct Ship;
/// impl SubSaga<Order> for Ship {
///     const NAME: &'static str = "ship";
///     type Needs = ();
///     type Saga = Shipment;
///     type Gives = Book;
///     fn input(&self, cx: Cx<'_, Order>) -> Shipment {
///         Shipment { item: cx.input.item.clone() }
///     }
/// }
///
/// struct Pay;
/// #[step(name = "pay")]
/// impl Pay {
///     async fn pay(&self, cx: Cx<'_, Order, (Child<Ship>,)>, tx: &mut Tx) -> Result<(), StepError<String>> {
///         tx.put("paid for", cx.key, cx.needs.0.clone());
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let ship_goods = Saga::new("ship-goods", 1).step(Book).build();
/// let place_order = Saga::new("place-order", 1).step(Child::of(Ship)).pivot(Pay).build();
/// let store = MemoryBackend::new();
/// let app = App::on(store.clone()).saga(place_order).saga(ship_goods).start().await?;
/// assert_eq!(app.run_saga("order-1", Order { item: "tea".to_owned() }).await?, Outcome::Completed);
/// assert!(store.row("paid for", "order-1").is_some());
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a saga within sagas with the input `{In}`",
    note = "write `impl SubSaga<{In}> for {Self}`: it says which saga, with which input"
)]
pub trait SubSaga<In: SagaInput>: Send + Sync + 'static {
    /// The stored name of the step.
    const NAME: &'static str;
    /// Earlier steps whose outputs it reads, as a tuple of at most four.
    type Needs: Needs<In>;
    /// The input of the saga within, which names it.
    type Saga: SagaInput;
    /// The step of the saga within whose output is that of this step.
    type Gives: Step<Self::Saga>;

    /// What the saga within begins with. It is a function of what it is given, and of nothing else.
    fn input(&self, cx: Cx<'_, In, Self::Needs>) -> Self::Saga;

    /// How its beginning is tried; behind the pivot, also how another run is tried after one that was undone.
    fn retry(&self) -> Retry {
        Retry::default()
    }
}

/// What becomes of a run that is to be undone while its pivot, a saga of its own, has its own pivot behind it, or has
/// completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfItRefuses {
    /// It goes forward, as behind any pivot.
    #[default]
    GoForward,
    /// It waits for a person, who has it go forward with a retry.
    Park,
}

/// A step that is a saga of its own: see [`SubSaga`].
pub struct Child<C> {
    of: C,
    if_it_refuses: IfItRefuses,
}

impl<C> Child<C> {
    /// A step for `.step(..)`, `.both(..)`, `.all(..)`, `.pivot(..)` or `.then(..)`.
    #[must_use]
    pub const fn of(of: C) -> Self {
        Self { of, if_it_refuses: IfItRefuses::GoForward }
    }

    /// What becomes of a run whose deadline passes, or that is cancelled, when this, its pivot, cannot be undone any more.
    #[must_use]
    pub fn if_it_refuses(self, if_it_refuses: IfItRefuses) -> Self {
        Self { if_it_refuses, ..self }
    }
}

impl<C> fmt::Debug for Child<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("if_it_refuses", &self.if_it_refuses).finish_non_exhaustive()
    }
}

impl<In: SagaInput, C: SubSaga<In>> Step<In> for Child<C> {
    const NAME: &'static str = C::NAME;
    type Needs = C::Needs;
    type Output = <C::Gives as Step<C::Saga>>::Output;
    type Refusal = Infallible;
    type Place = Awaited;

    async fn run(
        &self,
        _: Cx<'_, In, C::Needs>,
        at: &mut Infallible,
    ) -> Result<Self::Output, StepError<Infallible>> {
        match *at {}
    }

    fn retry(&self) -> Retry {
        self.of.retry()
    }

    #[expect(private_interfaces, reason = "only the engine asks")]
    fn child(&self) -> Option<&dyn Begets<In>> {
        Some(self)
    }
}

impl<In: SagaInput, C: SubSaga<In>> Undo<In> for Child<C> {
    async fn undo(
        &self,
        _: Cx<'_, In, C::Needs>,
        _: Ran<Self::Output>,
        at: &mut Infallible,
    ) -> Result<(), BoxError> {
        match *at {}
    }
}

/// A step that is a saga of its own, as the engine knows it.
#[async_trait]
pub(super) trait Begets<In>: Send + Sync {
    /// What the protocol knows of it.
    fn place(&self) -> Doable;

    /// Whether it is that saga, or has a step that leads to it. `seen`: those that were looked at.
    fn leads_to(&self, saga: &str, services: &Services, seen: &mut BTreeSet<String>) -> bool;

    /// Whether it can stand there; else why not. `saga`: the one that has it, if runs begin with that definition.
    fn check(&self, saga: Option<&str>, before_pivot: bool, services: &Services) -> Result<(), String>;

    /// A run that begins, and its rows.
    async fn begin(
        &self,
        input: &In,
        outputs: &Outputs,
        site: &Site,
        parent: Parent,
        key: &str,
    ) -> Result<(Kin, Vec<RowWrite>), BoxError>;
}

fn kind<In: SagaInput>(services: &Services) -> Result<&dyn SagaKind<In>, String> {
    let input = type_name::<In>();
    let missing =
        |_| format!("it is the saga for {input}, which this app does not have: add it with `.saga(..)`");
    services.get::<Starter<In>>().map(|starter| &*starter.0).map_err(missing)
}

#[async_trait]
impl<In: SagaInput, C: SubSaga<In>> Begets<In> for Child<C> {
    fn place(&self) -> Doable {
        let gives = <C::Gives as Step<C::Saga>>::NAME;
        Doable::Child { gives, if_it_refuses: self.if_it_refuses }
    }

    fn leads_to(&self, saga: &str, services: &Services, seen: &mut BTreeSet<String>) -> bool {
        // One that the app does not have is another matter.
        kind::<C::Saga>(services).is_ok_and(|kind| {
            kind.name() == saga || seen.insert(kind.name().to_owned()) && kind.leads_to(saga, services, seen)
        })
    }

    fn check(&self, saga: Option<&str>, before_pivot: bool, services: &Services) -> Result<(), String> {
        let (kind, gives) = (kind::<C::Saga>(services)?, <C::Gives as Step<C::Saga>>::NAME);
        let name = kind.name();
        let leads_to = |saga: &&str| Begets::<In>::leads_to(self, saga, services, &mut BTreeSet::new());
        match () {
            () if saga == Some(name) => {
                Err("a saga is no step of itself: it would begin for ever".to_owned())
            }
            () if let Some(saga) = saga.filter(leads_to) => Err(format!(
                "saga {name} leads to {saga} again, by a step that is a saga of its own: they would begin for ever"
            )),
            () if before_pivot && kind.has_pivot() => Err(format!(
                "saga {name} has a pivot, behind which it cannot be undone: make it the pivot, with `.pivot(..)`, or take the \
                 pivot out of {name}"
            )),
            () if !kind.has_step(gives) => {
                Err(format!("it gives what step {gives:?} of saga {name} gives, which has no such step"))
            }
            () => Ok(()),
        }
    }

    async fn begin(
        &self,
        input: &In,
        outputs: &Outputs,
        site: &Site,
        parent: Parent,
        key: &str,
    ) -> Result<(Kin, Vec<RowWrite>), BoxError> {
        let begins = {
            let needs = C::Needs::read(outputs).map_err(OwnFault::boxed)?;
            self.of.input(Cx::new(input, needs, &site.key, site.run, &site.sender))
        };
        let kind = kind::<C::Saga>(&site.services).map_err(OwnFault::boxed)?;
        kind.stage_child(parent, key, &begins).await.map_err(|error| match error {
            // The store that is away is known as that.
            crate::saga::RunError::Store(error) => error.into(),
            error => OwnFault::boxed(chain(&error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use es_core::App;
    use es_core::memory::{MemoryBackend, Tx};
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::saga::{Call, Remote, Saga, SagaApp as _};

    #[derive(Serialize, Deserialize)]
    struct Outer {}
    impl SagaInput for Outer {}

    #[derive(Serialize, Deserialize)]
    struct Inner {}
    impl SagaInput for Inner {}

    struct Act;
    macro_rules! acts { ($($input:ty)+) => { $(
        impl Step<$input> for Act {
            const NAME: &'static str = "act";
            type Needs = ();
            type Output = ();
            type Refusal = Infallible;
            type Place = Remote;
            async fn run(&self, _: Cx<'_, $input>, _: &mut Call) -> Result<(), StepError<Infallible>> {
                Ok(())
            }
        }

        impl Undo<$input> for Act {
            async fn undo(&self, _: Cx<'_, $input>, _: Ran<()>, _: &mut Call) -> Result<(), BoxError> {
                Ok(())
            }
        }
    )+ } }
    acts! { Outer Inner }

    struct Begin;
    impl SubSaga<Outer> for Begin {
        const NAME: &'static str = "begin";
        type Needs = ();
        type Saga = Inner;
        type Gives = Act;
        fn input(&self, _: Cx<'_, Outer>) -> Inner {
            Inner {}
        }
    }

    struct Again;
    impl SubSaga<Outer> for Again {
        const NAME: &'static str = "again";
        type Needs = ();
        type Saga = Outer;
        type Gives = Act;
        fn input(&self, _: Cx<'_, Outer>) -> Outer {
            Outer {}
        }
    }

    struct Back;
    impl SubSaga<Inner> for Back {
        const NAME: &'static str = "back";
        type Needs = ();
        type Saga = Outer;
        type Gives = Act;
        fn input(&self, _: Cx<'_, Inner>) -> Outer {
            Outer {}
        }
    }

    fn inner() -> Saga<Inner, Tx> {
        Saga::new("inner", 1).step(Act).build()
    }

    fn inner_with_a_pivot() -> Saga<Inner, Tx> {
        Saga::new("inner", 1).pivot(Act).build()
    }

    async fn refused(outer: Saga<Outer, Tx>, inner: Option<Saga<Inner, Tx>>) -> String {
        let app = App::on(MemoryBackend::new()).saga(outer);
        let app = inner.into_iter().fold(app, |app, inner| app.saga(inner));
        app.start().await.map_or_else(|error| chain(&error), |_| String::new())
    }

    #[tokio::test]
    async fn an_app_with_a_saga_within_that_cannot_stand_there_does_not_start() {
        let as_a_step = || Saga::new("outer", 1).step(Child::of(Begin)).build();
        let why = refused(as_a_step(), Some(inner_with_a_pivot())).await;
        assert!(why.contains("step \"begin\" of saga outer: saga inner has a pivot"), "{why}");
        assert!(why.contains("make it the pivot, with `.pivot(..)`"), "{why}");
        let why = refused(as_a_step(), None).await;
        assert!(why.contains("which this app does not have: add it with `.saga(..)`"), "{why}");
        let why = refused(Saga::new("outer", 1).step(Child::of(Again)).build(), None).await;
        assert!(why.contains("a saga is no step of itself"), "{why}");
        let back = Saga::new("inner", 1).step(Act).step(Child::of(Back)).build();
        let why = refused(as_a_step(), Some(back)).await;
        assert!(why.contains("step \"begin\" of saga outer: saga inner leads to outer again"), "{why}");
        assert!(why.contains("step \"back\" of saga inner: saga outer leads to inner again"), "{why}");
        let without = Saga::new("inner", 1).step(crate::saga::Signal::<Sent>::new()).build();
        let why = refused(as_a_step(), Some(without)).await;
        assert!(why.contains("which has no such step"), "{why}");
        for (outer, inner) in [
            (as_a_step(), inner()),
            (Saga::new("outer", 1).pivot(Child::of(Begin)).build(), inner_with_a_pivot()),
            (Saga::new("outer", 1).pivot(Act).then(Child::of(Begin)).build(), inner_with_a_pivot()),
        ] {
            assert_eq!(refused(outer, Some(inner)).await, "");
        }
    }

    #[tokio::test]
    async fn what_no_run_begins_with_any_more_leads_nowhere() {
        // The older outer saga begins the inner one, which begins the newer outer one, which begins nothing.
        let app = App::on(MemoryBackend::new()).saga(Saga::<Outer, Tx>::new("outer", 2).step(Act).build());
        let app = app.earlier_saga(Saga::new("outer", 1).step(Child::of(Begin)).build());
        let app = app.saga(Saga::new("inner", 1).step(Act).step(Child::of(Back)).build());
        assert!(app.start().await.is_ok());
    }

    #[derive(Serialize, Deserialize)]
    struct Sent {}
    impl crate::saga::SagaSignal for Sent {
        type Saga = Inner;
        const NAME: &'static str = "sent";
    }
}

//! Steps that wait for something from outside: an approval, a webhook.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

use es_core::BoxError;
use es_core::services::Services;
use es_core::store::Transaction;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::place::{At, Place, PlaceOn, Told, Visit, elsewhere};
use super::step::{Awaits, Cx, Ran, SagaInput, Step, StepError, Undo};

/// Something that is sent to a run from outside, with [`Sagas::signal_saga`](super::Sagas::signal_saga). A step of the saga
/// waits for it: [`Signal`], or [`Signals`] for several.
///
/// ```
/// # use sagas::es_core::memory::Tx;
/// # use sagas::saga::{Saga, SagaInput, SagaSignal, Signal, Cx, StepError, step};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Order {}
/// # impl SagaInput for Order {}
/// #[derive(Serialize, Deserialize)]
/// struct Approved {
///     by: String,
/// }
/// impl SagaSignal for Approved {
///     type Saga = Order;
///     const NAME: &'static str = "approved";
/// }
///
/// struct Book;
/// #[step(name = "book")]
/// impl Book {
///     async fn book(&self, cx: Cx<'_, Order, (Signal<Approved>,)>, tx: &mut Tx) -> Result<(), StepError<String>> {
///         tx.put("booked", cx.key, cx.needs.0.by.as_str());
///         Ok(())
///     }
/// }
///
/// let saga = Saga::new("order", 1).step(Signal::<Approved>::new()).pivot(Book).build();
/// # let _: Saga<Order, Tx> = saga;
/// // From any node: app.signal_saga("order-7", "mail-81", &Approved { by: "ada".to_owned() }).await?;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not sent to a saga",
    note = "write `impl SagaSignal for {Self} {{ type Saga = ..; const NAME: &'static str = \"..\"; }}`"
)]
pub trait SagaSignal: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The input of the saga that waits for it.
    type Saga: SagaInput;
    /// Its stored name, and that of the step which waits for it.
    const NAME: &'static str;
}

/// A step that waits until an `S` is sent; that is its output. One that comes before its turn is kept. There is nothing to
/// undo; the deadline and a cancellation end the waiting, as that of any step. It may have 256 KiB, as JSON.
pub struct Signal<S>(PhantomData<fn() -> S>);

/// The same for several: its output is all of them, in the order in which they were taken. Together they may have 256 KiB,
/// and each the same part of that: of four, 64 KiB.
pub struct Signals<S>(u32, PhantomData<fn() -> S>);

impl<S: SagaSignal> Signal<S> {
    /// Waits for one.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a step of a chain")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: SagaSignal> Signals<S> {
    /// Waits for so many: 1 at least, 4,096 at most. An app with another number does not start.
    #[must_use]
    pub const fn of(n: u32) -> Self {
        Self(n, PhantomData)
    }
}

impl<S> fmt::Debug for Signal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signal")
    }
}

impl<S> fmt::Debug for Signals<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signals").field(&self.0).finish()
    }
}

/// Nowhere: what comes of the step is sent from outside, or comes of a saga of its own.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a place without a value")]
pub struct Awaited;

impl Place for Awaited {
    type At = Infallible;
}

impl Visit<Self> for Infallible {
    fn at(&mut self) -> &mut Self {
        self
    }

    async fn leave(self, _: Told) -> Told {
        match self {}
    }
}

impl<T: Transaction> PlaceOn<T> for Awaited {
    const LOCAL: bool = false;

    type Visit<'a>
        = Infallible
    where
        T: 'a;

    async fn enter<'a>(_: At<'a, T>, _: bool) -> Result<Infallible, Told>
    where
        T: 'a,
    {
        Err(elsewhere())
    }

    async fn check(_: &Services) -> Result<(), BoxError> {
        Ok(())
    }
}

macro_rules! awaited { ($($step:ident $output:ty: $self:ident $awaits:expr;)+) => { $(
    impl<S: SagaSignal> Step<S::Saga> for $step<S> {
        const NAME: &'static str = S::NAME;
        type Needs = ();
        type Output = $output;
        type Refusal = Infallible;
        type Place = Awaited;

        async fn run(&self, _: Cx<'_, S::Saga>, at: &mut Infallible) -> Result<$output, StepError<Infallible>> {
            match *at {}
        }

        fn awaits(&$self) -> Option<Awaits> {
            Some($awaits)
        }
    }

    impl<S: SagaSignal> Undo<S::Saga> for $step<S> {
        async fn undo(&self, _: Cx<'_, S::Saga>, _: Ran<$output>, at: &mut Infallible) -> Result<(), BoxError> {
            match *at {}
        }
    }
)+ } }
awaited! {
    Signal S: self Awaits::One;
    Signals Vec<S>: self Awaits::Many(self.0);
}

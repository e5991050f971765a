//! Steps, where they live, and what they answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use es_core::BoxError;
use es_core::command::Sender;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::child::Begets;
use super::lock::Claims;
use super::place::Place;
use crate::data::Data;
use crate::transaction::{MAX_SENT, Traces};

/// What a saga is started with: it also names the saga where it is started.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the input of a saga",
    note = "write `impl SagaInput for {Self} {{}}`; it is stored, so it is `Serialize` and `Deserialize`"
)]
pub trait SagaInput: Serialize + DeserializeOwned + Send + Sync + 'static {}

/// Why a step did not run to its end.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a no, or anything else")]
pub enum StepError<R> {
    /// A no of the business, after which nothing has happened: what had run before is undone.
    Refused(R),
    /// Anything else: it is tried again.
    Retry(BoxError),
}

/// Turns errors of calls and statements into "try again": a refusal is said explicitly.
pub trait OrRetry<T> {
    /// An error means that the step is tried again.
    ///
    /// # Errors
    ///
    /// [`StepError::Retry`].
    fn or_retry<R>(self) -> Result<T, StepError<R>>;
}

impl<T, E: Into<BoxError>> OrRetry<T> for Result<T, E> {
    fn or_retry<R>(self) -> Result<T, StepError<R>> {
        self.map_err(|error| StepError::Retry(error.into()))
    }
}

/// What an undo knows of the step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it has run, or may have")]
pub enum Ran<O> {
    /// It has run, and this was its output.
    Yes(O),
    /// It was called, and no answer says whether it has run; or it is being called still, somewhere in the network.
    Maybe,
}

/// What is done with a step that may have run, when the saga is undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// It is called again under its key until the answer is certain, and then undone if it has run. For whoever answers a
    /// repetition with what came of the first call.
    #[default]
    Settle,
    /// Its undo is called right away, with [`Ran::Maybe`]. For whoever can be told that a key is never to act again.
    Fence,
    /// A person is asked.
    Park,
}

/// How a step is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// The pause after the first failure; twice as long after each. A part of it, by chance, is waited.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How often a step before the pivot, or the pivot, is tried before the saga is undone: once at least.
    pub tries: u32,
    /// How often is tried what has to succeed: steps after the pivot, and undos. A person is asked after that. Once at least.
    pub late_tries: u32,
    /// For how long the same is tried, at most.
    pub late_for: Duration,
}

impl Default for Retry {
    /// After 200 ms, then twice as long each time up to a minute; five times before the saga is undone; twenty times, or for
    /// an hour, where it has to succeed.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(60),
            tries: 5,
            late_tries: 20,
            late_for: Duration::from_secs(3_600),
        }
    }
}

impl Retry {
    /// The pause after the first failure, and the longest one.
    #[must_use]
    pub const fn pauses(self, first: Duration, longest: Duration) -> Self {
        Self { first, longest, ..self }
    }

    /// The pause after so many failures, before chance makes it shorter.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.longest)
    }

    /// How often it is tried before the saga is undone.
    #[must_use]
    pub const fn tries(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// How often, and for how long, it is tried where it has to succeed.
    #[must_use]
    pub const fn late(self, tries: u32, within: Duration) -> Self {
        Self { late_tries: tries, late_for: within, ..self }
    }
}

/// What a step waits for that is sent from outside.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "one, or several")]
pub enum Awaits {
    /// Its output is that.
    One,
    /// Its output is a list of so many.
    Many(u32),
}

impl Awaits {
    /// The most that a step can wait for: so that each has 64 bytes at least.
    pub(crate) const MOST: usize = 4_096;

    /// Bytes that each may have, so that there is room for all.
    pub(crate) fn bytes(self) -> usize {
        MAX_SENT / self.count().max(1)
    }

    pub(crate) const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Many(n) => n as usize,
        }
    }

    /// What was sent, as the output of the step.
    pub(crate) fn output(self, sent: &[&Data]) -> Result<Data, BoxError> {
        match self {
            Self::One => Ok((*sent.first().ok_or("nothing was sent")?).clone()),
            Self::Many(_) => {
                let all: Vec<&str> = sent.iter().map(|sent| sent.text()).collect();
                Data::parse(format!("[{}]", all.join(",")))
            }
        }
    }
}

/// What a step is called with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Cx<'a, In: SagaInput, N: Needs<In> = ()> {
    /// What the saga was started with.
    pub input: &'a In,
    /// The outputs of the steps that it needs, in their order.
    pub needs: N::Outputs,
    /// The key that the saga was started under.
    pub key: &'a str,
    /// The run.
    pub run: Uuid,
    /// Sends commands; those of the same store go [within](es_core::Sending::within) the transaction of the step.
    pub sender: &'a Sender,
}

impl<'a, In: SagaInput, N: Needs<In>> Cx<'a, In, N> {
    pub(crate) const fn new(
        input: &'a In,
        needs: N::Outputs,
        key: &'a str,
        run: Uuid,
        sender: &'a Sender,
    ) -> Self {
        Self { input, needs, key, run, sender }
    }
}

/// Why a pivot that has acted in part, and is left as it is, waits for a person at once: it would only find the same again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ActedInPart(pub(crate) String);

/// A step of a saga with this input.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a step of sagas with the input `{In}`",
    note = "write `impl Step<{In}> for {Self}`, or give the saga the input that its steps have"
)]
pub trait Step<In: SagaInput>: Send + Sync + 'static {
    /// Its stored name.
    const NAME: &'static str;
    /// Earlier steps whose outputs it reads, as a tuple of at most four.
    type Needs: Needs<In>;
    /// What it leaves for later steps, and for its undo.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// What it says no with. [`Infallible`]: it cannot, so it may stand behind the pivot.
    type Refusal: Display + Send;
    /// Where it lives: [`Staged`](super::Staged), [`Journal`](super::Journal), [`Guarded`](super::Guarded) or [`Remote`](super::Remote).
    type Place: Place;

    /// Runs it.
    fn run(
        &self,
        cx: Cx<'_, In, Self::Needs>,
        at: &mut <Self::Place as Place>::At,
    ) -> impl Future<Output = Result<Self::Output, StepError<Self::Refusal>>> + Send;

    /// How it is tried.
    fn retry(&self) -> Retry {
        Retry::default()
    }

    /// How long a call may take: 30 seconds, unless it says otherwise.
    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Who is called, for a step that does not live in the database of the journal: a service, a database. Runs of all sagas
    /// of a node that name the same one share what they find out: once three calls in a row have failed, nobody calls it
    /// for as long as this step pauses, then one call finds out whether it is back. What waits for that is no try. `None`:
    /// it is always called.
    fn destination(&self) -> Option<&str> {
        None
    }

    /// What it waits for, in place of a call.
    #[doc(hidden)]
    fn awaits(&self) -> Option<Awaits> {
        None
    }

    /// The saga that it is, in place of a call.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the engine asks")]
    fn child(&self) -> Option<&dyn Begets<In>> {
        None
    }

    /// The locks that it takes, in place of a call.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the engine asks")]
    fn locks(&self) -> Option<&dyn Claims<In>> {
        None
    }

    /// What it leaves in databases that only it knows.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the engine asks")]
    fn traces(&self) -> Option<Arc<dyn Traces>> {
        None
    }

    /// Whether it acts in several places one after the other, so that a failure may leave a part of that.
    #[doc(hidden)]
    fn acts_in_parts(&self) -> bool {
        false
    }

    /// Whether all is there that it needs, when an app starts.
    #[doc(hidden)]
    fn check(&self) -> impl Future<Output = Result<(), BoxError>> + Send {
        async { Ok(()) }
    }

    /// What is done if it may have run, when the saga is undone; as its place says, unless it says otherwise. Says nothing
    /// where it is known.
    fn unknown(&self) -> Unknown {
        <Self::Place as Place>::UNKNOWN
    }

    /// Whether a refusal is one of all calls under the key, those before it included: as of a service that remembers what it
    /// answered under a key, and as of a guard. Otherwise a refusal of a repetition says nothing of the calls before it.
    fn refuses_for_good(&self) -> bool {
        <Self::Place as Place>::REFUSES_FOR_GOOD
    }
}

/// A step that can be undone.
#[diagnostic::on_unimplemented(
    message = "step `{Self}` has no undo in a saga with the input `{In}`",
    label = "a step before the pivot can be undone",
    note = "write `impl Undo<{In}> for {Self}`, or make it the pivot, or move it behind the pivot"
)]
pub trait Undo<In: SagaInput>: Step<In> {
    /// Undoes it. Called again until it succeeds; and also if it is not known whether the step has run.
    fn undo(
        &self,
        cx: Cx<'_, In, Self::Needs>,
        ran: Ran<Self::Output>,
        at: &mut <Self::Place as Place>::At,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// What steps behind the pivot have for a refusal.
#[diagnostic::on_unimplemented(
    message = "a step behind the pivot cannot refuse, and this one can, with `{Self}`",
    note = "set `type Refusal = Infallible`, or move it before the pivot"
)]
pub trait CannotRefuse {}

impl CannotRefuse for Infallible {}

/// Outputs of steps, by their names.
#[doc(hidden)]
pub type Outputs = BTreeMap<&'static str, Data>;

/// A tuple of steps, read as the tuple of their outputs.
pub trait Needs<In: SagaInput>: Send + Sync + 'static {
    /// The outputs.
    type Outputs: Send;

    /// The names of the steps.
    fn names() -> Vec<&'static str>;

    /// Reads the outputs.
    ///
    /// # Errors
    ///
    /// One is not there, or cannot be read.
    fn read(outputs: &Outputs) -> Result<Self::Outputs, BoxError>;
}

fn output<T: DeserializeOwned>(outputs: &Outputs, step: &str) -> Result<T, BoxError> {
    let output = outputs.get(step).ok_or_else(|| format!("step {step:?} has left no output"))?;
    output.read().map_err(|error| format!("the output of step {step:?} cannot be read: {error}").into())
}

macro_rules! needs { ($(($($step:ident)*))+) => { $(
    impl<In: SagaInput, $($step: Step<In>),*> Needs<In> for ($($step,)*) {
        type Outputs = ($($step::Output,)*);

        fn names() -> Vec<&'static str> {
            vec![$($step::NAME),*]
        }

        fn read(outputs: &Outputs) -> Result<Self::Outputs, BoxError> {
            Ok(($(output::<$step::Output>(outputs, $step::NAME)?,)*))
        }
    }
)+ } }
needs! { (A) (A B) (A B C) (A B C D) }

impl<In: SagaInput> Needs<In> for () {
    type Outputs = ();

    fn names() -> Vec<&'static str> {
        Vec::new()
    }

    fn read(_: &Outputs) -> Result<(), BoxError> {
        Ok(())
    }
}

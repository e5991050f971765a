//! A branch of a TCC: what it reserves, and how that is confirmed or cancelled.

use std::fmt::Display;
use std::time::Duration;

use es_core::BoxError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::saga::{Cx, Place, Ran, Retry, SagaInput, StepError};

/// A branch of a TCC with this input: a participant that can reserve something, and later use or release it.
///
/// All three are called again until they have an answer, so each has to act once. Where it lives says how:
///
/// | place | what makes it act once |
/// | --- | --- |
/// | [`Journal`](crate::saga::Journal) | the record of it is in the same commit |
/// | [`Guarded`](crate::saga::Guarded) | a guard row in the participant's database, in the same commit. A cancel that comes first bars the reservation; one that comes while it runs waits for it; a reservation that comes late is refused |
/// | [`Remote`](crate::saga::Remote) | a key, which whoever is called has to remember: [`Call::key`](crate::saga::Call::key), and [`Call::step_key`](crate::saga::Call::step_key) for the reservation that a confirm or cancel is of. A cancel of a key that it does not know is answered with yes, and the key never reserves after that |
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a branch of TCCs with the input `{In}`",
    note = "write `impl Tcc<{In}> for {Self}`, or give the TCC the input that its branches have"
)]
pub trait Tcc<In: SagaInput>: Send + Sync + 'static {
    /// Its stored name.
    const NAME: &'static str;
    /// What it has reserved, for whoever confirms or cancels it.
    type Held: Serialize + DeserializeOwned + Send + 'static;
    /// What it says no with.
    type Refusal: Display + Send;
    /// Where it lives: [`Staged`](crate::saga::Staged), [`Journal`](crate::saga::Journal), [`Guarded`](crate::saga::Guarded) or
    /// [`Remote`](crate::saga::Remote).
    type Place: Place;

    /// Checks and reserves, so that neither confirm nor cancel can be refused. Nobody else may use what is reserved, and it
    /// stays reserved until one of the two comes: whoever lets go of it by itself makes the confirm fail, and that waits for a
    /// person once others are confirmed.
    fn reserve(
        &self,
        cx: Cx<'_, In>,
        at: &mut <Self::Place as Place>::At,
    ) -> impl Future<Output = Result<Self::Held, StepError<Self::Refusal>>> + Send;

    /// Uses what is reserved. Every branch has reserved by then.
    fn confirm(
        &self,
        cx: Cx<'_, In>,
        held: Self::Held,
        at: &mut <Self::Place as Place>::At,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Releases what is reserved. With [`Ran::Maybe`] it may have reserved, or may yet, if nothing bars that.
    fn cancel(
        &self,
        cx: Cx<'_, In>,
        held: Ran<Self::Held>,
        at: &mut <Self::Place as Place>::At,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// How it is tried: as a step before the pivot of a saga while it reserves, and after that as what has to succeed.
    fn retry(&self) -> Retry {
        Retry::default()
    }

    /// How long a call may take: 30 seconds, unless it says otherwise.
    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Who is called, as in [`Step::destination`](crate::saga::Step::destination).
    fn destination(&self) -> Option<&str> {
        None
    }

    /// Whether a refusal is one of all calls under the key, as in [`Step::refuses_for_good`](crate::saga::Step::refuses_for_good).
    /// Otherwise the refusal of a repetition is followed by a cancel.
    fn refuses_for_good(&self) -> bool {
        <Self::Place as Place>::REFUSES_FOR_GOOD
    }
}

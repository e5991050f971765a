//! Participants without their types.

use async_trait::async_trait;

use super::machine::{Does, PartyShape};
use super::participant::{ThreePhase, Txn};
use crate::data::Data;
use crate::saga::{SagaInput, StepError};
use crate::transaction::{Answer, OwnFault};

/// A participant whose type is known to itself only.
#[async_trait]
pub(super) trait DynParty<In>: Send + Sync {
    /// What the protocol knows of it.
    fn shape(&self) -> PartyShape;

    /// Makes a call.
    async fn call(&self, does: Does, txn: Txn<'_, In>) -> Answer;
}

/// A participant, as it is written.
pub(super) struct Typed<P>(pub(super) P);

#[async_trait]
impl<In: SagaInput, P: ThreePhase<In>> DynParty<In> for Typed<P> {
    fn shape(&self) -> PartyShape {
        let Self(party) = self;
        PartyShape {
            name: party.name().to_owned(),
            retry: party.retry(),
            limit: party.limit(),
            destination: party.destination().map(str::to_owned),
        }
    }

    async fn call(&self, does: Does, txn: Txn<'_, In>) -> Answer {
        let Self(party) = self;
        let told = match does {
            Does::CanCommit(_) => party.can_commit(txn).await,
            Does::PreCommit(_) => party.pre_commit(txn).await,
            Does::DoCommit(_) => party.do_commit(txn).await.map_err(StepError::Retry),
            Does::Abort(_) => party.abort(txn).await.map_err(StepError::Retry),
            Does::Decide(_) => {
                let mistake = "a decision was asked of a participant: a mistake of the engine";
                return Answer::Failed(OwnFault::boxed(mistake));
            }
        };
        match told {
            Ok(()) => Answer::Done(Data::null()),
            Err(StepError::Refused(why)) => Answer::Refused(why),
            Err(StepError::Retry(error)) => Answer::Failed(error),
        }
    }
}

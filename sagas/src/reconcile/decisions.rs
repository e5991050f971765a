//! Decisions across databases against what is prepared and committed there.

use es_core::Backend;
use es_core::cluster::StateStore;
use es_core::limits::LimitError;
use futures::StreamExt as _;

use super::run::{ReconcileError, Reconciliation};
use crate::two_phase::TwoPhase;

/// Transactions across databases: left what was decided, right what is prepared or committed at the participants. What recovery
/// is at is pending. Its name is `two-phase`.
///
/// A participant that cannot be asked is an error, and the run comes to no end: what is there is not known. Branches that are
/// not on the list of what is not done, and not prepared, are not asked for: they were ended, as was decided.
///
/// # Errors
///
/// None that can be met: its name is good.
pub fn decisions<B: Backend>(
    store: impl StateStore,
    two_phase: &TwoPhase<B>,
) -> Result<Reconciliation<String, String>, LimitError> {
    let two_phase = two_phase.clone();
    Reconciliation::of_pairs("two-phase", store, move || {
        two_phase.audited().map(|pair| pair.map_err(|error| ReconcileError::Read(error.into()))).boxed()
    })
}

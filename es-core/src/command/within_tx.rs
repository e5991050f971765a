//! What the events of a command meet when they are staged in the caller's own transaction.

use std::sync::Arc;

use async_trait::async_trait;

use crate::store::{Append, CommitError};

/// Adds to a transaction of type `T` what belongs into the commit of the events.
#[async_trait]
pub(crate) trait OnStage<T>: Send + Sync {
    /// Runs before the events are staged.
    ///
    /// # Errors
    ///
    /// [`CommitError`]: then the events are not staged.
    async fn on_stage(&self, tx: &mut T, appends: &[Append]) -> Result<(), CommitError>;
}

/// Among the app's services, where it is found by the type of the transaction.
pub(crate) struct WithinTx<T>(pub(crate) Arc<dyn OnStage<T>>);

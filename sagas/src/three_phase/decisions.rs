//! What was decided about a transaction: a row of the journal that is inserted once, and never changed.

use async_trait::async_trait;
use es_core::limits::LimitError;
use es_core::store::keys::Key;
use es_core::store::{RowStore, RowWrite, StoreError, Table, write_rows};
use es_core::{Backend, BoxError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::two_phase::Decision;

/// How often it is looked at what another one has inserted.
const TRIES: usize = 16;

/// Where transactions are decided: each once.
///
/// Who coordinates a transaction and all who take part in it have one of these in common: that of the store which coordinates
/// it. Nothing of an id says which store that is, and a decision about a transaction of another store is inserted as any.
///
/// [`StoredDecisions`] is the one that there is, in the journal. A participant that does not reach the journal itself asks
/// a program that does, and implements this by that call.
///
/// ```
/// use std::sync::Arc;
///
/// use sagas::es_core::BoxError;
/// use sagas::three_phase::{Decision, Decisions};
/// use uuid::Uuid;
///
/// /// Tells of each decision that stands.
/// struct Told(Arc<dyn Decisions>);
///
/// #[async_trait::async_trait]
/// impl Decisions for Told {
///     async fn decide(&self, txn: Uuid, asked: Decision) -> Result<Decision, BoxError> {
///         let stands = self.0.decide(txn, asked).await?;
///         println!("{txn}: {asked:?} was asked for, {stands:?} stands");
///         Ok(stands)
///     }
/// }
/// ```
#[async_trait]
pub trait Decisions: Send + Sync + 'static {
    /// Tries to insert a decision. Gives the one that stands: this one, or one that was inserted before.
    ///
    /// # Errors
    ///
    /// The journal cannot be reached, say. Then it may have been inserted, and nothing is known: whoever asks is in doubt,
    /// and asks again.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was inserted.
    async fn decide(&self, txn: Uuid, asked: Decision) -> Result<Decision, BoxError>;
}

/// Decisions in the store that the coordinator's app runs on.
#[derive(Clone, Debug)]
pub struct StoredDecisions<B> {
    backend: B,
    rows: Rows,
}

impl<B: Backend> StoredDecisions<B> {
    /// Those in this store.
    ///
    /// # Errors
    ///
    /// None that is known: the name of its table is one.
    pub fn on(backend: B) -> Result<Self, LimitError> {
        Ok(Self { backend, rows: Rows::new()? })
    }

    /// What was decided, if anything was.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn decided(&self, txn: Uuid) -> Result<Option<Decision>, StoreError> {
        self.rows.decided(&self.backend, txn).await
    }
}

#[async_trait]
impl<B: Backend> Decisions for StoredDecisions<B> {
    async fn decide(&self, txn: Uuid, asked: Decision) -> Result<Decision, BoxError> {
        for _ in 0..TRIES {
            // Whoever loses the insert reads the winner's in a statement behind it: in the same it would read nothing.
            if let Some(decision) = self.decided(txn).await? {
                return Ok(decision);
            }
            if write_rows(&self.backend, vec![self.rows.insert(txn, asked)?]).await?.is_yes() {
                return Ok(asked);
            }
        }
        let others = std::io::Error::other("others decide at the same time");
        Err(StoreError::transient("deciding", others).into())
    }
}

/// What was decided. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Decided {
    decision: Decision,
}

/// `three-phase.decisions`: by transaction, a [`Decided`].
#[derive(Clone, Debug)]
pub(super) struct Rows(Table<Decided>);

impl Rows {
    pub(super) fn new() -> Result<Self, LimitError> {
        Ok(Self(Table::new("three-phase.decisions")?))
    }

    pub(super) async fn decided(
        &self,
        rows: &dyn RowStore,
        txn: Uuid,
    ) -> Result<Option<Decision>, StoreError> {
        let row = self.0.get(rows, &key(txn)?).await?;
        Ok(row.map(|row| row.value.decision))
    }

    pub(super) fn insert(&self, txn: Uuid, decision: Decision) -> Result<RowWrite, StoreError> {
        self.0.insert(key(txn)?, Decided { decision })
    }
}

fn key(txn: Uuid) -> Result<String, StoreError> {
    Ok(Key::default().id(txn).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::golden;

    golden! {
        decisions: Decided = ["three-phase-decision", "three-phase-decision-abort"];
    }

    #[test]
    fn a_key_is_that_of_its_transaction() {
        let txn = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        assert_eq!(key(txn).expect("a key"), "01900000000070008000000000000001");
    }
}

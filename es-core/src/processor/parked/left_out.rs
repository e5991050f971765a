//! What a processor has left out for good, for extensions that go over the log again.

use super::{Skips, reason, skips_between};
use crate::state::{Build, Generations};
use crate::store::{Position, RowStore, StoreError};

/// The events of a part of the log that a processor has left out for good: skipped, or discarded by an operator.
#[derive(Clone, Debug, Default)]
pub struct LeftOutForGood(Skips);

impl LeftOutForGood {
    /// Those of a processor behind a position and up to another one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn between(
        store: &dyn RowStore,
        processor: &str,
        after: Position,
        through: Position,
    ) -> Result<Self, StoreError> {
        let row = Generations::read(store, processor).await?;
        let generation = row.map(|row| row.value).unwrap_or_default().current;
        let build = Build { processor: processor.into(), generation };
        Ok(Self(skips_between(store, &build, after, through).await?))
    }

    /// Whether the event at a position is left out for a key.
    #[must_use]
    pub fn has(&self, position: Position, key: &str) -> bool {
        reason(&self.0, position, key).is_some()
    }
}

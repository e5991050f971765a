//! What a processor has left out for good, and what it handles, for extensions that go over the log again.

use super::{Skips, reason, skips_between};
use crate::processor::worker::{covers, made_by};
use crate::projection::Code;
use crate::state::{Build, CodeRecord, Generations};
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
        let build = current(store, processor).await?;
        Ok(Self(skips_between(store, &build, after, through).await?))
    }

    /// Whether the event at a position is left out for a key.
    #[must_use]
    pub fn has(&self, position: Position, key: &str) -> bool {
        reason(&self.0, position, key).is_some()
    }
}

/// Whether a code handles all that the one does which makes a processor: every type of events, up to its newest schema. If not,
/// a newer program runs the processor, and has handled events that this one cannot tell from those of others. Of a processor
/// that never ran it is true.
///
/// # Errors
///
/// [`StoreError`] if the store cannot be read.
pub async fn handles_all(store: &dyn RowStore, processor: &str, code: &Code) -> Result<bool, StoreError> {
    let build = current(store, processor).await?;
    Ok(covers(&CodeRecord::of(code), &made_by(store, &build).await?.value))
}

async fn current(store: &dyn RowStore, processor: &str) -> Result<Build, StoreError> {
    let row = Generations::read(store, processor).await?;
    let generation = row.map(|row| row.value).unwrap_or_default().current;
    Ok(Build { processor: processor.into(), generation })
}

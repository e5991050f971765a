//! Rows of state that cannot be read: they are of a newer version, or damaged.
//!
//! What was asked there is left alone, and everything else goes on. It is shown until the row has gone.

use serde::de::DeserializeOwned;

use super::run::Worker;
use crate::processor::status::ProcessorState;
use crate::store::{Row, StoredRow, Table};

impl Worker {
    /// The rows of a table that can be read.
    pub(super) fn readable<T: DeserializeOwned>(
        &mut self,
        table: &Table<T>,
        stored: impl IntoIterator<Item = StoredRow>,
    ) -> Vec<Row<T>> {
        let (mut readable, mut unreadable) = (Vec::new(), None);
        for row in stored {
            match table.decode(row) {
                Ok(row) => readable.push(row),
                Err(error) => unreadable = Some(crate::chain(&error)),
            }
        }
        let before = self.unreadable.remove(table.name());
        let is_known = before.is_some();
        if let Some(error) = unreadable {
            if !is_known {
                let (build, slices) = (&self.context.build, self.share.slices);
                tracing::warn!(%build, %slices, error, "what is asked there is left alone");
            }
            let since = match before {
                Some(ProcessorState::Failing { since, .. }) => since,
                _ => self.context.now(),
            };
            let state = ProcessorState::Failing { since, attempts: 1, error };
            self.unreadable.insert(table.name().clone(), state);
        }
        if is_known || self.unreadable.contains_key(table.name()) {
            self.show(self.state());
        }
        readable
    }
}

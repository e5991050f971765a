//! Rows that an operator asked to be rebuilt.

use std::collections::BTreeSet;

use super::failure::StepError;
use super::fold::{Stretch, fold_between};
use super::run::Worker;
use super::undecoded;
use crate::processor::kinds::admission::Admission;
use crate::processor::parked;
use crate::state::{Afresh, afresh};
use crate::store::{Position, Row, StoreError};

/// Events that are read together.
const PAGE: usize = 5_000;

impl Worker {
    /// Rebuilds rows that an operator asked for: from the log up to where the range is, in one commit.
    pub(super) async fn rebuild_keys(&mut self) -> Result<(), StepError> {
        let (table, slices) = (afresh(&self.context.build), self.share.slices);
        let stored = table.stored(self.context.backend()).await?.into_iter();
        // One that cannot be read stops nothing but itself.
        let own = stored.filter(|row| slices.has(&row.key)).filter_map(|row| table.decode(row).ok());
        let asked: Vec<_> = own.filter(|row| row.value.failed.is_none()).collect();
        if asked.is_empty() {
            return Ok(());
        }
        self.flush_folded().await?;
        // What was parked since it was asked for would be handled twice: now, and when it is retried.
        let (parked, asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|row| self.open().parked.contains_key(&row.key));
        let refuse = |row: Row<Afresh>| {
            let failed =
                Some("it is parked: retry or discard it, then there is nothing to rebuild".to_owned());
            table.put(&Row { value: Afresh { failed }, ..row })
        };
        let refused = parked.into_iter().map(refuse).collect::<Result<Vec<_>, _>>()?;
        if !refused.is_empty() {
            self.flush_with(refused).await?;
        }
        if asked.is_empty() {
            return Ok(());
        }
        let keys: BTreeSet<String> = asked.iter().map(|row| row.key.clone()).collect();
        let Some(failed) = self.fold_keys(&keys).await? else { return Ok(()) };
        let answer = |row: &Row<Afresh>| match &failed {
            None => Ok(table.delete(row)),
            Some(error) => table.put(&Row { value: Afresh { failed: Some(error.clone()) }, ..row.clone() }),
        };
        self.flush_with(asked.iter().map(answer).collect::<Result<_, _>>()?).await
    }

    /// Folds some keys from the beginning, in memory. Gives why that failed, `Some(None)` if it did not; `None` if the
    /// worker is stopped: nothing is durable yet, and the next owner begins again.
    async fn fold_keys(&mut self, keys: &BTreeSet<String>) -> Result<Option<Option<String>>, StepError> {
        let context = self.context.clone();
        let all: Vec<String> = keys.iter().cloned().collect();
        let Some(rows) = self.session().rebuildable() else {
            return Ok(Some(Some("this kind of processor cannot rebuild rows".to_owned())));
        };
        rows.forget(&all).await?;
        let mut skips = parked::skips(context.backend(), &context.build).await?;
        // What could not be decoded is taken in by itself, once it can be.
        for (position, _) in undecoded::all(context.backend(), &context.build).await? {
            skips.insert((position, parked::ANY_KEY.to_owned()), String::new());
        }
        let (mut after, end) = (Position(0), self.share.progress.position);
        while after < end {
            if self.stop.is_cancelled() {
                self.open = None;
                return Ok(None);
            }
            let stretch = Stretch { filter: context.filter(), after, end, page: PAGE, replay: end };
            let mut admission = Admission::of_keys(keys, &skips);
            match fold_between(context.backend(), self.session(), stretch, &mut admission).await? {
                Ok(folded) => after = folded.through,
                Err(failure) => {
                    if !self.blames(&failure).await {
                        return Err(not_now("rebuilding rows", &failure));
                    }
                    // The rows stay as they are; the caller is told why.
                    self.renew();
                    return Ok(Some(Some(parked::cut(&crate::chain(&failure)))));
                }
            }
        }
        Ok(Some(None))
    }
}

/// The store takes no writes: it is asked again until it does.
fn not_now(what: &'static str, error: &(dyn std::error::Error + 'static)) -> StepError {
    StoreError::transient(what, std::io::Error::other(crate::chain(error))).into()
}

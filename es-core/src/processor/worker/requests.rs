//! What operators ask of a range: to retry or discard what is parked, and to rebuild rows.
//!
//! Done between two pages, by the owner of the range, each step in a commit with its checkpoint.

use std::collections::BTreeSet;

use super::failure::StepError;
use super::fold::{Stretch, fold_between};
use super::run::Worker;
use crate::processor::kinds::admission::{Admission, Failure};
use crate::processor::parked::{self, Parked};
use crate::state::{Afresh, Nothing, Request, Skipped, afresh};
use crate::store::{Position, Row, RowWrite, StoreError};

/// Events of a parked sequence that are looked up together.
const SEQUENCE: usize = 500;

impl Worker {
    /// Does what operators asked to be done with sequences of this range.
    pub(super) async fn requests(&mut self) -> Result<(), StepError> {
        let build = self.context.build.clone();
        // Of keys that are not parked any more.
        let mut late = Vec::new();
        for row in build.requests().stored(self.context.backend()).await? {
            if !self.share.slices.has(&row.key) {
                continue;
            }
            let request = match build.requests().decode(row) {
                Ok(request) => request,
                Err(error) => {
                    // It is of a newer version, or damaged: it stops nothing but itself.
                    tracing::warn!(%build, error = crate::chain(&error), "a request cannot be read, and is left alone");
                    continue;
                }
            };
            let done = build.requests().delete(&request);
            if !self.open().parked.contains_key(&request.key) {
                late.push(done);
                continue;
            }
            // Whatever was folded is flushed on its own: rows are written with the checkpoint that covers them, and a
            // sequence that fails takes nothing with it.
            self.flush_folded().await?;
            match &request.value {
                Request::Retry => self.retry(&request.key, done).await?,
                Request::Discard { reason } => self.discard(&request.key, reason, done).await?,
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        self.flush_folded().await?;
        self.flush_with(late).await
    }

    async fn flush_folded(&mut self) -> Result<(), StepError> {
        if self.open().seen > self.share.progress.position { self.flush().await } else { Ok(()) }
    }

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
        let skipped = parked::skipped(context.backend(), &context.build).await?.into_iter();
        let skips: BTreeSet<_> = skipped.map(|skip| (skip.position, skip.key)).collect();
        let (mut after, end) = (Position(0), self.share.progress.position);
        while after < end {
            if self.stop.is_cancelled() {
                self.open = None;
                return Ok(None);
            }
            let stretch = Stretch { filter: context.filter(), after, end, page: SEQUENCE * 10, replay: end };
            let mut admission = Admission::of_keys(keys, &skips);
            match fold_between(context.backend(), self.session(), stretch, &mut admission).await? {
                Ok(folded) => after = folded.through,
                Err(failure) => {
                    if !self.blames(&failure).await {
                        return Err(not_now("rebuilding rows", &failure));
                    }
                    // The rows stay as they are; the caller is told why.
                    self.open.as_mut().expect("it is open").session = context.open(self.share.slices);
                    return Ok(Some(Some(parked::cut(&crate::chain(&failure)))));
                }
            }
        }
        Ok(Some(None))
    }

    fn session(&mut self) -> &mut dyn crate::processor::Session {
        &mut *self.open.as_mut().expect("only asked while it is open").session
    }

    /// Rows together with the checkpoint, which stays where it is: so they are written only by the range's owner.
    async fn flush_with(&mut self, mut rows: Vec<RowWrite>) -> Result<(), StepError> {
        rows.push(self.context.shares.put(&self.share)?);
        self.session().flush(rows).await.map_err(StepError::Commit)?;
        self.share.rev += 1;
        self.show(self.state());
        Ok(())
    }

    /// Handles a sequence in order, until one of its events fails again.
    async fn retry(&mut self, key: &str, done: RowWrite) -> Result<(), StepError> {
        loop {
            let (context, sequence) = (self.context.clone(), self.open().parked[key].clone());
            let (backend, build) = (context.backend(), &context.build);
            let found = parked::positions(backend, build, &sequence, Position(0), SEQUENCE).await?;
            if found.is_empty() {
                // A count that was wrong: nothing waits, so the key continues.
                self.flush_with(vec![build.parked().delete(&sequence), done]).await?;
                self.emptied(key);
                return Ok(());
            }
            for (row, position) in found {
                // The next owner finds the request, and continues here.
                if self.stop.is_cancelled() || !self.retry_one(key, &row, position, &done).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Handles one event of a sequence. Whether there is more of it to handle.
    async fn retry_one(
        &mut self,
        key: &str,
        row: &Row<Nothing>,
        position: Position,
        done: &RowWrite,
    ) -> Result<bool, StepError> {
        let (context, mut sequence) = (self.context.clone(), self.open().parked[key].clone());
        let build = &context.build;
        let mut event = context.event_at(position).await?;
        let mut outcome = match &mut event {
            None => Err(format!("there is no event at {position} any more").into()),
            Some(event) => {
                event.replay = position <= self.share.progress.replay;
                let mut admission = Admission::of_key(key);
                self.session().fold(&[&*event], &mut admission).await.map_err(|failure| failure.source)
            }
        };
        sequence.value.events = sequence.value.events.saturating_sub(1);
        let left = sequence.value.events;
        if outcome.is_ok() {
            let mut rows = vec![build.parked_events().delete(row)];
            if left == 0 {
                // Emptied, and its key continues, in one commit.
                rows.extend([build.parked().delete(&sequence), done.clone()]);
            } else {
                rows.push(build.parked().put(&sequence)?);
            }
            outcome = match self.flush_with(rows).await {
                Err(StepError::Commit(error)) => Err(error.into()),
                flushed => Ok(flushed?),
            };
        }
        match outcome {
            Ok(()) if left == 0 => {
                self.emptied(key);
                Ok(false)
            }
            Ok(()) => {
                self.keep(sequence.written());
                Ok(true)
            }
            Err(source) => {
                let event = event.map(|event| event.name).unwrap_or_else(|| "".into());
                let failure = Failure { key: key.to_owned(), event, position, source };
                if !self.blames(&failure).await {
                    return Err(not_now("retrying a parked sequence", &failure));
                }
                sequence.value.events = left + 1;
                self.failed_again(sequence, failure, done).await?;
                Ok(false)
            }
        }
    }

    async fn failed_again(
        &mut self,
        mut sequence: Parked,
        Failure { position, event, source, .. }: Failure,
        done: &RowWrite,
    ) -> Result<(), StepError> {
        let value = &mut sequence.value;
        value.error = parked::cut(&crate::chain(&*source));
        value.attempts += 1;
        value.last_at = self.context.now();
        (value.position, value.event) = (position, event.to_string());
        // The session has seen a failure: it is dropped, and the error is written by a new one.
        self.open.as_mut().expect("it is open").session = self.context.open(self.share.slices);
        let row = self.context.build.parked().put(&sequence)?;
        self.flush_with(vec![row, done.clone()]).await?;
        self.keep(sequence.written());
        Ok(())
    }

    fn keep(&mut self, sequence: Parked) {
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        parked.insert(sequence.key.clone(), sequence);
    }

    /// Nothing of a key is parked any more.
    fn emptied(&mut self, key: &str) {
        self.open.as_mut().expect("it is open").parked.remove(key);
        self.show(self.state());
    }

    /// Leaves a sequence out for good.
    async fn discard(&mut self, key: &str, reason: &str, done: RowWrite) -> Result<(), StepError> {
        loop {
            let (context, mut sequence) = (self.context.clone(), self.open().parked[key].clone());
            let (build, at) = (&context.build, context.now());
            let found = parked::positions(context.backend(), build, &sequence, Position(0), SEQUENCE).await?;
            let mut rows = Vec::with_capacity(2 * found.len() + 2);
            for (row, position) in &found {
                let (key, reason) = (key.to_owned(), parked::cut(reason));
                rows.push(parked::skip(build, Skipped { position: *position, key, reason, at })?);
                rows.push(build.parked_events().delete(row));
            }
            sequence.value.events = sequence.value.events.saturating_sub(found.len() as u64);
            if found.len() < SEQUENCE {
                rows.extend([build.parked().delete(&sequence), done]);
                self.flush_with(rows).await?;
                self.emptied(key);
                return Ok(());
            }
            rows.push(build.parked().put(&sequence)?);
            self.flush_with(rows).await?;
            self.keep(sequence.written());
        }
    }
}

/// The store takes no writes: it is asked again until it does.
fn not_now(what: &'static str, error: &(dyn std::error::Error + 'static)) -> StepError {
    StoreError::transient(what, std::io::Error::other(crate::chain(error))).into()
}

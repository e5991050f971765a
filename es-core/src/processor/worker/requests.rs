//! What persons ask of a range: to retry or discard what is parked, and to build rows anew.
//!
//! Done between two pages, by the owner of the range, each step in a commit with its checkpoint.

use std::collections::BTreeSet;

use super::{SEQUENCE, Trip, Worker};
use crate::processor::build::Build;
use crate::processor::parked::{self, Request, Skipped};
use crate::processor::partial;
use crate::processor::work::Work;
use crate::store::{Position, RowWrite, StoreError};

impl Worker {
    /// Does what persons asked to be done with sequences of this range.
    pub(super) async fn requests(&mut self) -> Result<(), Trip> {
        let build = self.range.build.clone();
        for (key, rev, request) in parked::requests(&*self.engine.backend, &build).await? {
            if !self.range.slices.has(&key) {
                continue;
            }
            let done = RowWrite { table: build.requests(), key: key.clone(), rev, row: None };
            if !self.open().parked.contains_key(&key) {
                self.flush_with(vec![done]).await?;
                continue;
            }
            // Whatever else was folded is flushed on its own: a sequence that fails takes nothing with it.
            if self.open().seen > self.range.position {
                self.flush().await?;
            }
            match request {
                Request::Retry => self.retry(&build, &key, done).await?,
                Request::Discard { reason } => self.discard(&build, &key, &reason, done).await?,
            }
        }
        Ok(())
    }

    /// Builds rows anew that a person asked for: from the log up to where the range is, in one commit.
    pub(super) async fn afresh(&mut self) -> Result<(), Trip> {
        let (build, slices) = (self.range.build.clone(), self.range.slices);
        let asked = partial::asked(&*self.engine.backend, &build).await?;
        let own = |request: &partial::Asked| slices.has(&request.key) && request.failed.is_none();
        let asked: Vec<_> = asked.into_iter().filter(own).collect();
        if asked.is_empty() {
            return Ok(());
        }
        if self.open().seen > self.range.position {
            self.flush().await?;
        }
        let keys: BTreeSet<String> = asked.iter().map(|request| request.key.clone()).collect();
        let open = self.open.as_mut().expect("it is open");
        open.session.forget(&keys.iter().cloned().collect::<Vec<_>>()).await?;
        let (mut after, end) = (Position(0), self.range.position);
        while after < end {
            if self.stop.is_cancelled() {
                // Nothing is durable yet: whoever comes next begins again.
                self.open = None;
                return Ok(());
            }
            let mut page = self.engine.backend.read(self.engine.filter(), after, SEQUENCE * 10).await?;
            page.events.iter_mut().for_each(|event| event.replay = true);
            let events: Vec<_> = page.events.iter().filter(|event| event.place() <= end).collect();
            let open = self.open.as_mut().expect("it is open");
            let mut work = Work::of_keys(&keys);
            let folded = open.session.fold(&events, &mut work).await;
            if let Err(failure) = folded {
                if !self.engine.blames_the_event(&*failure.source).await {
                    return Err(Trip::Handler(failure));
                }
                // The rows stay as they are; whoever asked is told why.
                let error = parked::cut(&crate::chain(&failure));
                self.open.as_mut().expect("it is open").session = self.engine.open();
                return self.flush_with(asked.iter().map(|a| a.fail(&build, &error)).collect()).await;
            }
            after = page.through;
        }
        self.flush_with(asked.iter().map(|request| request.done(&build)).collect()).await
    }

    /// Rows beside the checkpoint, which stays where it is: so they are written only by the range's owner.
    async fn flush_with(&mut self, mut rows: Vec<RowWrite>) -> Result<(), Trip> {
        rows.push(self.range.write());
        let open = self.open.as_mut().expect("only flushed while it is open");
        open.session.flush(rows).await.map_err(Trip::Commit)?;
        self.range = self.range.clone().written();
        Ok(())
    }

    /// Handles a sequence in order, until one of its events fails again.
    async fn retry(&mut self, build: &Build, key: &str, done: RowWrite) -> Result<(), Trip> {
        loop {
            let kept = self.open().parked[key].clone();
            let backend = self.engine.backend.clone();
            let found = parked::positions(&*backend, build, key, &kept, Position(0), SEQUENCE).await?;
            if found.is_empty() {
                // A count that was wrong: nothing waits, so the key goes on.
                self.flush_with(vec![RowWrite { row: None, ..kept.write(build, key) }, done]).await?;
                self.open.as_mut().expect("it is open").parked.remove(key);
                self.show(self.state());
                return Ok(());
            }
            for (row, position) in found {
                // Whoever comes next finds the request, and goes on here.
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                let mut kept = self.open().parked[key].clone();
                let mut event = self.engine.event_at(position).await?;
                if let Some(event) = &mut event {
                    event.replay = position <= self.range.replay;
                }
                let outcome = match &event {
                    None => Err(format!("there is no event at {position} any more").into()),
                    Some(event) => {
                        let open = self.open.as_mut().expect("only asked while it is open");
                        let mut work = Work::of_key(key);
                        open.session.fold(&[event], &mut work).await.map_err(|failure| failure.source)
                    }
                };
                let left = kept.stored.events.saturating_sub(1);
                let outcome = match outcome {
                    Err(error) if !self.engine.blames_the_event(&*error).await => {
                        let failed = std::io::Error::other(crate::chain(&*error));
                        return Err(StoreError::transient("retrying a parked sequence", failed).into());
                    }
                    Err(error) => Err(error),
                    Ok(()) => {
                        let mut after = kept.clone();
                        after.stored.events = left;
                        let sequence = after.write(build, key);
                        let table = build.parked_events();
                        let mut rows = vec![RowWrite { table, key: row.key, rev: row.rev, row: None }];
                        if left == 0 {
                            // Emptied, and its key goes on, in one commit.
                            rows.push(RowWrite { row: None, ..sequence });
                            rows.push(done.clone());
                        } else {
                            rows.push(sequence);
                        }
                        match self.flush_with(rows).await {
                            Err(Trip::Commit(error)) if self.engine.blames_the_event(&error).await => {
                                Err(error.into())
                            }
                            flushed => Ok(flushed?),
                        }
                    }
                };
                if let Err(error) = outcome {
                    // The session has seen a failure: it is dropped, and the error is written by a new one.
                    kept.stored.error = parked::cut(&crate::chain(&*error));
                    kept.stored.attempts += 1;
                    kept.stored.last_at = self.engine.now();
                    kept.stored.position = position;
                    kept.stored.event = event.map(|event| event.name.to_string()).unwrap_or_default();
                    self.open.as_mut().expect("it is open").session = self.engine.open();
                    self.flush_with(vec![kept.write(build, key), done]).await?;
                    kept.rev += 1;
                    self.open.as_mut().expect("it is open").parked.insert(key.to_owned(), kept);
                    return Ok(());
                }
                kept.stored.events = left;
                kept.rev += 1;
                let open = self.open.as_mut().expect("it is open");
                if left == 0 {
                    open.parked.remove(key);
                    self.show(self.state());
                    return Ok(());
                }
                open.parked.insert(key.to_owned(), kept);
            }
        }
    }

    /// Leaves a sequence out for good.
    async fn discard(&mut self, build: &Build, key: &str, reason: &str, done: RowWrite) -> Result<(), Trip> {
        loop {
            let mut kept = self.open().parked[key].clone();
            let backend = self.engine.backend.clone();
            let found = parked::positions(&*backend, build, key, &kept, Position(0), SEQUENCE).await?;
            let now = self.engine.now();
            let mut rows = Vec::with_capacity(2 * found.len() + 2);
            for (row, position) in &found {
                let (key, reason) = (key.to_owned(), parked::cut(reason));
                rows.push(parked::skip(build, &Skipped { position: *position, key, reason, at: now }));
                let (key, rev) = (row.key.clone(), row.rev);
                rows.push(RowWrite { table: build.parked_events(), key, rev, row: None });
            }
            kept.stored.events = kept.stored.events.saturating_sub(found.len() as u64);
            let last = found.len() < SEQUENCE;
            let sequence = kept.write(build, key);
            if last {
                rows.extend([RowWrite { row: None, ..sequence }, done.clone()]);
            } else {
                rows.push(sequence);
            }
            self.flush_with(rows).await?;
            kept.rev += 1;
            let open = self.open.as_mut().expect("it is open");
            if last {
                open.parked.remove(key);
                self.show(self.state());
                return Ok(());
            }
            open.parked.insert(key.to_owned(), kept);
        }
    }
}

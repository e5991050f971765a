//! Queries are not switched to a build before it has left out what was discarded in the one that they read.

use std::time::Duration;

use tokio::time::Instant;

use super::protocol::BuildRows;
use crate::ErrorKind;
use crate::processor::{ProcessorError, parked};
use crate::state::{Build, Generations, Request, Skipped, afresh};
use crate::store::{Generation, Row, StoreError};

/// How long is waited for it before the build that is read is frozen.
const WAITS: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);
/// Rows that are read together.
const PAGE: usize = 500;

impl BuildRows {
    /// Waits until a build has left out what was discarded since it has passed it, and makes its workers look.
    pub(super) async fn leave_out_discarded(&self, to: Generation) -> Result<(), ProcessorError> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            // A store that fails here and there is asked again: there is time for that.
            match self.look_at_discards(to, &mut told).await {
                Ok(false) => return Ok(()),
                Ok(true) if begun.elapsed() >= WAITS => return Err(under_way().into()),
                Err(error) if error.kind() != ErrorKind::Transient || begun.elapsed() >= WAITS => {
                    return Err(error);
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Whether there is something to be left out. Its workers are told so once.
    async fn look_at_discards(&self, to: Generation, told: &mut bool) -> Result<bool, ProcessorError> {
        let lacks = self.lacks_discards(&self.read().await?, to).await?;
        if lacks && !*told {
            parked::ask(&*self.backend, &self.build(to), Vec::new()).await?;
            *told = true;
        }
        Ok(lacks)
    }

    /// While what is read is frozen: how often something had been asked of it, if nothing is left of what was discarded there.
    /// `None` if the build is not to leave that out.
    pub(super) async fn all_left_out(&self, to: Generation) -> Result<Option<u64>, ProcessorError> {
        let known = self.read().await?;
        if !honours(&known, to) {
            return Ok(None);
        }
        let current = self.build(known.current);
        // In this order: what is asked after this is found by the switch.
        let asked = parked::times_asked(&*self.backend, &current).await?;
        if self.is_discarding(&current).await? || self.lacks_discards(&known, to).await? {
            return Err(under_way().into());
        }
        Ok(Some(asked))
    }

    /// Whether an operator has asked for something to be discarded that is still there.
    async fn is_discarding(&self, build: &Build) -> Result<bool, StoreError> {
        let mut after = None::<String>;
        loop {
            let page = build.requests().page(&*self.backend, after.as_deref(), PAGE).await?;
            if page.iter().any(|row| matches!(row.value, Request::Discard { .. })) {
                return Ok(true);
            }
            after = page.last().map(|row| row.key.clone());
            if page.len() < PAGE {
                return Ok(false);
            }
        }
    }

    /// Whether a build has passed something that was discarded since.
    async fn lacks_discards(&self, known: &Generations, to: Generation) -> Result<bool, ProcessorError> {
        if !honours(known, to) {
            return Ok(false);
        }
        let (current, build) = (self.build(known.current), self.build(to));
        let (mut after, mut reached) = (None::<String>, None);
        loop {
            let page = current.skipped().page(&*self.backend, after.as_deref(), PAGE).await?;
            after = page.last().map(|row| row.key.clone());
            let ended = page.len() < PAGE;
            let mut discarded: Vec<Row<Skipped>> =
                page.into_iter().filter(|row| row.value.discarded).collect();
            if !discarded.is_empty() {
                let reached = match reached {
                    Some(reached) => reached,
                    None => *reached.insert(self.reached(&build).await?),
                };
                discarded.retain(|row| row.value.position <= reached);
                let keys: Vec<String> = discarded.into_iter().map(|row| row.key).collect();
                if self.backend.rows(build.skipped().name(), &keys).await?.iter().any(Option::is_none) {
                    return Ok(true);
                }
            }
            if ended {
                break;
            }
        }
        // Where nothing was discarded, no rows were asked for.
        if reached.is_none() { Ok(false) } else { self.is_rebuilding_rows(build).await }
    }

    /// Whether rows are still to be rebuilt. They are asked for in the commit that notes what they leave out.
    async fn is_rebuilding_rows(&self, build: Build) -> Result<bool, ProcessorError> {
        let asked = afresh(&build).all(&*self.backend).await?;
        let is_under_way = !asked.is_empty();
        match asked.into_iter().find_map(|row| Some((row.key, row.value.failed?))) {
            Some((key, error)) => Err(ProcessorError::RowFailed { build, key, error }),
            None => Ok(is_under_way),
        }
    }
}

fn honours(known: &Generations, to: Generation) -> bool {
    known.building.as_ref().is_some_and(|building| building.generation == to && building.honours_skips)
}

/// It is soon done: to be tried again.
pub(super) fn under_way() -> StoreError {
    let why = std::io::Error::other("events were discarded that it has handled, and is to leave out");
    StoreError::transient("switching queries to another build", why)
}

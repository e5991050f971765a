//! Queries are not switched to a build before it has left out what was discarded in the one that they read.

use std::time::Duration;

use tokio::time::Instant;

use super::protocol::BuildRows;
use crate::ErrorKind;
use crate::processor::{ProcessorError, parked};
use crate::state::{Afresh, Build, Generations, afresh, control, sortable};
use crate::store::{Generation, Position, Row, StoreError};

/// How long is waited for it before the build that is read is frozen.
const WAITS: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// What helps where nobody can say which event is to be left out, and for which key.
const REPAIR: &str = "it says that an event was left out, and for none of the keys that the event has: repair or delete it, or \
                      rebuild with `repeats_skips`, which leaves nothing out";

/// Up to where a build had left out all that was discarded.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftOut {
    /// How often something had been asked of the build that is read: nothing is discarded there before it is asked for.
    pub(super) asked: u64,
    reached: Position,
}

/// What a switch waits for.
enum Waits {
    /// An operator has asked for this sequence of the build that is read to be discarded.
    Discard(String),
    /// The build has passed something that was discarded since.
    Late,
    /// The same of a row that cannot be read: as long as no range has found out what it is of.
    Damaged(String),
    /// Rows are still to be rebuilt without it.
    Rows,
}

impl BuildRows {
    /// Waits until a build has left out what was discarded since it has passed it, and makes its workers look. `None` if it is
    /// not to leave that out.
    pub(super) async fn leave_out_discarded(
        &self,
        to: Generation,
    ) -> Result<Option<LeftOut>, ProcessorError> {
        let (begun, mut told) = (Instant::now(), false);
        loop {
            let is_over = begun.elapsed() >= WAITS;
            // A store that fails here and there is asked again: there is time for that.
            match self.look_at_discards(to, &mut told).await {
                Ok(Ok(left_out)) => return Ok(left_out),
                // How long that takes is up to the build that is read.
                Ok(Err(waits)) if is_over || matches!(waits, Waits::Discard(_)) => {
                    return Err(self.why(waits).await?.into());
                }
                Err(error) if is_over || error.kind() != ErrorKind::Transient => return Err(error),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// One look at it, after which its workers are told once. What they could not rebuild they try again.
    async fn look_at_discards(
        &self,
        to: Generation,
        told: &mut bool,
    ) -> Result<Result<Option<LeftOut>, Waits>, ProcessorError> {
        let (known, build) = (self.read().await?, self.build(to));
        if !honours(&known, to) {
            return Ok(Ok(None));
        }
        let found = self.left_out(&known, to, None).await;
        if *told
            || !matches!(
                found,
                Ok(Err(Waits::Late | Waits::Damaged(_) | Waits::Rows))
                    | Err(ProcessorError::RowFailed { .. })
            )
        {
            return Ok(found?.map(Some));
        }
        let failed = self.to_rebuild(&build).await?.into_iter().filter(|row| row.value.failed.is_some());
        let again = failed.map(|row| afresh(&build).put(&Row { value: Afresh::default(), ..row }));
        parked::ask(&*self.backend, &build, again.collect::<Result<_, _>>()?).await?;
        *told = true;
        Ok(Err(Waits::Late))
    }

    /// While what is read is frozen: the same, beyond what had been left out before.
    pub(super) async fn all_left_out(
        &self,
        to: Generation,
        before: Option<LeftOut>,
    ) -> Result<Option<u64>, ProcessorError> {
        let known = self.read().await?;
        if !honours(&known, to) {
            return Ok(None);
        }
        match self.left_out(&known, to, before).await? {
            Ok(left_out) => Ok(Some(left_out.asked)),
            Err(waits) => Err(self.why(waits).await?.into()),
        }
    }

    async fn left_out(
        &self,
        known: &Generations,
        to: Generation,
        before: Option<LeftOut>,
    ) -> Result<Result<LeftOut, Waits>, ProcessorError> {
        let (current, build) = (self.build(known.current), self.build(to));
        // In this order: what is asked after this is found by the switch.
        let asked = parked::times_asked(&*self.backend, &current).await?;
        let before = before.filter(|before| before.asked == asked);
        if before.is_none()
            && let Some(key) = parked::discarding(&*self.backend, &current).await?
        {
            return Ok(Err(Waits::Discard(key)));
        }
        let reached = self.reached(&build).await?;
        // What it has passed since it may have read before it was discarded.
        let after = before.map(|before| before.reached).unwrap_or_default();
        if let Some(lacks) = self.lacks_discards(&current, &build, after, reached).await? {
            return Ok(Err(lacks));
        }
        let rows = self.to_rebuild(&build).await?;
        let are_left = !rows.is_empty();
        if let Some((key, error)) = rows.into_iter().find_map(|row| Some((row.key, row.value.failed?))) {
            return Err(ProcessorError::RowFailed { build, key, error });
        }
        Ok(if are_left { Err(Waits::Rows) } else { Ok(LeftOut { asked, reached }) })
    }

    /// Whether a build has passed something in a part of the log that was discarded since: what a switch waits for then.
    async fn lacks_discards(
        &self,
        current: &Build,
        build: &Build,
        after: Position,
        reached: Position,
    ) -> Result<Option<Waits>, StoreError> {
        let mut last = sortable(Position(after.0.saturating_add(1)));
        loop {
            let (page, more) = parked::skipped_up_to(&*self.backend, current, &last, reached).await?;
            let Some(row) = page.last() else { return Ok(None) };
            last.clone_from(&row.key);
            let read = page.into_iter().map(|row| (row.key.clone(), current.skipped().decode(row)));
            let (keys, read): (Vec<_>, Vec<_>) =
                read.filter(|(_, row)| row.as_ref().map_or(true, |row| row.value.discarded)).unzip();
            let known = match keys.is_empty() {
                true => Vec::new(),
                false => self.backend.rows(build.skipped().name(), &keys).await?,
            };
            if let Some((row, _)) = read.into_iter().zip(known).find(|(_, known)| known.is_none()) {
                // One that cannot be read may have been discarded.
                return Ok(Some(row.map_or_else(|e| Waits::Damaged(crate::chain(&e)), |_| Waits::Late)));
            }
            if !more {
                return Ok(None);
            }
        }
    }

    /// The rows that are still to be rebuilt. They are asked for in the commit that notes what they leave out.
    async fn to_rebuild(&self, build: &Build) -> Result<Vec<Row<Afresh>>, StoreError> {
        afresh(build).all(&*self.backend).await
    }

    /// To be tried again.
    async fn why(&self, waits: Waits) -> Result<StoreError, StoreError> {
        let key = match waits {
            Waits::Discard(key) => key,
            Waits::Damaged(row) => return Ok(StoreError::Corrupt { what: format!("{row}: {REPAIR}") }),
            Waits::Late | Waits::Rows => return Ok(to_be_left_out()),
        };
        let control = control().get(&*self.backend, &self.name).await?;
        let paused = control.is_some_and(|row| row.value.paused.is_some());
        let paused = if paused { ", and the processor is paused: resume it first" } else { "" };
        Ok(not_yet(format!("{key:?} is to be discarded in the build that is read{paused}")))
    }
}

fn honours(known: &Generations, to: Generation) -> bool {
    known.building.as_ref().is_some_and(|building| building.generation == to && building.honours_skips)
}

fn to_be_left_out() -> StoreError {
    not_yet("events were discarded that it has handled, and is to leave out")
}

/// It is soon done: to be tried again.
pub(super) fn not_yet(why: impl Into<String>) -> StoreError {
    let why = std::io::Error::other(why.into());
    StoreError::transient("switching queries to another build", why)
}

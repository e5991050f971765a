//! Reading your own write: until a projection has handled it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::status::{ProcessorState, ProcessorStatus, RangeStatus};
use super::worker::is_passed;
use super::{Processor, ProcessorError, Readiness, parked};
use crate::ErrorKind;
use crate::cluster::Shares;
use crate::command::{Done, NamedDone};
use crate::slices::slice_of;
use crate::state::{Build, Checkpoint};
use crate::store::{Generation, Position, Row, StoreError};

/// What was written: the position of its last event, and how many events there were, if that is known. Then only the
/// slices of their keys are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The last event.
    pub position: Position,
    /// How many events, that one included, stand there in a row.
    pub events: Option<u64>,
}

impl From<Position> for Receipt {
    fn from(position: Position) -> Self {
        Self { position, events: None }
    }
}

impl From<&NamedDone> for Receipt {
    fn from(done: &NamedDone) -> Self {
        Self { position: done.position, events: Some(done.events as u64) }
    }
}

impl<E> From<&Done<E>> for Receipt {
    fn from(done: &Done<E>) -> Self {
        Self { position: done.position, events: Some(done.events.len() as u64) }
    }
}

/// A projection did not handle what was waited for.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It took too long. Ask again, or answer from what is there and say that it may be old.
    #[error("waiting for {processor}: {why}")]
    TimedOut {
        /// Which processor.
        processor: String,
        /// Where it is, with its last error if it has one.
        why: String,
    },
    /// A key of what was written is parked: it waits for an operator, not for time.
    #[error("key {key:?} of {processor} is parked: {error}")]
    Parked {
        /// Which processor.
        processor: String,
        /// The key.
        key: String,
        /// Why it is parked.
        error: String,
    },
    /// The processor does not run here.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WaitError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::TimedOut { .. } => ErrorKind::Transient,
            Self::Parked { .. } => ErrorKind::Blocked,
            Self::Processor(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// What is waited for.
enum Wanted {
    /// All slices, whatever was set aside there.
    Passed,
    /// All slices, and nothing of it is parked.
    Everything,
    /// The slices of some keys, and none of these is parked; of no key, all slices.
    Keys(BTreeSet<String>),
}

impl Wanted {
    /// `history`: the one that the store has. A worker that has not noticed it shows where it was in the one before.
    fn reached(&self, status: &ProcessorStatus, position: Position, history: u64) -> bool {
        let there = |slice: Option<u16>| {
            let mut ranges = status.ranges.iter().filter(|range| {
                slice.is_none_or(|slice| (range.slices.first..=range.slices.last).contains(&slice))
            });
            let mut any = false;
            let all = ranges.all(|range| {
                any = true;
                let is_current = range.history.is_none_or(|of| of == history);
                range.position >= position && range.state != ProcessorState::Starting && is_current
            });
            any && all
        };
        match self {
            Self::Keys(keys) if !keys.is_empty() => keys.iter().all(|key| there(Some(slice_of(key)))),
            _ => there(None),
        }
    }
}

impl Processor {
    /// Waits until what was written is handled, by whichever node works on it: until a query sees it. Of a position:
    /// until everything up to it is handled, and nothing of it is parked.
    ///
    /// Woken by progress on this node; progress of other nodes is looked up, ever less often up to five times a second.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if it was not handled within `limit`, or never will be without an operator.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves nothing: it only reads.
    pub async fn wait_for(
        &self,
        receipt: impl Into<Receipt> + Send,
        limit: Duration,
    ) -> Result<(), WaitError> {
        self.wait(receipt.into(), None, limit).await
    }

    /// Waits until everything up to a position is handled or set aside, by whichever node works on it.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`] if it did not get there within `limit`; [`WaitError::Store`].
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves nothing: it only reads.
    pub async fn reach(&self, position: Position, limit: Duration) -> Result<(), WaitError> {
        self.wait(position.into(), Some(Wanted::Passed), limit).await
    }

    async fn wait(
        &self,
        receipt: Receipt,
        mut wanted: Option<Wanted>,
        limit: Duration,
    ) -> Result<(), WaitError> {
        let arrived = async {
            let mut pause = Duration::from_millis(10);
            let mut looked = false;
            let mut readiness = self.handle.readiness.subscribe();
            loop {
                // Another build may have become the one that is read.
                let mut watch = self.watch();
                let status = watch.borrow_and_update().clone();
                let elsewhere = self.is_elsewhere(&status, receipt.position);
                let now = *readiness.borrow_and_update();
                // A build that lacks events will be replaced; whether it does shows with the first look.
                if matches!(now, Readiness::Incomplete | Readiness::Unseen) {
                    let _ready = readiness.changed().await;
                    continue;
                }
                match self.arrived(receipt, &status, &mut wanted, &mut looked).await {
                    Ok(false) => {}
                    Ok(true) => return Ok(()),
                    // A store that does not answer now may do so in time.
                    Err(WaitError::Store(error)) if error.kind() == ErrorKind::Transient => {}
                    Err(error) => return Err(error),
                }
                let pausing = tokio::time::sleep(if elsewhere { pause } else { Duration::from_secs(1) });
                tokio::select! {
                    () = pausing => pause = (pause * 2).min(Duration::from_millis(200)),
                    _ = watch.changed() => {}
                }
            }
        };
        match tokio::time::timeout(limit, arrived).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.late(receipt.position, limit)),
        }
    }

    /// The same, but time that runs out is no error: says whether what was written is there.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for`], except for [`WaitError::TimedOut`].
    pub async fn wait_or_stale(
        &self,
        receipt: impl Into<Receipt> + Send,
        limit: Duration,
    ) -> Result<bool, WaitError> {
        match self.wait_for(receipt, limit).await {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether what is waited for is there. Looks for whom to wait only once it is not, or might be parked.
    async fn arrived(
        &self,
        receipt: Receipt,
        status: &ProcessorStatus,
        wanted: &mut Option<Wanted>,
        looked: &mut bool,
    ) -> Result<bool, WaitError> {
        let history = self.node.backend.history();
        let elsewhere = self.is_elsewhere(status, Position(u64::MAX));
        // A range that fails from its beginning on has not read what is parked.
        let may_be_parked =
            status.parked > 0 || elsewhere || status.ranges.iter().any(|range| range.parked.is_none());
        if wanted.is_none() {
            if Wanted::Passed.reached(status, receipt.position, history) && !may_be_parked {
                return Ok(true);
            }
            *wanted = Some(self.wanted(receipt).await?);
        }
        let wanted = wanted.as_ref().expect("it was just found out");
        // What other nodes were seen at may be over: it has been reset since.
        if elsewhere && !*looked || !wanted.reached(status, receipt.position, history) {
            if elsewhere {
                *looked = self.look_up().await?;
            }
            let now = self.status();
            let reached = wanted.reached(&now, receipt.position, history);
            if !*looked || now.generation != status.generation || !reached {
                return Ok(false);
            }
        }
        if may_be_parked {
            self.not_parked(wanted, receipt.position, status).await?;
        }
        Ok(!self.is_passed(receipt).await?)
    }

    /// Whether it is an event that this program handles and the one that makes what queries read has passed.
    async fn is_passed(&self, receipt: Receipt) -> Result<bool, StoreError> {
        let Some(by) = self.handle.passed_by.borrow().clone() else { return Ok(false) };
        let n = receipt.events.map_or(receipt.position.0, |n| n.max(1));
        let after = Position(receipt.position.0.saturating_sub(n));
        is_passed(&*self.node.backend, &by, &self.runner.code(), after, receipt.position).await
    }

    /// Whether another node has to come as far as this.
    fn is_elsewhere(&self, status: &ProcessorStatus, position: Position) -> bool {
        let other = |range: &RangeStatus| range.owner != Some(self.node.node) && range.position < position;
        status.ranges.is_empty() || status.ranges.iter().any(other)
    }

    async fn wanted(&self, receipt: Receipt) -> Result<Wanted, StoreError> {
        // Of a command that wrote nothing, the position is that of its aggregate's last event.
        let Some(n) = receipt.events.map(|n| n.max(1)) else { return Ok(Wanted::Everything) };
        let mut after = Position(receipt.position.0.saturating_sub(n));
        let limit = usize::try_from(n).unwrap_or(usize::MAX);
        let mut keys = BTreeSet::new();
        while after < receipt.position {
            let page = self.node.backend.read(&self.runner.filter(), after, limit).await?;
            for event in page.events.iter().filter(|event| event.place() <= receipt.position) {
                match self.runner.keys(event) {
                    Ok(of_event) => keys.extend(of_event),
                    Err(_) => return Ok(Wanted::Everything),
                }
            }
            if !page.more {
                break;
            }
            after = page.through;
        }
        Ok(Wanted::Keys(keys))
    }

    /// Sees how far other nodes have come; `false` if they share it in another way than this one knows. Once for all who
    /// wait.
    async fn look_up(&self) -> Result<bool, StoreError> {
        let status = self.status();
        let (generation, known) = self.handle.looked.ask(self.look_at(&status)).await?;
        Ok(known && generation == status.generation)
    }

    async fn look_at(&self, status: &ProcessorStatus) -> Result<(Generation, bool), StoreError> {
        let build = self.build(status);
        let board = self.handle.board(status.generation);
        let shares = Shares::<Checkpoint>::checkpoints().of(&*self.node.backend, &build.to_string()).await?;
        let mut known = true;
        for share in shares.iter().filter(|share| share.owner != Some(self.node.node)) {
            let mut found = false;
            board.update(share.slices.first, |known| {
                found = known.slices == share.slices && known.owner == share.owner;
                if found {
                    known.position = share.progress.position;
                    known.rev = share.rev;
                }
            });
            known &= found;
        }
        if !known {
            self.cluster.wake();
        }
        Ok((status.generation, known))
    }

    async fn not_parked(
        &self,
        wanted: &Wanted,
        position: Position,
        status: &ProcessorStatus,
    ) -> Result<(), WaitError> {
        let (backend, build) = (&*self.node.backend, self.build(status));
        let found = match wanted {
            Wanted::Passed => None,
            Wanted::Everything => parked::first_up_to(backend, &build, position).await?,
            Wanted::Keys(keys) => {
                let keys: Vec<String> = keys.iter().cloned().collect();
                let rows = backend.rows(build.parked().name(), &keys).await?.into_iter().flatten();
                let rows = rows.map(|row| build.parked().decode(row)).collect::<Result<Vec<_>, _>>()?;
                parked::one_up_to(backend, &build, rows, position).await?
            }
        };
        match found {
            Some(Row { key, value, .. }) => {
                let (processor, error) = (self.name().to_owned(), value.error);
                Err(WaitError::Parked { processor, key, error })
            }
            None => Ok(()),
        }
    }

    fn build(&self, status: &ProcessorStatus) -> Build {
        Build { processor: self.handle.name.clone(), generation: status.generation }
    }

    fn late(&self, position: Position, limit: Duration) -> WaitError {
        let now = self.status();
        let late = || format!("it is at {} and did not reach {position} within {limit:?}", now.position);
        let why = match *self.handle.readiness.borrow() {
            Readiness::Incomplete => {
                "it handles more events than what is there, or finds its rows by other keys, and has not been rebuilt yet".to_owned()
            }
            _ => {
                let is_passed = self.handle.passed_by.borrow().is_some() && now.position >= position;
                let passed =
                    || "a program with other code makes what is there, and passes events that this one handles".to_owned();
                now.why_not().or_else(|| is_passed.then(passed)).unwrap_or_else(late)
            }
        };
        WaitError::TimedOut { processor: self.name().to_owned(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::status::Board;
    use crate::slices::Slices;

    #[test]
    fn where_a_range_was_in_another_history_is_no_place_in_this_one() {
        let build = Build::first("balance/1");
        let board =
            Board::new(&build, crate::Timestamp::UNIX_EPOCH, std::sync::Arc::new(crate::clock::SystemClock));
        let range = RangeStatus::new(Slices::ALL, None, Position(1_000), ProcessorState::Running, 0);
        let mut own = range.clone();
        own.history = Some(0);
        board.reshape(vec![own]);
        let reached = |history| Wanted::Passed.reached(&board.now(), Position(901), history);
        assert!(reached(0));
        assert!(!reached(1), "its worker has not noticed");
        board.reshape(vec![range]);
        assert!(reached(1), "one that works elsewhere is looked up");
    }
}

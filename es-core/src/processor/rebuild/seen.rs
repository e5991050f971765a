//! Where it is seen what a build does: on a node that runs its processor, or in the rows alone.

use std::sync::Arc;

use crate::clock::SystemClock;
use crate::cluster::{self, Cluster, Share, Shares};
use crate::processor::handle::HandleState;
use crate::processor::status::{Board, ProcessorState, ProcessorStatus, RangeStatus};
use crate::processor::worker::halted;
use crate::processor::{AnyBackend, ProcessorError};
use crate::state::{Build, Checkpoint, KeptAs, control};
use crate::store::StoreError;

/// From where builds are seen.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// On a node that runs the processor.
    Here { handle: Arc<HandleState>, cluster: Arc<Cluster> },
    /// By a tool without its code, which knows how the projection began.
    Stored { kept_as: Option<KeptAs> },
}

impl Seen {
    /// Something has changed: this node looks at once. Others hear of it by the rows.
    pub(super) fn wake(&self) {
        if let Self::Here { cluster, .. } = self {
            cluster.wake();
        }
    }

    /// What a build does.
    pub(super) async fn status(
        &self,
        backend: &dyn AnyBackend,
        build: &Build,
    ) -> Result<ProcessorStatus, StoreError> {
        match self {
            // Asked of the handle each time: a look from before the build began forgets its board.
            Self::Here { handle, .. } => Ok(handle.board(build.generation).now()),
            Self::Stored { .. } => stored(backend, build).await,
        }
    }

    /// That what a projection keeps can be made, and compared, from here.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotRebuildable`] if it takes a program with its code.
    pub(super) fn knows_tables(&self, processor: &str) -> Result<(), ProcessorError> {
        let why = match self {
            Self::Here { .. } | Self::Stored { kept_as: Some(KeptAs::Rows) } => return Ok(()),
            Self::Stored { kept_as: Some(KeptAs::Tables) } => {
                "has tables, which only a program with its code can make or compare: ask `rebuild_online` of one that runs it"
            }
            Self::Stored { kept_as: None } => {
                "began when it was not noted what it keeps, so only a program with its code can tell: ask `rebuild_online` \
                 of one that runs it"
            }
        };
        Err(ProcessorError::NotRebuildable { processor: processor.to_owned(), why })
    }
}

/// What a build does, as far as its rows say it.
async fn stored(backend: &dyn AnyBackend, build: &Build) -> Result<ProcessorStatus, StoreError> {
    let (now, alive) = (backend.now().await?, cluster::alive(backend).await?);
    let paused = control().get(backend, &build.processor).await?.and_then(|row| row.value.paused);
    let idle = paused.map_or(ProcessorState::Elsewhere, |since| ProcessorState::Paused { since });
    let range = |share: Share<Checkpoint>| {
        let owner = share.owner.filter(|owner| alive.contains_key(owner));
        let state = halted(&share).filter(|_| paused.is_none()).unwrap_or_else(|| idle.clone());
        RangeStatus::new(share.slices, owner, share.progress.position, state, share.rev)
    };
    let shares = Shares::<Checkpoint>::checkpoints().of(backend, &build.to_string()).await?;
    let board = Board::new(build, now, Arc::new(SystemClock));
    board.reshape(shares.into_iter().map(range).collect());
    Ok(board.now())
}

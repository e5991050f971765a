//! Setting a processor back: to the start, which empties what it keeps, or to another place.

use tokio::sync::oneshot;

use super::context::NodeContext;
use super::take_over::unhandled_from;
use crate::clock::Timestamp;
use crate::cluster::{self, Shares};
use crate::processor::kinds::runner::Runner;
use crate::processor::rebuild::{Change, finish_set_back, one_share};
use crate::processor::{AnyBackend, ProcessorError};
use crate::state::{Asked, Build, Checkpoint, Generations, InlineSet, SetBack, asked, generations};
use crate::store::{Position, Row, StoreError, write_rows};

/// Where a reset sets a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Everything goes and is rebuilt.
    Start,
    /// What was handled after this position is handled again, or what lies before it is left out.
    Position(Position),
    /// The position of the last event before this time.
    Time(Timestamp),
    /// Nothing that is in the log now is handled any more.
    Head,
}

impl Reset {
    async fn position(self, backend: &dyn AnyBackend) -> Result<Position, StoreError> {
        match self {
            Self::Start => Ok(Position(0)),
            Self::Position(position) => Ok(position.min(backend.head().await?)),
            Self::Time(time) => backend.position_at(time).await,
            Self::Head => backend.head().await,
        }
    }
}

/// What a handle asks the coordinator of a processor to do.
#[derive(Debug)]
pub(crate) struct ResetRequest {
    pub(crate) to: Reset,
    pub(crate) reply: oneshot::Sender<Result<(), ProcessorError>>,
}

/// Sets what queries read back to a position, when no worker of this node is at it. All slices or none; refused while
/// another node works on one.
pub(super) async fn reset(
    node: &NodeContext,
    runner: &dyn Runner,
    to: Reset,
    owner: Option<uuid::Uuid>,
) -> Result<(Build, Position), ProcessorError> {
    let (name, backend) = (runner.name(), &*node.backend);
    let not = |why| ProcessorError::NotRebuildable { processor: name.clone(), why };
    let tables = runner
        .keeps()
        .tables()
        .ok_or_else(|| not("has side effects: it is not reset, for it would repeat them"))?;
    if InlineSet::read(backend).await?.names.contains(&name) {
        return Err(ProcessorError::Inline { processor: name });
    }
    let target = to.position(backend).await?;
    if to != Reset::Start && !runner.execution().idempotent {
        return Err(not(
            "cannot be set there: its handlers would handle events twice or leave some out; declare it `idempotent` if \
             that does no harm, or reset it to the start",
        ));
    }
    let known = Generations::read(backend, &name).await?;
    let known = known.unwrap_or_else(|| Row::new(&name, Generations::default()));
    if known.value.freeze.until.is_some() {
        return Err(ProcessorError::Switching { processor: name });
    }
    let build = known.value.build(&name, known.value.current);
    let shares = Shares::<Checkpoint>::checkpoints();
    let all = shares.of(backend, &build.to_string()).await?;
    let alive = cluster::alive(backend).await?;
    let others = |owner: &uuid::Uuid| *owner != node.node && alive.contains_key(owner);
    if let Some(node) = all.iter().filter_map(|share| share.owner).find(others) {
        return Err(ProcessorError::HeldBy { processor: name, node });
    }
    let set_back = SetBack { generation: build.generation, to: (to != Reset::Start).then_some(target) };
    if let Some(before) = known.value.is_set_back(build.generation) {
        // A reset of before got no further.
        finish_set_back(backend, &tables, &build, owner).await?;
        if before == set_back {
            return Ok((build, target));
        }
        return Box::pin(reset(node, runner, to, owner)).await;
    }
    let Ok(value) = known.value.apply(Change::SetBack(set_back)) else {
        return Err(ProcessorError::Switching { processor: name });
    };
    let mut rows = one_share(&build, &all, Checkpoint::new(target, backend.head().await?), owner)?;
    rows.extend(unhandled_from(backend, &build, target).await?);
    // The row of the builds is written too: a switch since it was read finds it changed, or has changed it.
    rows.push(generations().put(&Row { value, ..known })?);
    // Whoever waits for what was asked of it is told.
    rows.push(asked().put(&Asked::set_backs(backend, &build).await?)?);
    if !write_rows(backend, rows).await?.is_yes() {
        let moved = std::io::Error::other("it has changed hands since");
        return Err(StoreError::transient("resetting a processor", moved).into());
    }
    finish_set_back(backend, &tables, &build, owner).await?;
    Ok((build, target))
}

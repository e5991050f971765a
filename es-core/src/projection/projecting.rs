//! Calls of the handlers of SQL projections.

use std::time::Duration;

use super::Project;
use crate::BoxError;
use crate::guarded::call;
use crate::store::{Commit, RecordedEvent, Transaction};

const STAGES: &str = "a handler of a projection staged a command, an event or a row of the framework in its transaction: \
                      it would happen again whenever the projection is rebuilt. Send from a reactor or a process";

/// Calls the handler of an event. What it may change are its own tables.
pub(crate) async fn projected<T: Transaction, P: Project<T>>(
    limit: Duration,
    projection: &P,
    event: &RecordedEvent,
    tx: &mut T,
) -> Result<(), BoxError> {
    let before = extent(tx.staged());
    call(limit, event, projection.project(event, tx)).await?;
    if extent(tx.staged()) == before { Ok(()) } else { Err(STAGES.into()) }
}

/// How much is staged. Nothing that is staged is taken back.
fn extent(staged: &Commit) -> [usize; 5] {
    let Commit { appends, checks, condition, outcomes, rows, inline: _, explain: _, attempt: _ } = staged;
    [appends.len(), checks.len(), usize::from(condition.is_some()), outcomes.len(), rows.len()]
}

//! Backfill: a program handles events that a build has passed without it, or finds rows by other keys, so the projection is
//! rebuilt by itself.

use std::sync::Arc;

use super::prepare::unmade;
use super::protocol::BuildRows;
use crate::processor::ProcessorError;
use crate::processor::kinds::runner::Runner;
use crate::processor::worker::codes::is_older;
use crate::processor::worker::{NodeContext, made_by};
use crate::state::{Building, CodeRecord, Generations};
use crate::store::{Generation, StoreError};

/// What is done when a program handles events that its projection has passed without it, for they were appended before it
/// handled them; or when it finds the rows of such events by other keys than they are under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backfill {
    /// The projection is rebuilt by itself, next to what queries read, and queries are switched to it once it has caught up.
    /// Until then the program is not [ready](crate::App::ready), and [`wait_for`](crate::App::wait_for) waits.
    /// An inline projection is not rebuilt in place: for one, this is [`Refuse`](Self::Refuse).
    #[default]
    Online,
    /// The program does not start, and says what to do.
    Refuse,
    /// The program goes on from here: the events of before are left out, or their rows stay under their keys, which is said
    /// in the log.
    Skip,
}

/// Begins to rebuild a projection for this program's code, unless that is under way. Gives what is in the way, in words.
pub(crate) async fn begin_backfill(
    node: &NodeContext,
    runner: &Arc<dyn Runner>,
) -> Result<Result<(), String>, StoreError> {
    let Some(builds) = BuildRows::of(node, &**runner) else { return Ok(Ok(())) };
    match begin(&builds).await {
        Ok(in_the_way) => Ok(in_the_way.map_or(Ok(()), |why| Err(why.to_owned()))),
        Err(ProcessorError::Store(error)) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// What is in the way of that, in words; nothing is changed.
pub(crate) async fn backfill_obstacle(
    node: &NodeContext,
    runner: &Arc<dyn Runner>,
) -> Result<Option<String>, StoreError> {
    let Some(builds) = BuildRows::of(node, &**runner) else { return Ok(None) };
    let obstacle = async {
        let known = builds.read().await?;
        let of_operator = known.building.as_ref().is_some_and(|building| !building.by_itself);
        Ok(match known {
            Generations { building: Some(_), .. } if of_operator => {
                is_older_build(&builds, &known).await?.then_some(OPERATOR)
            }
            Generations { building: None, previous: Some(_), previous_goes: false, .. } => Some(KEPT),
            Generations { building: None, last, .. } => {
                return Ok(unmade(builds.backend.check(&builds.tables, last + 1).await)?);
            }
            Generations { .. } => None,
        }
        .map(str::to_owned))
    };
    match obstacle.await {
        Ok(obstacle) => Ok(obstacle),
        // It is about to be retired, and has one build.
        Err(ProcessorError::Inline { .. }) => Ok(None),
        Err(ProcessorError::Store(error)) => Err(error),
        Err(error) => Ok(Some(error.to_string())),
    }
}

const OPERATOR: &str = "an older program is rebuilding it: switch to that build, or abort it";
const KEPT: &str = "an older build is kept to go back to: drop it (`drop_previous`)";

/// Whether what is being built is made by an older program than this one.
async fn is_older_build(builds: &BuildRows, known: &Generations) -> Result<bool, StoreError> {
    let Some(building) = &known.building else { return Ok(false) };
    let made_by = made_by(&*builds.backend, &builds.build(building.generation)).await?.value;
    let (Some(code), Some(made_by)) = (&builds.code, made_by.known()) else { return Ok(false) };
    let own = CodeRecord::of(code);
    // What an operator has begun is left to be switched to, so it must be what this program needs.
    let lacks = !made_by.handles_all_of(code) || !made_by.rekeyed(code).is_empty();
    Ok(is_older(made_by, &own) || !building.by_itself && lacks && !is_older(&own, made_by))
}

async fn begin(builds: &BuildRows) -> Result<Option<&'static str>, ProcessorError> {
    loop {
        let known = builds.read().await?;
        match &known {
            Generations { building: Some(building), .. } => {
                if !is_older_build(builds, &known).await? {
                    return Ok(None);
                }
                if !building.by_itself {
                    return Ok(Some(OPERATOR));
                }
                match builds.remove(building.generation).await {
                    // Queries were just switched to it: that is looked at again.
                    Err(ProcessorError::InUse { .. }) => {}
                    removed => removed?,
                }
            }
            Generations { previous: Some(previous), previous_goes: true, .. } => {
                builds.remove(*previous).await?;
            }
            Generations { previous: Some(_), .. } => {
                return Ok(Some(KEPT));
            }
            _ => {
                let building = |head, since| Building {
                    lenient: true,
                    honours_skips: true,
                    by_itself: true,
                    ..Building::new(head, since)
                };
                builds.begin(building).await?;
            }
        }
    }
}

/// Switches queries to a build that has caught up.
pub(crate) async fn switch_to_build(
    node: &NodeContext,
    runner: &dyn Runner,
    to: Generation,
) -> Result<(), ProcessorError> {
    let Some(builds) = BuildRows::of(node, runner) else { return Ok(()) };
    builds.switch_to(to).await?;
    tracing::info!(build = %builds.build(to), "is what queries read from here on: it has all events");
    Ok(())
}

/// Removes a build that was replaced.
pub(crate) async fn remove_build(
    node: &NodeContext,
    runner: &dyn Runner,
    build: Generation,
) -> Result<(), ProcessorError> {
    let Some(builds) = BuildRows::of(node, runner) else { return Ok(()) };
    builds.remove(build).await
}

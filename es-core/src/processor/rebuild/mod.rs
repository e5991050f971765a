//! Rebuilding without downtime, and what there is to say about builds.

mod backfill;
mod compare;
mod discards;
#[cfg(test)]
mod explored;
mod generations;
mod handle;
mod keys;
mod prepare;
mod protocol;
mod versions;

pub use self::backfill::Backfill;
pub(crate) use self::backfill::{backfill_obstacle, begin_backfill, remove_build, switch_to_build};
pub use self::handle::{Progress, Rebuild, RebuildOptions, RebuildReport};
pub(crate) use self::prepare::{point, prepare};
pub(crate) use self::protocol::expire;
pub use self::versions::VersionStatus;

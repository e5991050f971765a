//! Rebuilding without downtime, and what there is to say about builds.

mod backfill;
mod compare;
mod empty;
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
#[cfg(feature = "testing")]
pub(crate) use self::empty::PORTION;
pub(crate) use self::empty::{begin_empty, empty, one_share};
pub(crate) use self::generations::Change;
pub use self::handle::{Progress, Rebuild, RebuildOptions, RebuildReport};
pub(crate) use self::prepare::{point, prepare};
pub(crate) use self::protocol::expire;
pub use self::versions::VersionStatus;

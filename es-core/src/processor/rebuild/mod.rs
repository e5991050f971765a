//! Rebuilding without downtime, and what there is to say about builds.

mod backfill;
mod compare;
mod discards;
#[cfg(test)]
mod explored;
mod generations;
mod handle;
mod keys;
mod portions;
mod prepare;
mod protocol;
mod rebuilds;
mod seen;
mod set_back;
mod versions;

pub use self::backfill::Backfill;
pub(crate) use self::backfill::{backfill_obstacle, begin_backfill, remove_build, switch_to_build};
pub(crate) use self::generations::Change;
pub use self::handle::{Progress, Rebuild, RebuildOptions, RebuildReport};
#[cfg(feature = "testing")]
pub(crate) use self::portions::PORTION;
pub(crate) use self::portions::{Portions, empty, in_table};
pub(crate) use self::prepare::{is_of_its_kind, point, prepare, schema_obstacle};
pub(crate) use self::protocol::expire;
pub use self::rebuilds::RebuildStep;
pub(crate) use self::set_back::{finish_set_back, one_share};
pub use self::versions::VersionStatus;

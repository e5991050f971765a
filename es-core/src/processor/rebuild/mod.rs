//! Rebuilding without downtime, and what there is to say about builds.

mod compare;
#[cfg(test)]
mod explored;
mod generations;
mod handle;
mod keys;
mod prepare;
mod protocol;

pub use self::handle::{Progress, Rebuild, RebuildOptions, RebuildReport};
pub(crate) use self::prepare::{Seen, older_builds, point, prepare, settle_code};
pub(crate) use self::protocol::expire;

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
pub(crate) use self::prepare::{point, prepare};
pub(crate) use self::protocol::expire;

//! Rebuilding without downtime, and what there is to say about builds.

mod compare;
#[cfg(test)]
mod explored;
mod generations;
mod keys;
mod prepare;
mod protocol;
mod rebuild;

pub(crate) use self::prepare::{point, prepare};
pub(crate) use self::protocol::expire;
pub use self::rebuild::{Progress, Rebuild, RebuildOptions, RebuildReport};

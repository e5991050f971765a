//! Rebuilding without downtime, and what there is to say about builds.

mod compare;
#[cfg(test)]
mod explored;
mod generations;
mod keys;
mod prepare;
mod protocol;
#[expect(clippy::module_inception, reason = "the handle that it is all about")]
mod rebuild;

pub(crate) use self::prepare::{point, prepare};
pub(crate) use self::protocol::expire;
pub use self::rebuild::{Progress, Rebuild, RebuildOptions, RebuildReport};

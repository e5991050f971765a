//! What the user wrote, as the macros see it. Shapes that cannot be used are reported and left out.

mod aggregate;
mod args;
mod block;
mod event;

pub(crate) use self::aggregate::{AggregateType, Snapshots};
pub(crate) use self::args::{Args, variant};
pub(crate) use self::block::{Block, Method};
pub(crate) use self::event::{EventEnum, Retired, Upcast, Variant};

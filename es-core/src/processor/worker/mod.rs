//! The work on a processor: which of its builds a node works on, and how a range of slices is worked on.

mod context;
mod coordinator;
mod failure;
mod fold;
mod requests;
mod reset;
mod run;
mod sight;

pub(crate) use self::context::{NodeContext, NodeSettings, Role};
pub(crate) use self::coordinator::Coordinator;
pub(crate) use self::fold::{Folded, Stretch, fold_between};
pub use self::reset::Reset;
pub(crate) use self::reset::ResetRequest;
pub(crate) use self::sight::Observer;

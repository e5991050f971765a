//! The work on a processor: which of its builds a node works on, and how a range of slices is worked on.

mod afresh;
mod backend;
pub(super) mod codes;
mod context;
mod coordinator;
mod failure;
mod fold;
mod reset;
mod retry;
mod run;
mod sight;
mod start;
mod take_over;
mod undecoded;

pub(crate) use self::backend::AnyBackend;
pub(crate) use self::context::{NodeContext, NodeSettings, Role};
use self::coordinator::Coordinator;
pub(crate) use self::fold::{Folded, Stretch, fold_between};
pub use self::reset::Reset;
pub(crate) use self::reset::ResetRequest;
use self::sight::Observer;
pub(crate) use self::start::{left_out, others, start, wanted_by_any};
pub(crate) use self::take_over::{made_by, take_over_all};

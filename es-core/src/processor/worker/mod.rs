//! The work on a processor: which of its builds a node works on, and how a range of slices is worked on.

mod afresh;
mod backend;
pub(super) mod codes;
mod context;
mod coordinator;
mod discards;
mod failure;
mod fold;
mod gauges;
mod house;
mod makers;
mod outgrown;
mod readiness;
mod rename;
mod reset;
mod rest;
mod retry;
mod run;
mod shown;
mod sight;
mod start;
mod take_over;
mod taken;
mod undecoded;
mod unreadable;
mod versions;

pub(crate) use self::backend::AnyBackend;
pub(crate) use self::codes::{Standing, covers, standing};
pub(crate) use self::context::{NodeContext, NodeSettings, Role};
use self::coordinator::Coordinator;
pub(crate) use self::fold::{Fits, Folded, Stretch, fold_between};
pub(crate) use self::readiness::Readiness;
pub(crate) use self::rename::{follow, has_shares, name_obstacle, other_name, prepare_named};
pub use self::reset::Reset;
pub(crate) use self::reset::ResetRequest;
pub(crate) use self::shown::halted;
use self::sight::Observer;
pub(crate) use self::start::{alive_during, left_out, others, start, wanted_by_any};
pub(crate) use self::take_over::{
    BY_ITSELF, Looked, TRIES as RACES, TakeOver, Wired, is_passed, judge, made_by, take_over_all,
};
pub(crate) use self::taken::Taken;
pub(crate) use self::versions::{
    Names, finish_removal, give_names, inline_version, noted, remove as remove_version,
    stored as stored_version, stored_versions, take_names_from, versioned,
};

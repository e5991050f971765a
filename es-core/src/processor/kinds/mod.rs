//! The kinds of processors: rows by SQL, rows folded by key, side effects; and what any of them is made of.

pub(super) mod admission;
pub(super) mod effects;
mod projection;
mod reactor;
pub(super) mod runner;
mod view;

pub(crate) use self::projection::ProjectionRunner;
pub(crate) use self::reactor::ReactorRunner;
pub(crate) use self::view::ViewRunner;

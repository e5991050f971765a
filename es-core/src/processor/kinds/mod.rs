//! The kinds of processors: rows by SQL, rows folded by key, effects outside.

mod projection;
mod reactor;
mod view;

pub(crate) use self::projection::ProjectionRunner;
pub(crate) use self::reactor::ReactorRunner;
pub(crate) use self::view::ViewRunner;

//! The tables of SQL projections: versions of a projection next to each other, each in generations.
//!
//! Which tables a schema makes is seen in the catalogue after it ran, so a projection names nothing but its DDL. Each
//! generation is made by the same DDL in a schema of its own. [`Tx`](crate::Tx) and [`Db`](crate::Db) find the tables of
//! one of them by their search path; readers that are not apps find them by their plain names, which are views.

mod compare;
mod generation_schema;
mod make;
mod plain_names;
mod work;

pub(crate) use self::compare::Snapshot;
pub(crate) use self::work::{Work, install};

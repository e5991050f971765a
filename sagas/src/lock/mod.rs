//! Semantic locks: a run of a saga says "this is mine until I end", to all other runs of the store.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `row.rs` | one lock: who has it, who waits, who is next; pure |
//! | `explored.rs` | every state of one lock, a test |
//! | `rows.rs` | what is stored, and under which keys |
//! | `change.rs` | the rows of a commit that takes locks, or leaves them |
//! | `owners.rs` | whether those who have locks, or wait, are still there |
//! | `graph.rs` | who waits for whom, and who gives way; pure |
//! | `look.rs` | one look of a node: deadlocks, and locks of runs that are gone |
//! | `engine.rs` | the looks as a part of an app, metrics, alerts |
//! | `list.rs` | what operators see |

mod change;
mod engine;
#[cfg(test)]
mod explored;
mod graph;
mod list;
mod look;
mod owners;
mod row;
mod rows;

pub(crate) use self::change::{Place, Taken, in_the_way, leave, place, take, wrong};
pub(crate) use self::engine::{LockDesk, LockLooks};
pub use self::list::{LockCursor, LockOf, LockPage, LockShown, Locks};
#[cfg(feature = "testing")]
pub(crate) use self::row::Lock;
pub use self::row::{LockMode, LockRefused, Resource};
pub(crate) use self::rows::LockTables;

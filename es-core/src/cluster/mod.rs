//! Who works on what: nodes that share work by slices, without a leader.
//!
//! A [`Cluster`] is a node among others: it says that it is alive, and sees who else is. Work that is shared has a name
//! and 1,024 [slices](Slices); a range of them with one owner is a [`Share`], a row. A [`Keeper`] claims, frees, splits
//! and merges shares by one pure rule that every node follows, and starts a [`Work`] for each share of its own.
//!
//! Ownership is a row, and progress is in the same row: each write of it names the revision that was read. So a claim
//! fences the former owner, whatever it still writes; and a lease, which only says when a node is believed to be gone,
//! makes work efficient and is never needed for it to be right. The idea is that of the leases of Gray and
//! Cheriton (1989) with fencing by conditional writes.
//!
//! | file | what |
//! | --- | --- |
//! | `node` | one node: it renews its row and looks at the others |
//! | `lease` | until when a node may act on what it cannot fence |
//! | `status` | how a node is, as it knows itself |
//! | `share` | a range of slices as it is stored |
//! | `plan` | what a node does next, from what it sees: pure |
//! | `keeper` | does it |
//!
//! A metric, with the label `node`: `es_node_looked_timestamp_seconds`, when a node last renewed its lease and saw the others,
//! by the store's clock; 0 once it has signed off.

mod keeper;
mod lease;
mod node;
mod plan;
mod share;
mod status;

pub(crate) use self::keeper::give_back;
pub use self::keeper::{Keeper, Work, keep};
pub use self::lease::Lease;
pub(crate) use self::node::{Alive, alive, members, pulse};
pub use self::node::{Cluster, Runs, StateStore, View};
pub use self::share::{Progress, Share, Shares};
pub use self::status::NodeStatus;
pub use crate::slices::{SLICES, SliceSet, Slices, slice_of};

//! The storage contract: what becomes durable, and what can be read.
//!
//! A backend implements these; the conformance suites of `es_core::testing` are this contract made executable.
//!
//! | trait | what it is for |
//! | --- | --- |
//! | [`EventStore`] | the log: commits, and reads of events |
//! | [`SnapshotStore`] | folded states, to load an aggregate faster |
//! | [`RowStore`] | rows by table and key: keyed views, and what processors keep |
//! | [`Builds`] | the generations of a projection's tables and rows |
//! | [`Backend`] | all of these, its [`Transaction`], and its clients |
//! | [`Participant`] | not of a store: what takes part in transactions that span several databases |

mod adopt;
mod backend;
mod bookmark;
mod builds;
pub mod check;
mod checkpoint;
mod commit;
pub mod envelope;
mod error;
mod event_store;
mod filter;
mod idempotency_key;
pub mod keys;
pub mod kinds;
pub mod measure;
mod own;
mod page;
mod participant;
pub mod queue;
mod read;
mod room;
mod row_store;
pub mod rules;
mod snapshots;
mod table;
mod wake;

pub use self::adopt::Adopt;
pub use self::backend::{Backend, Transaction};
pub use self::bookmark::Bookmark;
pub use self::builds::{Builds, Difference, Generation, RowSnapshot, Sample, Tables};
pub use self::checkpoint::{CheckpointOf, checkpoint_of};
pub use self::commit::{
    Append, Attempt, Check, Commit, Committed, ExpectedVersion, INLINE, Outcome, OutcomeMark, RowWrite,
};
pub use self::error::{CommitError, Resolution, StoreError};
pub use self::event_store::{EventStore, Page};
pub use self::filter::{AppendCondition, EventFilter, FilterItem};
pub use self::idempotency_key::IdempotencyKey;
pub use self::own::{Own, OwnEvents, with_earlier};
pub use self::page::{Filling, PageItem, is_full};
pub use self::participant::{Branch, BranchId, Fate, Marked, Participant, Prepared};
pub(crate) use self::read::wait;
pub use self::read::{Subscription, read_all, subscribe};
pub(crate) use self::read::{at_first, stream_all};
pub use self::room::{Busy, Place, Room};
pub use self::row_store::{CURRENT, RowStore, Span, StoredRow};
pub use self::snapshots::{Snapshot, SnapshotStore};
pub use self::table::{HOT, Row, RowAt, Table, Won, is_hot, write_rows};
pub use self::wake::{RowWakes, Touched};
pub use crate::event::{EventId, Name, NewEvent, Position, RecordedEvent, StreamId, Version};

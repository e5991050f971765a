#![doc = include_str!("../README.md")]

mod aggregate;
mod app;
mod blame;
pub mod clock;
pub mod cluster;
pub mod codec;
pub mod command;
mod decision;
pub mod engine;
pub mod entropy;
mod error;
pub mod event;
pub mod guard;
pub mod guarded;
pub mod id;
mod inline;
mod lifecycle;
pub mod limits;
pub mod memory;
pub mod processor;
pub mod projection;
pub mod query;
mod repository;
mod retry;
pub mod services;
mod shared_read;
mod slices;
pub mod snapshot;
mod state;
pub mod store;
// Beside the other doubles, and there without the feature too.
#[cfg(test)]
#[path = "testing/fails_over.rs"]
mod fails_over;
#[cfg(feature = "testing")]
pub mod testing;
pub mod upcast;

pub use es_macros::{Aggregate, AggregateId, Event, commands, projection, queries, reactor, view};

pub use self::aggregate::{Aggregate, AggregateId, Apply, EventOf, Refusal};
pub use self::app::{App, AppBuilder, BeforeReady, Health, StartError};
pub use self::clock::Timestamp;
pub use self::command::{Command, CommandError, Commands, Context, Done, Failure, Handle, Sending, Target};
pub use self::decision::{DecideError, Decided, Decision};
pub use self::error::{BoxError, ErrorKind, chain};
pub use self::event::{
    Event, IntoEvent, IntoEvents, Metadata, Payload, Position, Recorded, RecordedEvent, StreamId, Version,
};
pub use self::projection::{Project, Projection, Reactor, View, Views};
pub use self::query::{Gather, Queries, Query, QueryError};
pub use self::repository::{At, LoadError, Loaded};
pub use self::store::{Backend, Commit, EventStore};

/// What the macros write, by hand.
#[doc = include_str!("docs/by_hand.md")]
pub mod by_hand {}

/// What most files of an application import: `use es_core::prelude::*;`.
pub mod prelude {
    pub use crate::event::Tag;
    pub use crate::store::{EventFilter, Transaction};
    pub use crate::{
        Aggregate, AggregateId, App, Apply, At, Backend, BoxError, Command, CommandError, Context, Decided,
        Decision, Done, ErrorKind, Event, EventStore, Failure, Metadata, Payload, Position, Query, Reactor,
        Recorded, RecordedEvent, StreamId, Timestamp, Version, View, Views, commands, projection, queries,
        reactor, view,
    };
}

/// What the macros write against. Not for people: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use serde;
}

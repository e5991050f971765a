//! What a command handler can know about its own call.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::event::Metadata;
use crate::id::Ids;
use crate::store::{RowWrite, StreamId, Version};

/// The call of one command. A handler that wants it takes `&Context` as a further parameter.
///
/// Time and ids come through here, as inputs: the handler itself reads no clock.
#[derive(Clone, Debug)]
pub struct Context {
    pub(crate) command_id: Uuid,
    pub(crate) now: Timestamp,
    pub(crate) stream: StreamId,
    pub(crate) version: Version,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) ids: Ids,
    pub(crate) also: Arc<Mutex<Vec<RowWrite>>>,
    /// Rows of the transaction that the decision goes into.
    pub(crate) beside: Vec<RowWrite>,
}

impl Context {
    /// The command's own id: the causation of its events.
    #[must_use]
    pub const fn command_id(&self) -> Uuid {
        self.command_id
    }

    /// When the command was sent: the same for every attempt.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Who asks, if the sender said so.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.metadata.actor.as_deref()
    }

    /// For whom, if the sender said so.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.metadata.tenant.as_deref()
    }

    /// Everything the events of this command will carry.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The aggregate's stream.
    #[must_use]
    pub const fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// How many events the decision is based on.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Rows of an extension crate, written in the commit of what this call decides; if it refuses, they are not. Whoever else
    /// writes one of them first is met as a conflict is: the command is decided again.
    pub fn also(&self, rows: impl IntoIterator<Item = RowWrite>) {
        self.also.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
    }

    /// The rows that go with the decision so far. [Within](crate::Sending::within) a transaction, those that are staged in it
    /// as well.
    #[must_use]
    pub fn rows(&self) -> Vec<RowWrite> {
        self.beside.iter().cloned().chain(self.added()).collect()
    }

    /// The rows that the handler has added.
    pub(crate) fn added(&self) -> Vec<RowWrite> {
        self.also.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new id, for something this command creates.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.ids.at(self.now)
    }
}

//! Remembers every command that was sent.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::ErrorKind;
use crate::command::{Dispatch, Halted, Interceptor, Next};
use crate::store::StreamId;

/// An interceptor that records every command, once it has an outcome. Clones share the record.
///
/// Add it first, and it also sees what other interceptors refused.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<Sent>>>);

/// One command that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The command's stored name.
    pub command: &'static str,
    /// The aggregate's stream.
    pub stream: StreamId,
    /// How often it was tried.
    pub attempts: u32,
    /// The stored names of the events of its last attempt; empty if nothing was decided.
    pub events: Vec<&'static str>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "done, failed, or stopped on the way: there is no fourth case")]
pub enum Outcome {
    /// Its events are stored.
    Done,
    /// It ended with an error of its own.
    Failed(ErrorKind),
    /// An interceptor refused it.
    Intercepted,
}

impl Recorder {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was recorded so far, in the order in which the commands ended.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, and forgets it.
    #[must_use]
    pub fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Interceptor for Recorder {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        let outcome = next.run(dispatch).await;
        let sent = Sent {
            command: dispatch.command(),
            stream: dispatch.stream().clone(),
            attempts: dispatch.attempt(),
            events: dispatch.events().to_vec(),
            outcome: match &outcome {
                Ok(()) => Outcome::Done,
                Err(Halted::Command { kind, .. }) => Outcome::Failed(*kind),
                Err(Halted::Interceptor(_)) => Outcome::Intercepted,
            },
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
        outcome
    }
}

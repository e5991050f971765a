//! Around every command: what is the same for all of them (who may, who did, how long).

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::event::Metadata;
use crate::store::{StreamId, Version};
use crate::{BoxError, Command, ErrorKind};

/// Code around commands. Interceptors run in the order they were added: the first is the outermost.
///
/// Each method may change the [`Dispatch`], refuse with an error of its own, or look at what comes
/// back. An error of its own is the command's error. Where the command itself went through, or nobody knows whether it
/// did, that is [`CommandError::InterceptedAfter`](super::CommandError::InterceptedAfter): what it did stands.
#[async_trait]
pub trait Interceptor: std::fmt::Debug + Send + Sync + 'static {
    /// Around the whole dispatch: once per send, however many attempts it takes.
    ///
    /// # Errors
    ///
    /// [`Halted`] as it came from `next`, or an error of its own.
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        next.run(dispatch).await
    }

    /// Around one decision, inside [`Self::dispatch`]: in each attempt, and again where what it was decided on turned out
    /// to be out of date before anything was written. Each time it begins with the command and the metadata as they
    /// were dispatched. After `next` the decided events are known and not yet written.
    ///
    /// # Errors
    ///
    /// [`Halted`] as it came from `next`, or an error of its own.
    async fn handle(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        next.run(dispatch).await
    }
}

/// A command on its way, as interceptors see it.
#[derive(Debug)]
pub struct Dispatch {
    pub(crate) command: &'static str,
    pub(crate) stream: StreamId,
    pub(crate) attempt: u32,
    pub(crate) version: Option<Version>,
    pub(crate) events: Vec<&'static str>,
    pub(crate) payload: Box<dyn Any + Send + Sync>,
    /// What the events will carry.
    pub metadata: Metadata,
}

impl Dispatch {
    /// The command's stored name.
    #[must_use]
    pub const fn command(&self) -> &'static str {
        self.command
    }

    /// The aggregate's stream.
    #[must_use]
    pub const fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Counts from 1; 0 before the first attempt.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The version the decision is based on; `None` before it.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The stored names of the decided events; empty before the decision.
    #[must_use]
    pub fn events(&self) -> &[&'static str] {
        &self.events
    }

    /// The command, if it is a `C`.
    #[must_use]
    pub fn payload<C: Command>(&self) -> Option<&C> {
        self.payload.downcast_ref()
    }

    /// The command, to change it, if it is a `C`.
    pub fn payload_mut<C: Command>(&mut self) -> Option<&mut C> {
        self.payload.downcast_mut()
    }
}

/// Why a command stopped, as interceptors see it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Halted {
    /// The command's own error, which the sender gets typed.
    #[error("{text}")]
    Command {
        /// What the sender can do about it.
        kind: ErrorKind,
        /// The error with its sources.
        text: String,
    },
    /// An interceptor's.
    #[error(transparent)]
    Interceptor(#[from] BoxError),
}

impl Halted {
    /// An interceptor's own error.
    pub fn because(error: impl Into<BoxError>) -> Self {
        Self::Interceptor(error.into())
    }
}

/// Which method of the interceptors runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    Dispatch,
    Handle,
}

/// What stands at the end of the chain.
pub(crate) trait End: Send {
    fn run<'a>(&'a mut self, dispatch: &'a mut Dispatch) -> BoxFuture<'a, Result<(), Halted>>;
}

/// The rest of the chain.
#[must_use = "without `run` the command does not go on"]
pub struct Next<'a> {
    pub(crate) chain: &'a [Arc<dyn Interceptor>],
    pub(crate) stage: Stage,
    pub(crate) end: &'a mut dyn End,
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").field("n_left", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Next<'_> {
    /// Goes on with the next interceptor, or with the command itself.
    ///
    /// # Errors
    ///
    /// [`Halted`]: hand it on, or put your own in its place.
    pub async fn run(self, dispatch: &mut Dispatch) -> Result<(), Halted> {
        let Self { chain, stage, end } = self;
        let Some((first, chain)) = chain.split_first() else { return end.run(dispatch).await };
        let next = Next { chain, stage, end };
        match stage {
            Stage::Dispatch => first.dispatch(dispatch, next).await,
            Stage::Handle => first.handle(dispatch, next).await,
        }
    }
}

//! How an app is.

use std::time::Duration;

use super::App;
use crate::clock::Timestamp;
use crate::processor::{Processor, ProcessorState, ProcessorStatus};
use crate::store::{Position, StoreError};

const MINUTE: Duration = Duration::from_secs(60);

impl App {
    /// How the app is: whether its store answers, and where its processors are.
    pub async fn health(&self) -> Health {
        Health {
            head: self.store().head().await,
            processors: self.0.processors.iter().map(Processor::status).collect(),
            now: self.0.bus.ids.clock().now(),
            closing: self.0.bus.lifecycle.is_closing(),
        }
    }
}

/// How an app is.
#[derive(Debug)]
#[non_exhaustive]
pub struct Health {
    /// The head of the log, or why the store does not answer.
    pub head: Result<Position, StoreError>,
    /// The processors.
    pub processors: Vec<ProcessorStatus>,
    /// When this was.
    pub now: Timestamp,
    /// Whether a shutdown has begun.
    pub closing: bool,
}

impl Health {
    /// Whether the store answers, no processor fails, is halted or cannot be worked on, and none is behind without progress
    /// for a minute.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.head.is_ok() && self.processors.iter().all(|processor| self.ill(processor, MINUTE).is_none())
    }

    /// What is wrong with a processor, in words; `None` if nothing is. Being behind is no illness, nor is silence: both
    /// together are, after this long.
    #[must_use]
    pub fn ill(&self, processor: &ProcessorStatus, patience: Duration) -> Option<String> {
        match &processor.state {
            ProcessorState::Failing { error, attempts, .. } => {
                return Some(format!("fails, {attempts} times so far: {error}"));
            }
            ProcessorState::Halted { error, .. } => return Some(format!("is halted: {error}")),
            ProcessorState::Unsettled { error } => return Some(format!("cannot be worked on: {error}")),
            // An operator knows.
            ProcessorState::Paused { .. } => return None,
            _ => {}
        }
        let silent = self.now.duration_since(processor.progress).unsigned_abs();
        let lag = self.lag(processor);
        (lag > 0 && silent > patience)
            .then(|| format!("is {lag} events behind, without progress for {silent:?}"))
    }

    /// How many positions a processor is behind the head.
    #[must_use]
    pub fn lag(&self, processor: &ProcessorStatus) -> u64 {
        self.head.as_ref().map_or(0, |head| head.0.saturating_sub(processor.position.0))
    }
}

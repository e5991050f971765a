//! How an app is.

use std::time::Duration;

use super::App;
use crate::clock::Timestamp;
use crate::engine::EngineStatus;
use crate::processor::{Processor, ProcessorState, ProcessorStatus};
use crate::store::{Position, StoreError};

const MINUTE: Duration = Duration::from_secs(60);

impl App {
    /// How the app is: whether its store answers, and where its processors are.
    pub async fn health(&self) -> Health {
        Health {
            head: self.store().head().await,
            processors: self.0.processors.iter().map(Processor::status).collect(),
            engines: self.0.engines.iter().flat_map(|engine| engine.status()).collect(),
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
    /// Work of extension crates that does not follow the log, such as that on sagas.
    pub engines: Vec<EngineStatus>,
    /// When this was.
    pub now: Timestamp,
    /// Whether a shutdown has begun.
    pub closing: bool,
}

impl Health {
    /// Whether the store answers, no processor fails, is halted or cannot be worked on, none is behind without progress
    /// for a minute, and every engine sees what there is to do. What an engine warns of is no illness of the app.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.head.is_ok()
            && self.processors.iter().all(|processor| self.ill(processor, MINUTE).is_none())
            && self.engines.iter().all(|engine| self.ill_engine(engine, MINUTE).is_none())
    }

    /// What is wrong with the work of an engine on this node, in words; `None` if nothing is, or it has no slices here. It may
    /// be silent for this long.
    #[must_use]
    pub fn ill_engine(&self, engine: &EngineStatus, patience: Duration) -> Option<String> {
        if engine.slices == 0 {
            return None;
        }
        let silent = engine.looked.map(|looked| self.now.duration_since(looked).unsigned_abs());
        let silent = silent.filter(|silent| *silent > patience)?;
        let why = engine.failing.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("has not seen for {silent:?} what there is to do{why}"))
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

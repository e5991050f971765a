//! How an app is.

use std::time::Duration;

use super::App;
use crate::clock::Timestamp;
use crate::cluster::NodeStatus;
use crate::engine::EngineStatus;
use crate::processor::{Processor, ProcessorState, ProcessorStatus, RangeStatus};
use crate::store::{Position, StoreError};

const MINUTE: Duration = Duration::from_secs(60);
/// For how many leases a node may be silent.
const LEASES: u32 = 3;

impl App {
    /// How the app is: whether its store answers and takes what the node writes, and where its processors are.
    pub async fn health(&self) -> Health {
        Health {
            head: self.store().head().await,
            processors: self.0.processors.iter().map(Processor::status).collect(),
            engines: self.0.engines.iter().flat_map(|engine| engine.status()).collect(),
            node: self.0.cluster.as_ref().and_then(|cluster| cluster.status()),
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
    /// The node among the others; `None` if the app shares nothing with others, or has signed off.
    pub node: Option<NodeStatus>,
    /// When this was.
    pub now: Timestamp,
    /// Whether a shutdown has begun.
    pub closing: bool,
}

impl Health {
    /// Whether the store answers, the node has renewed its lease in the time of the last three, no processor fails, is halted
    /// or cannot be worked on, no range of one is behind without progress for a minute, and every engine sees what there is to
    /// do. What an engine warns of is no illness of the app.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.head.is_ok()
            && self.node.as_ref().is_none_or(|node| self.ill_node(node.lease * LEASES).is_none())
            && self.processors.iter().all(|processor| self.ill(processor, MINUTE).is_none())
            && self.engines.iter().all(|engine| self.ill_engine(engine, MINUTE).is_none())
    }

    /// What is wrong with the [node](Self::node), in words; `None` if nothing is. It may be silent for this long. One that is does not work:
    /// what is shown of processors is what it saw last, and nothing that acts on others is called once its lease is over.
    #[must_use]
    pub fn ill_node(&self, patience: Duration) -> Option<String> {
        let node = self.node.as_ref().filter(|node| node.silent > patience)?;
        let why = node.failing.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("has not renewed its lease, nor looked at other nodes, for {:?}{why}", node.silent))
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
    /// together are, of any of its ranges, after this long.
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
        if processor.ranges.is_empty() {
            return self.stands(processor.position, processor.progress, patience);
        }
        let ill = |range: &RangeStatus| {
            let stands = self.stands(range.position, range.progress, patience)?;
            let RangeStatus { slices, owner, .. } = range;
            let whose = owner.map_or("no node".to_owned(), |node| format!("node {node}"));
            Some((range.progress, format!("{stands}: slices {slices} of {whose}")))
        };
        let (_, worst) = processor.ranges.iter().filter_map(ill).min_by_key(|(since, _)| *since)?;
        Some(worst)
    }

    /// Whether what is at a position since then is behind for too long.
    fn stands(&self, at: Position, since: Timestamp, patience: Duration) -> Option<String> {
        let silent = self.now.duration_since(since).unsigned_abs();
        let lag = self.behind(at);
        (lag > 0 && silent > patience)
            .then(|| format!("is {lag} events behind, without progress for {silent:?}"))
    }

    /// How many positions a processor is behind the head.
    #[must_use]
    pub fn lag(&self, processor: &ProcessorStatus) -> u64 {
        self.behind(processor.position)
    }

    fn behind(&self, at: Position) -> u64 {
        self.head.as_ref().map_or(0, |head| head.0.saturating_sub(at.0))
    }
}

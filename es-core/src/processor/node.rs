//! A node among others: it says that it is alive, and sees who else is, and who has what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::build::Build;
use super::engine::Ground;
use super::generations::{GENERATIONS, Generations};
use super::partial::ASKED;
use super::range::{self, Range};
use super::rows;
use crate::store::{Commit, Position, RowStore, RowWrite, StoreError};

/// How often a node that ends tries to say so.
const SIGNS_OFF: usize = 8;
/// The table of one row for each node.
const NODES: &str = "nodes";

/// The data of a node's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// Until when it is believed to be alive: microseconds of the store's clock.
    until: i64,
    /// The processors that it runs.
    runs: BTreeSet<String>,
}

/// The nodes that are alive, and what they run.
pub(crate) type Alive = BTreeMap<Uuid, BTreeSet<String>>;

/// What a node sees of the others.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// By the store's clock, in microseconds.
    pub(crate) now: i64,
    pub(crate) head: Position,
    pub(crate) alive: Alive,
    pub(crate) ranges: BTreeMap<Build, Vec<Range>>,
    pub(crate) generations: BTreeMap<String, Generations>,
    /// How often somebody has asked something of a build.
    pub(crate) asked: BTreeMap<String, u64>,
}

impl Snapshot {
    async fn read(ground: &Ground) -> Result<Self, StoreError> {
        let backend = &*ground.backend;
        // Ranges first: whoever has one has said before that it is alive.
        let ranges = range::all(backend).await?;
        let now = backend.now().await?.as_microsecond();
        let alive = alive(backend, now).await?;
        // After the ranges: none is further than the log.
        let head = backend.head().await?;
        let mut generations = BTreeMap::new();
        for row in rows::whole(backend, GENERATIONS).await? {
            let decoded: Generations = rows::decode(GENERATIONS, &row)?;
            generations.insert(row.key.clone(), Generations { rev: row.rev, ..decoded });
        }
        let asked = rows::whole(backend, ASKED).await?.into_iter().map(|row| (row.key, row.rev)).collect();
        Ok(Self { now, head, alive, ranges, generations, asked })
    }

    /// How many nodes run a processor.
    pub(crate) fn members(&self, processor: &str) -> usize {
        self.alive.values().filter(|runs| runs.contains(processor)).count()
    }
}

/// The nodes that are alive at a time, and what they run.
pub(crate) async fn alive(store: &dyn RowStore, now: i64) -> Result<Alive, StoreError> {
    let mut alive = BTreeMap::new();
    for row in rows::whole(store, NODES).await? {
        let Stored { until, runs } = rows::decode(NODES, &row)?;
        if let Ok(node) = row.key.parse()
            && until > now
        {
            alive.insert(node, runs);
        }
    }
    Ok(alive)
}

/// The revision of a node's row: it goes up for as long as the node lives.
pub(crate) async fn pulse(store: &dyn RowStore, node: Uuid) -> Result<u64, StoreError> {
    Ok(rows::one(store, NODES, &node.to_string()).await?.map_or(0, |row| row.rev))
}

/// Keeps this node alive, and everybody in it informed.
pub(crate) struct Node {
    ground: Ground,
    runs: BTreeSet<String>,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    /// Looked at the others at once, when this changes.
    nudge: watch::Receiver<u64>,
}

impl Node {
    pub(crate) fn new(
        ground: Ground,
        runs: BTreeSet<String>,
        snapshot: watch::Sender<Option<Arc<Snapshot>>>,
        nudge: watch::Receiver<u64>,
    ) -> Self {
        Self { ground, runs, snapshot, nudge }
    }

    /// Until `stop`, which comes when the node has given back what it had.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let pause = self.ground.settings.lease / 4;
        while !stop.is_cancelled() {
            self.nudge.mark_unchanged();
            let seen = tokio::select! {
                seen = self.tick() => seen,
                () = stop.cancelled() => break,
            };
            let pause = match seen {
                Ok(snapshot) => {
                    self.snapshot.send_replace(Some(Arc::new(snapshot)));
                    pause
                }
                Err(error) => {
                    let error = crate::chain(&error);
                    tracing::warn!(node = %self.ground.node, error, "the node cannot say that it is alive, and tries again");
                    pause.min(Duration::from_millis(200))
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                _ = self.nudge.changed() => {}
            }
        }
        // Others need not wait until the lease has run out, nor leave this node a share until then.
        for _ in 0..SIGNS_OFF {
            let Err(error) = self.leave().await else { break };
            tracing::debug!(node = %self.ground.node, error = crate::chain(&error), "the node could not sign off");
        }
    }

    async fn tick(&self) -> Result<Snapshot, StoreError> {
        let lease = self.ground.settings.lease;
        let asked = Instant::now();
        let backend = &*self.ground.backend;
        let now = backend.now().await?.as_microsecond();
        let micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let stored = Stored { until: now.saturating_add(micros), runs: self.runs.clone() };
        // One that only looks is no member: nobody leaves it a share.
        if self.ground.settings.workers > 0 {
            let row = serde_json::to_vec(&stored).expect("names serialize");
            self.write(Some(row), now).await?;
            self.ground.lease.renew(asked + lease);
        }
        Snapshot::read(&self.ground).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.write(None, i64::MIN).await
    }

    /// Writes the row of this node, and removes those of nodes that have long been gone.
    async fn write(&self, row: Option<Vec<u8>>, now: i64) -> Result<(), StoreError> {
        let (backend, node) = (&*self.ground.backend, self.ground.node.to_string());
        let known = rows::whole(backend, NODES).await?;
        let rev = known.iter().find(|row| row.key == node).map_or(0, |row| row.rev);
        if rev == 0 && row.is_none() {
            return Ok(());
        }
        let table: Arc<str> = NODES.into();
        let own = RowWrite { table: table.clone(), key: node.clone(), rev, row: row.map(Into::into) };
        let write = |rows| backend.commit(Commit { rows, ..Commit::default() });
        write(vec![own]).await.map_err(|e| StoreError::transient("renewing the lease of this node", e))?;
        let long =
            i64::try_from(self.ground.settings.lease.as_micros()).unwrap_or(i64::MAX).saturating_mul(20);
        for old in known.iter().filter(|row| row.key != node) {
            let Ok(Stored { until, .. }) = rows::decode(NODES, old) else { continue };
            if until.saturating_add(long) < now {
                let gone = RowWrite { table: table.clone(), key: old.key.clone(), rev: old.rev, row: None };
                // Somebody else may have done it.
                drop(write(vec![gone]).await);
            }
        }
        Ok(())
    }
}

//! One group of shares on one node: claims, frees, splits and merges them, and starts the work on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::node::{self, Alive, Cluster, View, name_of};
use super::plan::{Action, Holder, Rule, Seen, plan};
use super::share::{Share, Shares};
use crate::slices::Slices;
use crate::store::{RowWrite, StoreError, write_rows};

/// How often it is tried to give shares back; seen to be done by a last look.
const GIVES_BACK: usize = 4;
/// When it is tried again what could not be settled, if nothing new is seen before.
const AGAIN: Duration = Duration::from_millis(200);
/// For how many leases a node keeps what another one was to have that did not come for it.
const KEEPS: u32 = 10;

/// The work on a share.
#[async_trait]
pub trait Work: Send + Sync + 'static {
    /// What is stored of how far it has come.
    type Progress: super::Progress;

    /// Works on a share of this node, until `stop`, or until the share belongs to another node: a write of its row is
    /// then refused. What ends for any other reason is started again.
    async fn run(&self, share: Share<Self::Progress>, stop: CancellationToken);
}

/// The shares of one group, as one node has them.
pub struct Keeper<W: Work> {
    cluster: Arc<Cluster>,
    shares: Shares<W::Progress>,
    group: Arc<str>,
    work: Arc<W>,
    /// How many shares the node works on at once; `None`: the group cannot be split.
    workers: Option<usize>,
    tasks: BTreeMap<u16, Task>,
    /// Since when a share that another node is to have has been free.
    free_since: Option<Instant>,
    /// The node that did not come for what this one has taken in its place, and since when.
    in_place_of: Option<(Uuid, Instant)>,
}

struct Task {
    slices: Slices,
    epoch: u64,
    /// Ends the work also when the keeper is dropped.
    stop: DropGuard,
    handle: JoinHandle<()>,
}

impl<W: Work> std::fmt::Debug for Keeper<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("group", &self.group).finish_non_exhaustive()
    }
}

impl<W: Work> Keeper<W> {
    /// A keeper of a group that one node has as a whole.
    #[must_use]
    pub fn new(
        cluster: Arc<Cluster>,
        shares: Shares<W::Progress>,
        group: impl Into<Arc<str>>,
        work: Arc<W>,
    ) -> Self {
        let (group, tasks) = (group.into(), BTreeMap::new());
        Self { cluster, shares, group, work, workers: None, tasks, free_since: None, in_place_of: None }
    }

    /// Nodes share the slices, and each works on so many ranges of them at once.
    #[must_use]
    pub fn splitting(self, workers: usize) -> Self {
        Self { workers: Some(workers.max(1)), ..self }
    }

    /// Makes the one share that a group begins with, unless it has some.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read or written.
    pub async fn begin(&self, progress: W::Progress) -> Result<(), StoreError> {
        let store = self.cluster.store();
        if !self.shares.exist(store, &self.group).await? {
            let whole = self.shares.placed(store, Share::whole(self.group.clone(), progress)).await?;
            // Another node may be as fast.
            let _won = write_rows(store, vec![self.shares.put(&whole)?]).await?;
        }
        Ok(())
    }

    /// What it works on.
    #[must_use]
    pub const fn work(&self) -> &Arc<W> {
        &self.work
    }

    /// Takes what falls to this node, gives back what does not, and starts the work on what it has. Gives all shares as
    /// they are then.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read or written, or a share cannot be decoded.
    pub async fn settle(&mut self, view: &View) -> Result<Vec<Share<W::Progress>>, StoreError> {
        self.bury().await;
        let mut shares = view.shares(&self.shares, &self.group)?;
        if self.cluster.only_looks() {
            return Ok(shares);
        }
        let idle = self.own(&shares).any(|share| !self.works_on(share));
        let lost = !self.lost(&shares).is_empty();
        if shares.is_empty() || idle || lost || !self.plan(&shares, &view.alive, view).is_empty() {
            // What was seen may be old: what is done is decided on what is there now. Shares first: whoever has one has
            // said before that it is alive.
            shares = self.shares.of(self.cluster.store(), &self.group).await?;
            let alive = node::alive(self.cluster.store()).await?;
            for action in self.plan(&shares, &alive, view) {
                self.act(&shares, action).await?;
            }
            shares = self.shares.of(self.cluster.store(), &self.group).await?;
            // A work that writes nothing would never hear that its share belongs to another node now.
            for first in self.lost(&shares) {
                if let Some(task) = self.tasks.remove(&first) {
                    stop(task).await;
                }
            }
        }
        let starting: Vec<_> = self.own(&shares).filter(|share| !self.works_on(share)).cloned().collect();
        for share in starting {
            self.start(share).await;
        }
        Ok(shares)
    }

    fn own<'s>(
        &self,
        shares: &'s [Share<W::Progress>],
    ) -> impl Iterator<Item = &'s Share<W::Progress>> + use<'s, W> {
        let node = self.cluster.node();
        shares.iter().filter(move |share| share.owner == Some(node))
    }

    fn works_on(&self, share: &Share<W::Progress>) -> bool {
        let same = |task: &Task| task.slices == share.slices && task.epoch == share.epoch;
        self.tasks.get(&share.slices.first).is_some_and(same)
    }

    /// What is worked on, and is no share of this node any more.
    fn lost(&self, shares: &[Share<W::Progress>]) -> Vec<u16> {
        let own: BTreeSet<u16> = self.own(shares).map(|share| share.slices.first).collect();
        self.tasks.keys().copied().filter(|first| !own.contains(first)).collect()
    }

    /// Forgets the work that has ended.
    async fn bury(&mut self) {
        let ended = self.tasks.extract_if(.., |_, task| task.handle.is_finished());
        for (_, task) in ended.collect::<Vec<_>>() {
            stop(task).await;
        }
    }

    fn plan(&mut self, shares: &[Share<W::Progress>], alive: &Alive, view: &View) -> Vec<Action> {
        let me = self.cluster.node();
        let holder = |share: &Share<W::Progress>| match share.owner {
            Some(owner) if owner == me => Holder::Me,
            Some(owner) if alive.contains_key(&owner) => Holder::Other,
            _ => Holder::Nobody,
        };
        let seen: Vec<Seen> = shares
            .iter()
            .enumerate()
            .map(|(i, share)| Seen {
                slices: share.slices,
                holder: holder(share),
                merges: shares.get(i + 1).is_some_and(|next| share.merge(next).is_some()),
            })
            .collect();
        let rule = match self.workers {
            Some(workers) => Rule::Slices { members: view.members(name_of(&self.group)), workers },
            None => {
                let is_free = seen.iter().any(|share| share.holder == Holder::Nobody);
                let since = self.free_since.filter(|_| is_free).or_else(|| is_free.then(Instant::now));
                self.free_since = since;
                // Nodes that see different things may leave it to each other: after a while any of them will do.
                let waited = since.is_some_and(|since| since.elapsed() >= self.cluster.believed_for());
                let target = view.target(&self.group);
                // It was taken in the place of that node, which is offered it again later.
                let keeps = self.cluster.believed_for() * KEEPS;
                let kept = |(of, since): (Uuid, Instant)| target == Some(of) && since.elapsed() < keeps;
                self.in_place_of = self.in_place_of.filter(|of| kept(*of));
                let mine = target == Some(me) || self.in_place_of.is_some();
                if waited && !mine {
                    self.in_place_of = target.map(|target| (target, Instant::now()));
                }
                Rule::Whole { mine, waited }
            }
        };
        plan(&seen, rule)
    }

    async fn act(&mut self, shares: &[Share<W::Progress>], action: Action) -> Result<(), StoreError> {
        if let Action::Claim { first } | Action::ClaimPart { first, .. } = action {
            let Some(share) = shares.iter().find(|share| share.slices.first == first) else { return Ok(()) };
            return self.claim(share, action).await;
        }
        let (first, next) = match action {
            Action::Merge { first, next } => (first, Some(next)),
            Action::Free { first }
            | Action::KeepPart { first, .. }
            | Action::Split { first, .. }
            | Action::Claim { first }
            | Action::ClaimPart { first, .. } => (first, None),
        };
        for first in [Some(first), next].into_iter().flatten() {
            if let Some(task) = self.tasks.remove(&first) {
                stop(task).await;
            }
        }
        // The work has moved it since it was read.
        let Some(share) = self.still_own(first).await? else { return Ok(()) };
        let rows = match (action, next) {
            (Action::Free { .. }, _) => vec![self.shares.put(&share.owned_by(None))?],
            (Action::KeepPart { count, .. }, _) => self.halves(&share, count, false).await?,
            (Action::Split { count, .. }, _) => self.halves(&share, count, true).await?,
            (_, Some(next)) => {
                let Some(next) = self.still_own(next).await? else { return Ok(()) };
                match share.merge(&next) {
                    Some(whole) => vec![self.shares.put(&whole)?, self.shares.retire(&next)?],
                    None => return Ok(()),
                }
            }
            (_, None) => return Ok(()),
        };
        tracing::debug!(group = %self.group, slices = %share.slices, ?action, "reshapes a share");
        self.write(rows).await
    }

    async fn claim(&self, share: &Share<W::Progress>, action: Action) -> Result<(), StoreError> {
        let me = Some(self.cluster.node());
        let rows = if let Action::ClaimPart { count, .. } = action {
            let Some([low, high]) = share.split(count) else { return Ok(()) };
            let high = self.shares.placed(self.cluster.store(), high.owned_by(None)).await?;
            vec![self.shares.put(&low.owned_by(me))?, self.shares.put(&high)?]
        } else {
            vec![self.shares.put(&share.owned_by(me))?]
        };
        tracing::debug!(group = %self.group, slices = %share.slices, ?action, from = ?share.owner, "claims a share");
        self.write(rows).await
    }

    /// The two parts of a share of this node, as rows.
    async fn halves(
        &self,
        share: &Share<W::Progress>,
        count: u16,
        keeps_both: bool,
    ) -> Result<Vec<RowWrite>, StoreError> {
        let Some([low, high]) = share.split(count) else { return Ok(Vec::new()) };
        let high = if keeps_both { high } else { high.owned_by(None) };
        let high = self.shares.placed(self.cluster.store(), high).await?;
        Ok(vec![self.shares.put(&low)?, self.shares.put(&high)?])
    }

    async fn still_own(&self, first: u16) -> Result<Option<Share<W::Progress>>, StoreError> {
        let stored = self.shares.read(self.cluster.store(), &self.group, first).await?;
        Ok(stored.filter(|share| share.owner == Some(self.cluster.node())))
    }

    /// Another node that was faster is no error: what to do is decided again.
    async fn write(&self, rows: Vec<RowWrite>) -> Result<(), StoreError> {
        write_rows(self.cluster.store(), rows).await.map(drop)
    }

    async fn start(&mut self, share: Share<W::Progress>) {
        let first = share.slices.first;
        if let Some(task) = self.tasks.remove(&first) {
            stop(task).await;
        }
        let (stop, slices, epoch) = (CancellationToken::new(), share.slices, share.epoch);
        let (work, stopped) = (self.work.clone(), stop.clone());
        let handle = tokio::spawn(async move { work.run(share, stopped).await });
        self.tasks.insert(first, Task { slices, epoch, stop: stop.drop_guard(), handle });
    }

    /// Ends the work on all shares of this node, which it keeps.
    pub async fn stop(&mut self) {
        join_all(std::mem::take(&mut self.tasks).into_values().map(stop)).await;
    }

    /// Ends the work, and gives all shares back.
    pub async fn leave(mut self) {
        self.stop().await;
        give_back(&self.cluster, &self.shares, &self.group).await;
    }
}

/// Gives all shares of a group back that a node has. If it cannot be done, the lease runs out all the same.
pub(crate) async fn give_back<P: super::Progress>(cluster: &Cluster, shares: &Shares<P>, group: &str) {
    for _ in 0..GIVES_BACK {
        match free(cluster, shares, group).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(group, error = crate::chain(&error), "shares are not given back"),
        }
    }
}

/// Whether there was nothing more to give.
async fn free<P: super::Progress>(
    cluster: &Cluster,
    shares: &Shares<P>,
    group: &str,
) -> Result<bool, StoreError> {
    let all = shares.of(cluster.store(), group).await?;
    let own = all.iter().filter(|share| share.owner == Some(cluster.node()));
    let rows = own.map(|share| shares.put(&share.owned_by(None))).collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() {
        return Ok(true);
    }
    write_rows(cluster.store(), rows).await.map(|_| false)
}

async fn stop(task: Task) {
    drop(task.stop);
    if let Err(error) = task.handle.await {
        tracing::error!(%error, "the work on a share ended in a panic");
    }
}

/// Keeps the shares of a group until `stop`: the whole of what a node does with one kind of work.
pub async fn keep<W: Work>(mut keeper: Keeper<W>, stop: CancellationToken) {
    let mut views = keeper.cluster.views();
    let mut failed = false;
    while !stop.is_cancelled() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(AGAIN), if failed => {}
            changed = views.changed() => {
                if changed.is_err() {
                    break;
                }
            }
        }
        let Some(view) = views.borrow_and_update().clone() else { continue };
        let settled = keeper.settle(&view).await;
        failed = settled.is_err();
        if let Err(error) = settled {
            let (group, error) = (&keeper.group, crate::chain(&error));
            tracing::warn!(%group, error, "what to work on could not be settled, and is tried again");
        }
    }
    keeper.leave().await;
}

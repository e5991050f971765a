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
use super::plan::{Action, Rule, Seen, plan, spread};
use super::share::{Share, Shares};
use crate::slices::Slices;
use crate::store::{RowWrite, StoreError, Won, write_rows};

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
    /// Since when a share has been free, by its first slice and its epoch.
    free_since: BTreeMap<(u16, u64), Instant>,
    /// Which node is to have which slices, as it was seen last.
    spread: BTreeMap<Uuid, Slices>,
    /// What this node has taken in the place of another one, by its first slice.
    kept: BTreeMap<u16, Kept>,
    /// The same of a group that cannot be split: the node that did not come for it, and since when.
    in_place_of: Option<(Uuid, Instant)>,
}

/// Slices that another node was to have, and did not come for.
struct Kept {
    slices: Slices,
    of: Uuid,
    since: Instant,
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
        Self {
            cluster,
            shares,
            group: group.into(),
            work,
            workers: None,
            tasks: BTreeMap::new(),
            free_since: BTreeMap::new(),
            spread: BTreeMap::new(),
            kept: BTreeMap::new(),
            in_place_of: None,
        }
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
            // What was seen may be old: what is done is decided on what is there now.
            shares = self.shares.of(self.cluster.store(), &self.group).await?;
            let mut actions = self.plan(&shares, &view.alive, view);
            if actions.iter().any(|action| takes_over(*action, &shares)) {
                // Shares first: whoever has one has said before that it is alive.
                let alive = node::alive(self.cluster.store()).await?;
                actions = self.plan(&shares, &alive, view);
            }
            for action in &actions {
                self.act(&shares, *action).await?;
            }
            if !actions.is_empty() {
                shares = self.shares.of(self.cluster.store(), &self.group).await?;
            }
            // A work that writes nothing would never hear that its share belongs to another node now.
            for first in self.lost(&shares) {
                self.end(first).await;
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

    /// Ends the work on the share that begins with a slice.
    async fn end(&mut self, first: u16) {
        if let Some(task) = self.tasks.remove(&first) {
            stop(task).await;
        }
    }

    fn plan(&mut self, shares: &[Share<W::Progress>], alive: &Alive, view: &View) -> Vec<Action> {
        let me = self.cluster.node();
        let (now, lease) = (Instant::now(), self.cluster.believed_for());
        let owner = |share: &Share<_>| share.owner.filter(|owner| *owner == me || alive.contains_key(owner));
        let free = shares.iter().filter(|share| owner(share).is_none());
        let known = std::mem::take(&mut self.free_since);
        let since = |key| (key, known.get(&key).copied().unwrap_or(now));
        self.free_since = free.map(|share| since((share.slices.first, share.epoch))).collect();
        // Nodes that see different things may leave it to each other: after a while any of them will do.
        let waited = |share: &Share<_>| {
            let since = self.free_since.get(&(share.slices.first, share.epoch));
            since.is_some_and(|since| now - *since >= lease)
        };
        let mut seen: Vec<Seen> = shares
            .iter()
            .enumerate()
            .map(|(i, share)| Seen {
                slices: share.slices,
                owner: owner(share),
                merges: shares.get(i + 1).is_some_and(|next| share.merge(next).is_some()),
                waited: waited(share),
                kept: false,
            })
            .collect();
        // It was taken in the place of another node, which is offered it again later.
        let keeps = |since: Instant| now - since < lease * KEEPS;
        let rule = if let Some(workers) = self.workers {
            let mut members = node::members(alive, name_of(&self.group));
            members.insert(me);
            self.spread = spread(&seen, &members);
            let target = |first| falls_to(&self.spread, first);
            self.kept.retain(|first, kept| keeps(kept.since) && target(*first) == Some(kept.of));
            for share in seen.iter_mut().filter(|share| share.owner == Some(me)) {
                let kept = self.kept.get(&share.slices.first);
                share.kept = kept.is_some_and(|kept| kept.slices == share.slices);
            }
            Rule::Slices { own: self.spread.get(&me).copied(), workers }
        } else {
            let target = view.target(&self.group);
            self.in_place_of = self.in_place_of.filter(|(of, since)| target == Some(*of) && keeps(*since));
            let mine = target == Some(me) || self.in_place_of.is_some();
            if !mine && seen.iter().any(|share| share.waited) {
                self.in_place_of = target.map(|target| (target, now));
            }
            Rule::Whole { mine }
        };
        plan(&seen, me, rule)
    }

    async fn act(&mut self, shares: &[Share<W::Progress>], action: Action) -> Result<(), StoreError> {
        let (first, next) = match action {
            Action::Claim { first, part } => {
                let Some(share) = shares.iter().find(|share| share.slices.first == first) else {
                    return Ok(());
                };
                return self.claim(share, part).await;
            }
            Action::Merge { first, next } => (first, Some(next)),
            Action::Free { first } | Action::Keep { first, .. } | Action::Split { first, .. } => {
                (first, None)
            }
        };
        for first in [Some(first), next].into_iter().flatten() {
            self.end(first).await;
        }
        // The work has moved it since it was read.
        let Some(share) = self.still_own(first).await? else { return Ok(()) };
        let rows = match (action, next) {
            (Action::Free { .. }, _) => vec![self.shares.put(&share.owned_by(None))?],
            (Action::Keep { part, .. }, _) => self.cut(&share, part).await?,
            (Action::Split { count, .. }, _) => self.halves(&share, count).await?,
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
        self.write(rows).await.map(drop)
    }

    async fn claim(&mut self, share: &Share<W::Progress>, part: Slices) -> Result<(), StoreError> {
        let rows = self.cut(share, part).await?;
        tracing::debug!(group = %self.group, slices = %share.slices, %part, from = ?share.owner, "claims a share");
        if self.write(rows).await?.is_yes() {
            let of = falls_to(&self.spread, part.first).filter(|of| *of != self.cluster.node());
            let kept = of.map(|of| (part.first, Kept { slices: part, of, since: Instant::now() }));
            self.kept.extend(kept);
        }
        Ok(())
    }

    /// A share of which this node has a part from now on, and nobody the rest, as rows.
    async fn cut(&self, share: &Share<W::Progress>, part: Slices) -> Result<Vec<RowWrite>, StoreError> {
        let mut rows = Vec::new();
        for piece in share.cut(part) {
            let is_mine = piece.slices == part;
            let piece = Share { owner: is_mine.then_some(self.cluster.node()), ..piece };
            let has_row = piece.slices.first == share.slices.first;
            let piece = if has_row { piece } else { self.shares.placed(self.cluster.store(), piece).await? };
            rows.push(self.shares.put(&piece)?);
        }
        Ok(rows)
    }

    /// The two parts of a share of this node, as rows.
    async fn halves(&self, share: &Share<W::Progress>, count: u16) -> Result<Vec<RowWrite>, StoreError> {
        let Some([low, high]) = share.split(count) else { return Ok(Vec::new()) };
        let high = self.shares.placed(self.cluster.store(), high).await?;
        Ok(vec![self.shares.put(&low)?, self.shares.put(&high)?])
    }

    async fn still_own(&self, first: u16) -> Result<Option<Share<W::Progress>>, StoreError> {
        let stored = self.shares.read(self.cluster.store(), &self.group, first).await?;
        Ok(stored.filter(|share| share.owner == Some(self.cluster.node())))
    }

    /// Another node that was faster is no error: what to do is decided again.
    async fn write(&self, rows: Vec<RowWrite>) -> Result<Won, StoreError> {
        write_rows(self.cluster.store(), rows).await
    }

    async fn start(&mut self, share: Share<W::Progress>) {
        let first = share.slices.first;
        self.end(first).await;
        let (stop, slices, epoch) = (CancellationToken::new(), share.slices, share.epoch);
        let (work, stopped) = (self.work.clone(), stop.clone());
        let handle = tokio::spawn(async move { work.run(share, stopped).await });
        self.tasks.insert(first, Task { slices, epoch, stop: stop.drop_guard(), handle });
    }

    /// Ends the work on all shares of this node, which it keeps.
    pub async fn stop(&mut self) {
        let tasks = std::mem::take(&mut self.tasks).into_values();
        join_all(tasks.map(stop)).await;
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

/// Whether it takes what another node had, which may have been heard of since.
fn takes_over<P>(action: Action, shares: &[Share<P>]) -> bool {
    let Action::Claim { first, .. } = action else { return false };
    shares.iter().any(|share| share.slices.first == first && share.owner.is_some())
}

/// The node that is to have a slice.
fn falls_to(spread: &BTreeMap<Uuid, Slices>, slice: u16) -> Option<Uuid> {
    let has = |slices: &Slices| (slices.first..=slices.last).contains(&slice);
    spread.iter().find(|(_, slices)| has(slices)).map(|(node, _)| *node)
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

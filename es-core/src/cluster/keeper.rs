//! One group of shares on one node: claims, frees, splits and merges them, and starts the work on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::node::{self, Alive, Cluster, View};
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
    /// then refused. What ends for any other reason is started again when the keeper [settles](Keeper::settle) next, so
    /// at the next view at the earliest; a panic is logged.
    async fn run(&self, share: Share<Self::Progress>, stop: CancellationToken);
}

/// The shares of one group, as one node has them.
///
/// Dropping it tells its work to stop and waits for none of it. The shares stay this node's in the store: nobody works on
/// them for as long as the node lives. [`leave`](Self::leave) waits, and gives them back.
pub struct Keeper<W: Work> {
    cluster: Arc<Cluster>,
    shares: Shares<W::Progress>,
    group: Arc<str>,
    work: Arc<W>,
    /// How many shares the node works on at once; `None`: the group cannot be split.
    workers: Option<usize>,
    /// The history of the store that the work has begun in.
    history: u64,
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
    told: CancellationToken,
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
            history: cluster.store().history(),
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
    /// Dropping its future leaves some of it undone, and the next call does that. Work that was told to stop is not waited
    /// for then: it may still write, until somebody else has written its row.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read or written, or a share cannot be decoded.
    pub async fn settle(&mut self, view: &View) -> Result<Vec<Share<W::Progress>>, StoreError> {
        self.bury().await;
        self.leave_what_is_gone().await;
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

    /// Forgets the work that has ended, and says which of it ended in a panic.
    async fn bury(&mut self) {
        let ended = self.tasks.extract_if(.., |_, task| task.handle.is_finished());
        for (_, task) in ended.collect::<Vec<_>>() {
            stop(&self.group, task).await;
        }
    }

    /// Ends all work that began in another history of the store: what it keeps is of events and rows that may be gone.
    async fn leave_what_is_gone(&mut self) {
        let history = self.cluster.store().history();
        if history != self.history {
            self.stop().await;
            // Last: what is left undone is done by the next call.
            self.history = history;
        }
    }

    /// Ends the work on the share that begins with a slice.
    async fn end(&mut self, first: u16) {
        if let Some(task) = self.tasks.remove(&first) {
            stop(&self.group, task).await;
        }
    }

    /// Two neighbours in one share, if they can be that.
    fn as_one(&self, share: &Share<W::Progress>, next: &Share<W::Progress>) -> Option<Share<W::Progress>> {
        if self.workers.is_some() { share.merge(next) } else { share.join(next) }
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
                merges: shares.get(i + 1).is_some_and(|next| self.as_one(share, next).is_some()),
                waited: waited(share),
                kept: false,
            })
            .collect();
        // It was taken in the place of another node, which is offered it again later.
        let keeps = |since: Instant| now - since < lease * KEEPS;
        let rule = if let Some(workers) = self.workers {
            let mut members = node::members(alive, &self.group);
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
                match self.as_one(&share, &next) {
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
        let (work, stopped, told) = (self.work.clone(), stop.clone(), stop.clone());
        let handle = tokio::spawn(async move { work.run(share, stopped).await });
        self.tasks.insert(first, Task { slices, epoch, told, stop: stop.drop_guard(), handle });
    }

    /// Ends the work on all shares of this node, which it keeps.
    ///
    /// Dropping its future tells all of it to stop, and does not wait for what has not ended.
    pub async fn stop(&mut self) {
        self.tasks.values().for_each(|task| task.told.cancel());
        while let Some((_, task)) = self.tasks.pop_first() {
            stop(&self.group, task).await;
        }
    }

    /// Ends the work, and gives all shares back.
    ///
    /// Dropping its future tells all of it to stop, and leaves this node the shares that were not given back yet: until
    /// its lease runs out.
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

async fn stop(group: &str, task: Task) {
    let Task { slices, stop, handle, .. } = task;
    drop(stop);
    // What ends with its runtime is no panic.
    if let Err(error) = handle.await
        && error.is_panic()
    {
        tracing::error!(group, %slices, %error, "the work on a share ended in a panic");
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
///
/// Work that ends, or panics, is started again at the next view at the earliest: four times in the time of a lease, unless
/// the cluster is woken.
///
/// Dropping its future drops the keeper: its work is told to stop and not waited for, and the shares stay this node's, so
/// that nobody works on them until the lease of the node runs out. To give them back, cancel `stop` and wait.
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

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::sync::Mutex;

    use serde::{Deserialize, Serialize};
    use tokio::sync::mpsc;

    use super::*;
    use crate::cluster::Runs;
    use crate::memory::MemoryBackend;
    use crate::testing::Log;

    const LEASE: Duration = Duration::from_secs(60);

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Nothing {}

    impl crate::cluster::Progress for Nothing {
        fn can_merge(&self, _: &Self) -> bool {
            true
        }
    }

    #[derive(Debug, PartialEq)]
    enum Said {
        Begins,
        Stops,
    }

    /// Panics so many times, and then runs until it is stopped.
    struct Job {
        panics: Mutex<u32>,
        says: mpsc::UnboundedSender<Said>,
    }

    #[async_trait]
    impl Work for Job {
        type Progress = Nothing;

        async fn run(&self, _: Share<Nothing>, stop: CancellationToken) {
            self.says.send(Said::Begins).unwrap();
            let left = self.panics.lock().unwrap().checked_sub(1);
            if let Some(left) = left {
                *self.panics.lock().unwrap() = left;
                panic!("as it is to");
            }
            stop.cancelled().await;
            self.says.send(Said::Stops).unwrap();
        }
    }

    async fn keeper(panics: u32) -> (Keeper<Job>, mpsc::UnboundedReceiver<Said>) {
        let shares = Shares::<Nothing>::default();
        let cluster = Cluster::new(Arc::new(MemoryBackend::new()), Uuid::from_u128(1), LEASE);
        let cluster = Arc::new(cluster.with(Runs { name: "jobs".to_owned(), splits: true }, &shares));
        let (says, said) = mpsc::unbounded_channel();
        let work = Arc::new(Job { panics: Mutex::new(panics), says });
        let keeper = Keeper::new(cluster, shares, "jobs", work).splitting(1);
        keeper.begin(Nothing {}).await.unwrap();
        (keeper, said)
    }

    /// What a node sees at its first look.
    async fn view(cluster: &Arc<Cluster>) -> Arc<View> {
        let (mut views, stop) = (cluster.views(), CancellationToken::new());
        let (running, ended) = (cluster.clone(), stop.clone());
        let running = tokio::spawn(async move { running.run(ended).await });
        let view = views.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        // Without a word, so that it is believed to be alive.
        running.abort();
        view
    }

    #[tokio::test]
    async fn work_that_panics_is_logged_and_starts_again_at_the_next_view() {
        let (log, _guard) = Log::catch();
        let mut errors = Vec::new();
        let (mut keeper, mut said) = keeper(2).await;
        let view = view(&keeper.cluster).await;
        for n in 0..2 {
            keeper.settle(&view).await.unwrap();
            assert_eq!(said.recv().await, Some(Said::Begins));
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(said.is_empty(), "not before it is settled again");
            errors.extend(log.take());
            assert_eq!(errors.len(), n, "nor is it looked at");
        }
        keeper.settle(&view).await.unwrap();
        errors.extend(log.take());
        let says =
            |error: &String| ["group=\"jobs\"", "slices=0-1023", "as it is to"].map(|t| error.contains(t));
        assert!(errors.len() == 2 && errors.iter().all(|error| says(error) == [true; 3]), "{errors:?}");
        assert_eq!(said.recv().await, Some(Said::Begins));
        keeper.leave().await;
        assert_eq!(said.recv().await, Some(Said::Stops));
    }

    #[tokio::test]
    async fn a_keeper_that_is_dropped_stops_its_work_and_leaves_the_share_to_its_node() {
        let (mut keeper, mut said) = keeper(0).await;
        let (cluster, shares) = (keeper.cluster.clone(), keeper.shares.clone());
        let view = view(&cluster).await;
        keeper.settle(&view).await.unwrap();
        assert_eq!(said.recv().await, Some(Said::Begins));
        drop(keeper);
        assert_eq!(said.recv().await, Some(Said::Stops));
        let owner = shares.of(cluster.store(), "jobs").await.unwrap()[0].owner;
        assert_eq!(owner, Some(cluster.node()));
    }

    #[tokio::test]
    async fn work_stops_when_the_future_that_keeps_it_is_dropped() {
        let (keeper, mut said) = keeper(0).await;
        let cluster = keeper.cluster.clone();
        let kept = tokio::spawn(keep(keeper, CancellationToken::new()));
        drop(view(&cluster).await);
        assert_eq!(said.recv().await, Some(Said::Begins));
        kept.abort();
        assert!(kept.await.unwrap_err().is_cancelled());
        assert_eq!(said.recv().await, Some(Said::Stops));
    }
}

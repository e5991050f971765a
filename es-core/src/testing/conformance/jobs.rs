//! Jobs that wait in a queue, and are done once: a client of [`cluster`](crate::cluster) without a log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ErrorKind;
use crate::cluster::{Cluster, Keeper, Progress, Runs, Share, Shares, StateStore, Work, keep, slice_of};
use crate::id::Ids;
use crate::store::queue::{Marks, Queue};
use crate::store::{Commit, CommitError, Resolution, Row, RowStore, RowWrite, StoreError, Table, write_rows};

/// How many jobs of a slice are looked at, and how many are done in one commit.
const OF_A_SLICE: usize = 8;
const AT_ONCE: usize = 16;
/// The net under lost wake-ups.
const POLL: Duration = Duration::from_millis(500);
/// When it is tried again what the store could not do.
const AGAIN: Duration = Duration::from_millis(20);

/// How often the owner of a share has written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    turns: u64,
}

impl Progress for Turns {
    fn can_merge(&self, _: &Self) -> bool {
        true
    }
}

/// How a job was done: once, if nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a test")]
pub struct Doing {
    /// Which job.
    pub job: u64,
    /// By which node.
    pub node: Uuid,
    /// When it was due, and when it was done: microseconds of the store's clock.
    pub due: i64,
    /// See `due`.
    pub at: i64,
}

/// One kind of jobs: its queue, its results, its shares.
#[derive(Clone, Debug)]
pub struct Jobs {
    group: Arc<str>,
    queue: Queue<u64>,
    results: Table<Doing>,
    counts: Table<u64>,
    shares: Shares<Turns>,
    ids: Ids,
}

impl Jobs {
    /// Jobs of a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let table = |of: &str| format!("{name} {of}");
        Self {
            group: name.into(),
            queue: Queue::new(name).expect("a short name"),
            results: Table::new(table("results")).expect("a short name"),
            counts: Table::new(table("counts")).expect("a short name"),
            shares: Shares::default(),
            ids: Ids::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.group
    }

    /// Puts jobs into the queue, each due so many milliseconds from now, or before.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they could not be written: none of them is there then.
    pub async fn push(&self, store: &dyn StateStore, jobs: &[(u64, i64)]) -> Result<(), StoreError> {
        let now = store.now().await?;
        let push = |(job, after): &(u64, i64)| {
            let (slice, due) = (slice_of(&job.to_string()), now + SignedDuration::from_millis(*after));
            self.queue.push(slice, due, now, self.ids.next(), *job)
        };
        let rows = jobs.iter().map(push).collect::<Result<_, _>>()?;
        match store.commit(Commit { rows, ..Commit::default() }).await {
            Ok(_) => Ok(()),
            // They may be there, and done by now: to write them again could double them.
            Err(CommitError::Unknown(attempt)) => loop {
                match store.resolve(&attempt).await {
                    Ok(Resolution::Applied(_)) => return Ok(()),
                    Ok(Resolution::Never) => {
                        return Err(StoreError::transient("a push", std::io::Error::other("it was lost")));
                    }
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            },
            Err(CommitError::Store(error)) => Err(error),
            Err(other) => panic!("new ids are new rows: {other}"),
        }
    }

    /// What was done.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn done(&self, store: &dyn RowStore) -> Result<Vec<Doing>, StoreError> {
        Ok(self.results.all(store).await?.into_iter().map(|row| row.value).collect())
    }

    /// How many jobs still wait.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn waiting(&self, store: &dyn RowStore) -> Result<usize, StoreError> {
        Ok(self.queue.table().all(store).await?.len())
    }

    /// How many jobs were done, by the counters of the shares.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn counted(&self, store: &dyn RowStore) -> Result<u64, StoreError> {
        Ok(self.counts.all(store).await?.iter().map(|row| row.value).sum())
    }

    /// How many slices each node has; no node is an empty name.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn owners(&self, store: &dyn RowStore) -> Result<BTreeMap<Option<Uuid>, u16>, StoreError> {
        let mut owners = BTreeMap::new();
        for share in self.shares(store).await? {
            *owners.entry(share.owner).or_default() += share.slices.count();
        }
        Ok(owners)
    }

    /// Its shares.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn shares(&self, store: &dyn RowStore) -> Result<Vec<Share<Turns>>, StoreError> {
        self.shares.of(store, &self.group).await
    }

    /// The row of a share.
    ///
    /// # Errors
    ///
    /// [`StoreError`] never: its progress is a number.
    pub fn put(&self, share: &Share<Turns>) -> Result<RowWrite, StoreError> {
        self.shares.put(share)
    }
}

/// Does the jobs of a share.
struct Doer {
    jobs: Jobs,
    store: Arc<dyn StateStore>,
    node: Uuid,
}

enum Next {
    More,
    Rest(Duration),
    Lost,
}

#[async_trait]
impl Work for Doer {
    type Progress = Turns;

    async fn run(&self, mut share: Share<Turns>, stop: CancellationToken) {
        let mut wake = self.store.watch_rows(self.jobs.queue.table().name(), share.slices);
        let mut marks = Marks::default();
        while !stop.is_cancelled() {
            wake.mark_unchanged();
            let pause = match self.turn(&mut share, &mut marks).await {
                Ok(Next::More) => continue,
                Ok(Next::Rest(pause)) => pause.min(POLL),
                Ok(Next::Lost) => return,
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::Misuse, "{error}");
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                Ok(()) = wake.changed() => {}
            }
        }
    }
}

impl Doer {
    async fn turn(&self, share: &mut Share<Turns>, marks: &mut Marks) -> Result<Next, StoreError> {
        let (Jobs { queue, results, counts, shares, ids, .. }, store) = (&self.jobs, &*self.store);
        let now = store.now().await?;
        let due = queue.due(store, &[share.slices], marks, now, OF_A_SLICE).await?;
        let mut due = due.into_iter().collect::<Result<Vec<_>, _>>()?;
        due.sort_by_key(|waiting| waiting.due);
        due.truncate(AT_ONCE);
        if due.is_empty() {
            let next = queue.next(store, &[share.slices], now).await?;
            let until = |next: Timestamp| Duration::try_from(next - now).unwrap_or_default();
            return Ok(Next::Rest(next.map_or(POLL, until)));
        }
        let key = format!("{:04}", share.slices.first);
        let count = counts.get(store, &key).await?.unwrap_or_else(|| Row::new(key, 0));
        let next = share.with(Turns { turns: share.progress.turns + 1 });
        let counted = Row { value: count.value + due.len() as u64, ..count };
        let mut rows = vec![shares.put(&next)?, counts.put(&counted)?];
        for waiting in &due {
            let (job, node) = (waiting.row.value, self.node);
            let (due, at) = (waiting.due.as_microsecond(), now.as_microsecond());
            // A second time would be a second row.
            rows.push(results.insert(format!("{job:010} {}", ids.next()), Doing { job, node, due, at })?);
            rows.push(queue.done(&waiting.row));
        }
        if !write_rows(store, rows).await?.is_yes() {
            return Ok(Next::Lost);
        }
        *share = next.written();
        Ok(Next::More)
    }
}

/// Work that leaves no trace: it does not hear from a row that its share is another node's.
struct Idle(Arc<std::sync::Mutex<BTreeMap<String, usize>>>);

#[async_trait]
impl Work for Idle {
    type Progress = Turns;

    async fn run(&self, share: Share<Turns>, stop: CancellationToken) {
        let count = |change: fn(&mut usize)| {
            let mut running = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            change(running.entry(share.group.to_string()).or_default());
        };
        count(|n| *n += 1);
        stop.cancelled().await;
        count(|n| *n -= 1);
    }
}

/// What a node runs.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a wiring of a test")]
pub struct Wiring {
    /// Jobs, and how many shares of them it works on at once.
    pub jobs: Vec<(Jobs, usize)>,
    /// Groups that cannot be split.
    pub whole: Vec<String>,
}

/// A node that does jobs.
#[derive(Debug)]
pub struct Node {
    cluster: Arc<Cluster>,
    keepers: Vec<JoinHandle<()>>,
    presence: JoinHandle<()>,
    stop: CancellationToken,
    gone: CancellationToken,
    running: Arc<std::sync::Mutex<BTreeMap<String, usize>>>,
}

impl Node {
    /// Begins to work.
    #[must_use]
    pub fn start(store: &Arc<dyn StateStore>, lease: Duration, wiring: &Wiring) -> Self {
        let shares = Shares::<Turns>::default();
        let mut cluster = Cluster::new(store.clone(), Ids::default().next(), lease);
        for (jobs, _) in &wiring.jobs {
            cluster = cluster.with(Runs { name: jobs.name().to_owned(), splits: true }, &shares);
        }
        for name in &wiring.whole {
            cluster = cluster.with(Runs { name: name.clone(), splits: false }, &shares);
        }
        let cluster = Arc::new(cluster);
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let mut keepers = Vec::new();
        let running = Arc::default();
        for (jobs, workers) in &wiring.jobs {
            let work = Doer { jobs: jobs.clone(), store: store.clone(), node: cluster.node() };
            let keeper = Keeper::new(cluster.clone(), shares.clone(), jobs.group.clone(), Arc::new(work));
            keepers.push(tokio::spawn(begin(keeper.splitting(*workers), stop.clone())));
        }
        for name in &wiring.whole {
            let work = Arc::new(Idle(Arc::clone(&running)));
            let keeper = Keeper::new(cluster.clone(), shares.clone(), name.as_str(), work);
            keepers.push(tokio::spawn(begin(keeper, stop.clone())));
        }
        let (present, ended) = (cluster.clone(), gone.clone());
        let presence = tokio::spawn(async move { present.run(ended).await });
        Self { cluster, keepers, presence, stop, gone, running }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.cluster.node()
    }

    /// The groups that cannot be split and are worked on here; a number over 1 is a mistake.
    #[must_use]
    pub fn running(&self) -> BTreeMap<String, usize> {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        running.retain(|_, n| *n > 0);
        running
    }

    /// Gives back what it has, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        for keeper in self.keepers {
            keeper.await.expect("no panic");
        }
        self.gone.cancel();
        self.presence.await.expect("no panic");
    }

    /// Ends without a word, as far as a task can. What it has sent may still arrive.
    pub fn crash(self) {
        self.presence.abort();
        self.keepers.iter().for_each(JoinHandle::abort);
    }
}

async fn begin<W: Work<Progress = Turns>>(keeper: Keeper<W>, stop: CancellationToken) {
    while let Err(error) = keeper.begin(Turns::default()).await {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        tokio::time::sleep(AGAIN).await;
    }
    keep(keeper, stop).await;
}

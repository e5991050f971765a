//! One node among others: it says that it is alive, and sees who else is, and who has what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lease::Lease;
use super::plan::{Whole, assign};
use super::share::{Progress, Shares, parse_key, rows_without};
use super::status::{Looked, NodeStatus};
use crate::limits::MAX_PAGE;
use crate::state::{NodeRecord, SHARES, nodes};
use crate::store::{EventStore, Position, Row, RowStore, StoreError, StoredRow, Won, write_rows};

/// How often a node that ends tries to say so.
const SIGNS_OFF: usize = 8;
/// The longest wait before a node that could not reach the store tries again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a node that ends waits for what it has just begun to write.
const LAST_TICK: Duration = Duration::from_secs(1);

/// A store that keeps state: commits, and reads of rows.
pub trait StateStore: EventStore + RowStore {}

impl<S: EventStore + RowStore + ?Sized> StateStore for S {}

/// Something that a node runs, and shares with others that run it too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a name, and whether it splits")]
pub struct Runs {
    /// Its stored name. Its shares are those of groups with this name, or with this name, `~` and a number.
    pub name: String,
    /// Whether its slices may be on several nodes.
    pub splits: bool,
}

/// One node among others on a store. Does nothing until it [runs](Self::run).
#[derive(Debug)]
pub struct Cluster {
    store: Arc<dyn StateStore>,
    node: Uuid,
    believed_for: Duration,
    lease: Arc<Lease>,
    runs: Vec<Runs>,
    /// The tables of shares that it looks at.
    tables: BTreeSet<Arc<str>>,
    looks_on: bool,
    /// The codes of what it runs, by its name.
    codes: BTreeMap<String, String>,
    /// Groups that it leaves to nodes with a newer code.
    stands_by: Mutex<BTreeSet<String>>,
    /// Where it has met events that only a newer program knows, by groups.
    unknown: Mutex<BTreeMap<String, BTreeSet<Position>>>,
    view: watch::Sender<Option<Arc<View>>>,
    wake: watch::Sender<u64>,
    /// How many looks have begun.
    looks: AtomicU64,
    looked: Looked,
    /// Names whose shares have been retired, all of them.
    gone: Mutex<BTreeSet<String>>,
}

impl Cluster {
    /// A node with a new id, that is believed to be alive for as long as `lease` after it said so last.
    #[must_use]
    pub fn new(store: Arc<dyn StateStore>, node: Uuid, lease: Duration) -> Self {
        Self {
            store,
            node,
            believed_for: lease,
            lease: Arc::default(),
            runs: Vec::new(),
            tables: BTreeSet::new(),
            looks_on: false,
            codes: BTreeMap::new(),
            stands_by: Mutex::default(),
            unknown: Mutex::default(),
            view: watch::Sender::new(None),
            wake: watch::Sender::new(0),
            looks: AtomicU64::new(0),
            looked: Looked::begin(),
            gone: Mutex::default(),
        }
    }

    /// And runs this, whose shares are among these.
    #[must_use]
    pub fn with<P: Progress>(mut self, runs: Runs, shares: &Shares<P>) -> Self {
        self.runs.push(runs);
        self.tables.insert(shares.table().clone());
        self
    }

    /// And runs this, whose shares are those of work without a log.
    pub(crate) fn with_group(mut self, runs: Runs) -> Self {
        self.runs.push(runs);
        self.tables.insert(SHARES.into());
        self
    }

    /// With a lease that others look at as well.
    pub(crate) fn with_lease(self, lease: Arc<Lease>) -> Self {
        Self { lease, ..self }
    }

    /// With the codes of what it runs, by its name.
    pub(crate) fn with_codes(self, codes: BTreeMap<String, String>) -> Self {
        Self { codes, ..self }
    }

    /// Leaves a group to the others, or takes part again; says so with its next look, which is now.
    pub(crate) fn stand_by(&self, group: &str, stands_by: bool) {
        let mut groups = self.stands_by.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if stands_by { groups.insert(group.to_owned()) } else { groups.remove(group) };
        drop(groups);
        if changed {
            self.wake();
        }
    }

    /// Says where this node has met events of a group that only a newer program knows.
    pub(crate) fn says_unknown(&self, group: &str, met: &BTreeSet<Position>) {
        let mut groups = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            if met.is_empty() { groups.remove(group) } else { groups.insert(group.to_owned(), met.clone()) };
        drop(groups);
        if known.unwrap_or_default() != *met {
            self.wake();
        }
    }

    /// The shares of these names are not read any more, unless a node runs one of them: their rows stay for ever.
    pub(crate) fn leave_out(&self, gone: BTreeSet<String>) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = gone;
    }

    /// What the groups begin with whose shares are not read.
    fn left_out(&self) -> Vec<String> {
        let seen = self.view.borrow();
        let alive = seen.iter().flat_map(|view| view.alive.values().flat_map(|node| &node.runs));
        let runs: BTreeSet<&str> =
            alive.chain(self.runs.iter().map(|runs| &runs.name)).map(String::as_str).collect();
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let all = gone.iter().map(|name| (name, format!("{name}~")));
        // Those that begin with it come right behind it.
        let is_run = |name: &String, prefix: &String| {
            runs.contains(&**name)
                || runs.range(&**prefix..).next().is_some_and(|run| run.starts_with(prefix))
        };
        let mut left: Vec<String> =
            all.filter(|(name, prefix)| !is_run(name, prefix)).map(|(_, prefix)| prefix).collect();
        left.sort_unstable();
        left
    }

    /// It only looks at the others: none of them leaves it a share.
    #[must_use]
    pub fn looking_on(self) -> Self {
        Self { looks_on: true, ..self }
    }

    /// Its id.
    #[must_use]
    pub const fn node(&self) -> Uuid {
        self.node
    }

    /// The store that the nodes share.
    #[must_use]
    pub fn store(&self) -> &dyn StateStore {
        &*self.store
    }

    /// Its lease.
    #[must_use]
    pub const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// For how long a node is believed to be alive.
    #[must_use]
    pub const fn believed_for(&self) -> Duration {
        self.believed_for
    }

    /// Whether it only [looks on](Self::looking_on).
    #[must_use]
    pub const fn only_looks(&self) -> bool {
        self.looks_on
    }

    /// How it is; `None` once it has signed off.
    #[must_use]
    pub fn status(&self) -> Option<NodeStatus> {
        self.looked.status(self.node, self.believed_for)
    }

    /// What it sees, each time it looks; `None` before the first time.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.view.subscribe()
    }

    /// Makes it look now.
    pub fn wake(&self) {
        self.wake.send_modify(|n| *n += 1);
    }

    /// How many looks have begun: what is seen in a later one is what is stored after this call.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// Until `stop`, which comes when the node has given back what it had. Looks four times in the time of a lease, and
    /// when it is [woken](Self::wake).
    ///
    /// Dropping its future ends the looks without a word: the last view stays, and others believe that the node is alive
    /// until its lease runs out. It may be run again.
    pub async fn run(&self, stop: CancellationToken) {
        let mut wake = self.wake.subscribe();
        let mut rev = 0;
        while !stop.is_cancelled() {
            wake.mark_unchanged();
            let mut tick = std::pin::pin!(self.tick(&mut rev));
            let seen = tokio::select! {
                seen = &mut tick => seen,
                () = stop.cancelled() => {
                    // A first renewal that is cut off may come after the row was deleted, and bring it back.
                    drop(tokio::time::timeout(LAST_TICK, tick).await);
                    break;
                }
            };
            let pause = match seen {
                Ok(view) => {
                    self.looked.well();
                    self.tell(view.now);
                    self.view.send_replace(Some(Arc::new(view)));
                    self.believed_for / 4
                }
                Err(error) => {
                    let error = crate::chain(&error);
                    tracing::warn!(node = %self.node, error, "the node cannot renew its lease, and tries again");
                    self.looked.failed(error);
                    (self.believed_for / 4).min(AGAIN)
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                _ = wake.changed() => {}
            }
        }
        // Others need not wait until the lease has run out, nor leave this node a share until then.
        for _ in 0..SIGNS_OFF {
            let Err(error) = self.sign_off().await else { break };
            tracing::debug!(node = %self.node, error = crate::chain(&error), "the node could not sign off");
        }
        self.looked.end();
        self.tell(0);
    }

    /// Tells when it looked last, by the store's clock, in microseconds.
    fn tell(&self, looked: i64) {
        let looked = Duration::from_micros(looked.try_into().unwrap_or_default());
        metrics::gauge!("es_node_looked_timestamp_seconds", "node" => self.node.to_string())
            .set(looked.as_secs_f64());
    }

    /// Renews the lease, then looks. `rev` is the revision of the node's row, as it was written last.
    async fn tick(&self, rev: &mut u64) -> Result<View, StoreError> {
        let look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let asked = Instant::now();
        let now = self.store.now().await?.as_microsecond();
        if !self.looks_on {
            self.renew(rev, now).await?;
            self.lease.renew(asked + self.believed_for);
        }
        // Shares first: whoever has one has said before that it is alive.
        let (mut shares, left_out) = (BTreeMap::new(), self.left_out());
        for table in &self.tables {
            for row in rows_without(&*self.store, table, &left_out).await? {
                let Some((group, _)) = parse_key(&row.key) else { continue };
                let of_group: &mut Vec<StoredRow> =
                    shares.entry((table.clone(), group.to_owned())).or_default();
                of_group.push(row);
            }
        }
        let known = nodes().stored(&*self.store).await?;
        if !self.looks_on {
            self.forget_gone(&known, now).await;
        }
        Ok(View { look, now, alive: alive_at(known, now), shares, targets: OnceLock::new() })
    }

    fn record(&self, now: i64) -> NodeRecord {
        let micros = i64::try_from(self.believed_for.as_micros()).unwrap_or(i64::MAX);
        let names = |whole: bool| {
            let runs = self.runs.iter().filter(move |runs| !whole || !runs.splits);
            runs.map(|runs| runs.name.clone()).collect()
        };
        let stands_by = self.stands_by.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (runs, whole, codes) = (names(false), names(true), self.codes.clone());
        NodeRecord { until: now.saturating_add(micros), runs, whole, codes, stands_by, unknown }
    }

    async fn renew(&self, rev: &mut u64, now: i64) -> Result<(), StoreError> {
        let mut row = Row { key: self.node.to_string(), rev: *rev, value: self.record(now) };
        // A second time if it is not where it was left: its last write came late, or another node took it for gone.
        for _ in 0..2 {
            match write_rows(&*self.store, vec![nodes().put(&row)?]).await? {
                Won::Yes(_) => {
                    *rev = row.rev + 1;
                    return Ok(());
                }
                Won::No(at) => row.rev = at.actual,
            }
        }
        let moving = std::io::Error::other("its row changes all the time");
        Err(StoreError::transient("renewing the lease of this node", moving))
    }

    /// Removes the rows of nodes that have long been gone.
    async fn forget_gone(&self, known: &[StoredRow], now: i64) {
        let long = i64::try_from(self.believed_for.as_micros()).unwrap_or(i64::MAX).saturating_mul(20);
        for old in known {
            let Ok(row) = nodes().decode(old.clone()) else { continue };
            if row.value.until.saturating_add(long) < now {
                // Another node may have done it.
                drop(write_rows(&*self.store, vec![nodes().delete(&row)]).await);
            }
        }
    }

    async fn sign_off(&self) -> Result<(), StoreError> {
        let Some(row) = nodes().get(&*self.store, &self.node.to_string()).await? else { return Ok(()) };
        match write_rows(&*self.store, vec![nodes().delete(&row)]).await? {
            Won::Yes(_) => Ok(()),
            Won::No(_) => {
                Err(StoreError::transient("signing off", std::io::Error::other("its row has changed")))
            }
        }
    }
}

/// The nodes that are alive, and what they run.
pub(crate) type Alive = BTreeMap<Uuid, NodeRecord>;

/// A row that cannot be read is that of a node of another version: it counts for nothing here.
fn alive_at(rows: Vec<StoredRow>, now: i64) -> Alive {
    let alive = rows.into_iter().filter_map(|row| {
        let row = nodes().decode(row).ok()?;
        Some((row.key.parse().ok()?, row.value)).filter(|(_, record): &(Uuid, NodeRecord)| record.until > now)
    });
    alive.collect()
}

/// Those of them that work on a group.
pub(crate) fn members(alive: &Alive, group: &str) -> BTreeSet<Uuid> {
    let works =
        |record: &NodeRecord| record.runs.contains(name_of(group)) && !record.stands_by.contains(group);
    alive.iter().filter(|(_, record)| works(record)).map(|(node, _)| *node).collect()
}

/// The nodes that are alive now.
pub(crate) async fn alive(store: &dyn StateStore) -> Result<Alive, StoreError> {
    let now = store.now().await?.as_microsecond();
    Ok(alive_at(nodes().stored(store).await?, now))
}

/// The revision of a node's row: it goes up for as long as the node lives.
pub(crate) async fn pulse(store: &dyn RowStore, node: Uuid) -> Result<u64, StoreError> {
    Ok(nodes().get(store, &node.to_string()).await?.map_or(0, |row| row.rev))
}

/// What a node sees of the others, at one look.
#[derive(Debug)]
pub struct View {
    /// Which look this was, from 1.
    pub(crate) look: u64,
    /// By the store's clock, in microseconds.
    pub(crate) now: i64,
    pub(crate) alive: Alive,
    /// By table and group.
    shares: BTreeMap<(Arc<str>, String), Vec<StoredRow>>,
    targets: OnceLock<BTreeMap<String, Uuid>>,
}

/// Of a share, whatever its progress is.
#[derive(Deserialize)]
struct Ownership {
    #[serde(default)]
    owner: Option<Uuid>,
    #[serde(default)]
    last: Option<u16>,
}

impl View {
    /// Whether a node is believed to be alive.
    #[must_use]
    pub fn is_alive(&self, node: Uuid) -> bool {
        self.alive.contains_key(&node)
    }

    /// How many nodes run something.
    #[must_use]
    pub fn members(&self, name: &str) -> usize {
        members(&self.alive, name).len()
    }

    /// The shares of a group.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if one of them cannot be read: that stops this group, and no other.
    pub fn shares<P: Progress>(
        &self,
        shares: &Shares<P>,
        group: &str,
    ) -> Result<Vec<super::Share<P>>, StoreError> {
        let rows = self.shares.get(&(shares.table().clone(), group.to_owned()));
        let rows = rows.into_iter().flatten().cloned();
        rows.filter_map(|row| shares.decode(row).transpose()).collect()
    }

    /// The node that is to have a group which cannot be split; `None` if no node runs it. Every node that sees the same
    /// comes to the same.
    pub(crate) fn target(&self, group: &str) -> Option<Uuid> {
        self.targets.get_or_init(|| self.assign()).get(group).copied()
    }

    fn assign(&self) -> BTreeMap<String, Uuid> {
        let whole: BTreeSet<&str> =
            self.alive.values().flat_map(|node| &node.whole).map(String::as_str).collect();
        let groups = self.shares.iter().filter(|((_, group), _)| whole.contains(name_of(group)));
        let seen = groups.filter_map(|((_, group), rows)| {
            let rows = rows.iter().filter_map(|row| serde_json::from_slice::<Ownership>(&row.data).ok());
            let parts: Vec<Ownership> = rows.filter(|row| row.last.is_some()).collect();
            let holder = parts.first()?.owner.filter(|owner| self.is_alive(*owner));
            let members: Vec<Uuid> = members(&self.alive, group).into_iter().collect();
            let holder = holder.filter(|holder| members.contains(holder));
            Some(Whole { group, holder, members })
        });
        assign(&seen.collect::<Vec<_>>())
    }
}

/// What a group is one of: `name`, or `name~number`.
pub(crate) fn name_of(group: &str) -> &str {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    group.rsplit_once('~').filter(|(_, rest)| number(rest)).map_or(group, |(name, _)| name)
}

/// Rows of one read at most: what is larger is read in pages.
const _: () = assert!(MAX_PAGE > 1_024, "the shares of one group fit into a page");

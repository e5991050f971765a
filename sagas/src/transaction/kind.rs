//! A kind of transactions on one node, in one version of its definition.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use es_core::cluster::{Keeper, Runs, Shares, keep};
use es_core::engine::{Engine, EngineStatus, Node};
use es_core::limits::LimitError;
use es_core::processor::Slices;
use es_core::services::Services;
use es_core::{Backend, BoxError, chain};
use tokio::sync::mpsc::{OwnedPermit, Sender};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clock::StoreClock;
use super::drive::Desk;
use super::instance::Instance;
use super::numbers::{Looks, Numbers};
use super::outcome::Teller;
use super::protocol::{Acts, Protocol};
use super::rows::{Tables, slice};
use super::scheduler::{NoLog, Scheduler};
use super::watch::{Alarms, watch};

/// Before what could not be begun is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// What the names of the kinds of TCCs begin with, and of no others.
pub(crate) const OF_TCC: &str = "tcc.";
/// The same of half messages.
pub(crate) const OF_HALF: &str = "half.";
/// The step of a half message that is its local transaction.
pub(crate) const LOCAL: &str = "local";

/// The same of three-phase commits.
pub(crate) const OF_THREE_PHASE: &str = "three-phase.";

/// What the groups of all versions of a kind begin with.
pub(super) fn groups_of(kind: &str) -> String {
    format!("txn.{kind}.v")
}

/// What the runs of a version are called among nodes.
pub(crate) fn group_of(kind: &str, version: u32) -> String {
    format!("{}{version}", groups_of(kind))
}

/// A kind of transactions on one node.
pub(crate) struct Kind<B: Backend, P: Acts<B>> {
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    pub(crate) protocol: Arc<P>,
    pub(crate) tables: Tables,
    pub(crate) backend: Arc<B>,
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) desks: Arc<Desks<P>>,
    pub(crate) numbers: Arc<Numbers>,
    alarms: Alarms,
    node: RwLock<Option<Node>>,
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    pub(crate) fn new(backend: Arc<B>, name: &str, version: u32, protocol: P) -> Result<Self, LimitError> {
        let name: Arc<str> = name.into();
        Ok(Self {
            name: name.clone(),
            numbers: Arc::new(Numbers::new(P::PATTERN, name.clone(), version)),
            alarms: Alarms::default(),
            version,
            protocol: Arc::new(protocol),
            tables: Tables::of(&name, version)?,
            backend,
            clock: Arc::default(),
            desks: Arc::default(),
            node: RwLock::default(),
        })
    }

    /// The node that it is a part of; `None` before the app has started, and once it has ended.
    pub(crate) fn node(&self) -> Option<Node> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its runs share on a node.
    pub(super) fn desk(&self, node: &Node) -> Desk<B, P> {
        Desk {
            kind: self.name.clone(),
            protocol: self.protocol.clone(),
            tables: self.tables.clone(),
            backend: self.backend.clone(),
            node: node.clone(),
            clock: self.clock.clone(),
            numbers: self.numbers.clone(),
        }
    }

    fn set_node(&self, node: Option<Node>) {
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = node;
    }

    fn group(&self) -> String {
        group_of(&self.name, self.version)
    }

    /// What the groups of all its versions begin with.
    pub(super) fn group_of_all(&self) -> String {
        groups_of(&self.name)
    }
}

#[async_trait]
impl<B: Backend, P: Acts<B>> Engine for Kind<B, P> {
    fn runs(&self) -> Vec<Runs> {
        vec![Runs { name: self.group(), splits: true }]
    }

    async fn check(&self, services: &Services) -> Result<Vec<String>, BoxError> {
        Ok(self.protocol.check(services).await)
    }

    fn connect(&self, node: Node) {
        self.set_node(Some(node));
    }

    async fn run(&self, stop: CancellationToken) {
        // What the node has leads back here: without this, both would stay for ever.
        let _gone = Gone(self);
        let Some(node) = self.node() else { return };
        if node.cluster.only_looks() {
            return stop.cancelled().await;
        }
        let desk = Arc::new(self.desk(&node));
        let work = Arc::new(Scheduler { desk, desks: self.desks.clone() });
        let keeper = Keeper::new(node.cluster.clone(), Shares::default(), self.group(), work).splitting(1);
        while let Err(error) = keeper.begin(NoLog {}).await {
            tracing::warn!(kind = %self.name, error = chain(&error), "its share cannot be made, and is tried again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        let about = (self.protocol.deadline(), P::STAGES);
        let watch = watch(&self.numbers, &self.name, about, &self.alarms, &node, &stop);
        tokio::join!(keep(keeper, stop.clone()), watch);
    }

    fn status(&self) -> Vec<EngineStatus> {
        let Looks { slices, looked, failing } = self.numbers.looks();
        let mut status = EngineStatus::idle(self.group());
        (status.slices, status.looked, status.failing) = (slices, looked, failing);
        status.alerts = self.alarms.now();
        vec![status]
    }
}

/// When this goes, so does the node: the app has ended, or was dropped.
struct Gone<'k, B: Backend, P: Acts<B>>(&'k Kind<B, P>);

impl<B: Backend, P: Acts<B>> Drop for Gone<'_, B, P> {
    fn drop(&mut self) {
        self.0.set_node(None);
    }
}

/// A run that begins, on its way to whoever drives it, and who wants to know how it ends.
pub(crate) type Handed<P> = (Instance<P>, Promise<P>, Teller);

/// Where runs that begin on this node can be handed to, by slices.
#[derive(Debug)]
pub(crate) struct Desks<P: Protocol> {
    open: Mutex<Vec<(Slices, Sender<Handed<P>>)>>,
    /// Those that are handed over: nobody else takes them up.
    promised: Mutex<HashSet<Uuid>>,
}

impl<P: Protocol> Default for Desks<P> {
    fn default() -> Self {
        Self { open: Mutex::default(), promised: Mutex::default() }
    }
}

/// That a run is handed over, for as long as this is there.
#[derive(Debug)]
pub(crate) struct Promise<P: Protocol> {
    desks: Arc<Desks<P>>,
    run: Uuid,
}

impl<P: Protocol> Drop for Promise<P> {
    fn drop(&mut self) {
        self.desks.promises().remove(&self.run);
    }
}

impl<P: Protocol> Desks<P> {
    /// From now on, and until what it gives is dropped, those of these slices are taken.
    pub(crate) fn open(self: &Arc<Self>, slices: Slices, hand: Sender<Handed<P>>) -> Open<P> {
        self.all().push((slices, hand.clone()));
        Open { desks: self.clone(), hand }
    }

    /// A place for a run at whoever takes it, before it begins; `None`: another node takes it, or it is found by its wake-up.
    pub(crate) fn place(self: &Arc<Self>, run: Uuid) -> Option<(OwnedPermit<Handed<P>>, Promise<P>)> {
        let own = slice(run);
        let has = |slices: &Slices| (slices.first..=slices.last).contains(&own);
        let hand = self.all().iter().find(|(slices, _)| has(slices)).map(|(_, hand)| hand.clone())?;
        let permit = hand.try_reserve_owned().ok()?;
        self.promises().insert(run);
        Some((permit, Promise { desks: self.clone(), run }))
    }

    /// Whether a run is on its way.
    pub(crate) fn has_promised(&self, run: Uuid) -> bool {
        self.promises().contains(&run)
    }

    fn promises(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> MutexGuard<'_, Vec<(Slices, Sender<Handed<P>>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A desk that is open.
pub(crate) struct Open<P: Protocol> {
    desks: Arc<Desks<P>>,
    hand: Sender<Handed<P>>,
}

impl<P: Protocol> Drop for Open<P> {
    fn drop(&mut self) {
        self.desks.all().retain(|(_, hand)| !hand.same_channel(&self.hand));
    }
}

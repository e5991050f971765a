//! The application: wiring, and the one value that everything is asked of.

mod builder;
mod health;
mod queries;
mod ready;
mod settle;
mod start;
mod watch;
mod wiring;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::AppBuilder;
pub use self::health::Health;
pub use self::ready::BeforeReady;
pub use self::start::StartError;
use self::wiring::Wiring;
use crate::cluster::Cluster;
use crate::command::{Bus, IdOf, Sender, Via};
use crate::engine::Engine;
use crate::processor::{
    self, AnyBackend, Processor, ProcessorError, Rebuild, RebuildOptions, Receipt, Reset, WaitError,
};
use crate::projection::{Projection, tables_of};
use crate::repository::{At, LoadError, Loaded, Repository, stream_of};
use crate::services::Services;
use crate::store::{EventStore, StoreError};
use crate::{Apply, Command, Sending};

/// A running application. Cheap to clone; no type parameter, so it can sit in any state.
///
/// When the last clone is dropped its processors stop; [`shutdown`](Self::shutdown) also waits for them.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) bus: Arc<Bus>,
    pub(crate) processors: Vec<Processor>,
    backend: Arc<dyn AnyBackend>,
    /// What the app shares with others, if it does.
    cluster: Option<Arc<Cluster>>,
    engines: Vec<Arc<dyn Engine>>,
    pub(crate) queries: Wiring,
    /// The stored names of inline and live projections: they are never behind.
    pub(crate) never_behind: BTreeSet<String>,
    before_ready: BeforeReady,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processors, never_behind, .. } = self;
        let mut shown = f.debug_struct("Inner");
        shown.field("processors", processors).field("never_behind", never_behind).finish_non_exhaustive()
    }
}

impl App {
    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Sends a command to an aggregate: add options, then `.await`.
    pub fn send<C: Command>(&self, id: &IdOf<C>, cmd: C) -> Sending<'_, C> {
        Sending::new(Via::App(&self.0.bus), id, cmd)
    }

    /// Sends commands for as long as the app is there, without keeping it alive: by type, or by their stored names.
    #[must_use]
    pub fn sender(&self) -> Sender {
        let sender = Sender::default();
        sender.connect(&self.0.bus);
        sender
    }

    /// The current state of an aggregate; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read.
    pub async fn load<A: Apply>(&self, id: &A::Id) -> Result<Option<Loaded<A>>, LoadError> {
        self.0.bus.load(id).await
    }

    /// The state of an aggregate at a point in its history; `None` if it did not exist then.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read.
    pub async fn load_at<A: Apply>(&self, id: &A::Id, at: At) -> Result<Option<Loaded<A>>, LoadError> {
        let loaded: Loaded<A> = self.0.bus.repository.load_at(&stream_of::<A>(id)?, at).await?;
        Ok((loaded.version.0 > 0).then_some(loaded))
    }

    /// Takes a snapshot of an aggregate now; says whether there was something to take.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read, the store cannot be written, or the aggregate has no
    /// snapshots.
    pub async fn snapshot<A: Apply>(&self, id: &A::Id) -> Result<bool, LoadError> {
        let Some(loaded) = self.load::<A>(id).await? else { return Ok(false) };
        let snapshot = Repository::snapshot_of(&stream_of::<A>(id)?, &loaded)
            .map_err(|e| StoreError::misuse(format!("no snapshot of {}: {e}", A::NAME)))?;
        self.0.bus.repository.put_snapshot(snapshot, loaded.history).await?;
        Ok(true)
    }

    /// A new id, from the app's clock and randomness.
    #[must_use]
    pub fn new_id(&self) -> uuid::Uuid {
        self.0.bus.ids.next()
    }

    /// The event store, to read events as they are stored.
    #[must_use]
    pub fn store(&self) -> &dyn EventStore {
        self.0.bus.store()
    }

    /// The event store, to keep.
    #[must_use]
    pub fn store_handle(&self) -> Arc<dyn EventStore> {
        self.0.bus.repository.store.clone()
    }

    /// What handlers receive by type.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.0.bus.services
    }

    /// The engines of this app: work of extension crates that does not follow the log.
    #[must_use]
    pub fn engines(&self) -> &[Arc<dyn Engine>] {
        &self.0.engines
    }

    /// The processors of this app.
    #[must_use]
    pub fn processors(&self) -> &[Processor] {
        &self.0.processors
    }

    /// The processor of a projection or view.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotRunHere`] if this app does not run it.
    pub fn processor<P: Projection>(&self) -> Result<&Processor, ProcessorError> {
        self.processor_named(&tables_of::<P>().stored_name())
    }

    /// Whether a projection has every event as soon as it is acknowledged: one that is inline or live here.
    fn is_never_behind<P: Projection>(&self) -> bool {
        self.0.never_behind.contains(&tables_of::<P>().stored_name())
    }

    fn processor_named(&self, name: &str) -> Result<&Processor, ProcessorError> {
        let found = self.0.processors.iter().find(|p| p.name() == name);
        found.ok_or_else(|| {
            let processor = name.to_owned();
            if self.0.never_behind.contains(name) {
                ProcessorError::NeverBehind { processor }
            } else {
                ProcessorError::NotRunHere { processor }
            }
        })
    }

    /// Waits until a projection has taken in what was written, to read your own write. Give it what a command gave you
    /// (then only the keys of its events are waited for), or a position. One that is inline or live is never waited for.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if it did not get there in time, if a key of the events is parked, or if this app does not run it.
    pub async fn wait_for<P: Projection>(
        &self,
        written: impl Into<Receipt> + Send,
        limit: Duration,
    ) -> Result<(), WaitError> {
        if self.is_never_behind::<P>() {
            return Ok(());
        }
        self.processor::<P>()?.wait_for(written, limit).await
    }

    /// The same, but time that runs out is no error: says whether what was written is there. For a page that would rather
    /// show what it has.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for`], except for [`WaitError::TimedOut`].
    pub async fn wait_or_stale<P: Projection>(
        &self,
        written: impl Into<Receipt> + Send,
        limit: Duration,
    ) -> Result<bool, WaitError> {
        if self.is_never_behind::<P>() {
            return Ok(true);
        }
        self.processor::<P>()?.wait_or_stale(written, limit).await
    }

    /// Waits until every processor has taken in everything that is in the log now.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if one did not get there in time.
    pub async fn settle(&self, limit: Duration) -> Result<(), WaitError> {
        let head = self.store().head().await?;
        for processor in &self.0.processors {
            processor.reach(head, limit).await?;
        }
        Ok(())
    }

    /// Empties a projection and fills it again from the whole log. Readers see it grow; returns as soon
    /// as it is empty. Watch its [`Processor`] for progress, or `wait_for` the head.
    ///
    /// # Errors
    ///
    /// [`ProcessorError`] if it could not be emptied; then nothing changed. See [`Processor::reset`].
    pub async fn rebuild<P: Projection>(&self) -> Result<(), ProcessorError> {
        self.processor::<P>()?.reset(Reset::Start).await
    }

    /// Begins to rebuild a projection next to the tables that queries read, or continues.
    ///
    /// # Errors
    ///
    /// As [`Processor::rebuild_online`].
    pub async fn rebuild_online<P: Projection>(
        &self,
        options: RebuildOptions,
    ) -> Result<Rebuild, ProcessorError> {
        self.processor::<P>()?.rebuild_online(options).await
    }

    /// Takes away what is stored of a reactor that no live node runs any more: its place in the log, and what is parked of it.
    /// Any app may ask. Says whether there was anything. A program that runs it again begins at the head of the log, as with
    /// a new one.
    ///
    /// As long as it is stored, a reactor that nobody runs keeps the part of the log that it has not handled from being
    /// archived. A version of a projection goes by [`Processor::drop_version`].
    ///
    /// What keeps state beside its place, such as a process with instances, keeps that: if a program runs it again, it begins
    /// at the head of the log, and its instances never hear of what happened in between. So do this for good only.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::RunBy`] while a live node runs it; [`ProcessorError::NotRebuildable`] for a version of a projection;
    /// [`ProcessorError::Store`].
    ///
    /// # Cancellation
    ///
    /// If its future is dropped, it is there whole, or a part of what is parked is left: call it again.
    pub async fn forget_processor(&self, name: &str) -> Result<bool, ProcessorError> {
        processor::forget(&*self.0.backend, name).await
    }

    /// Ends the app: new commands are refused, running ones may finish within `grace` and are then
    /// cancelled; processors finish their page. Says whether everything finished in time. Harmless to
    /// call twice.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.0.bus.lifecycle.shutdown(grace).await
    }
}

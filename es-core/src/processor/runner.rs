//! What a processor does with a page of events: rows, folded rows, or effects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;

use crate::BoxError;
use crate::command::{Scope, Services};
use crate::projection::{Project, Reactor, View, tables_of};
use crate::store::{
    Backend, CheckpointMove, Commit, EventFilter, RecordedEvent, StoreError, Tables, Transaction, ViewStore,
    ViewWrite,
};

/// Events taken in together.
const PAGE: usize = 1_000;

/// One kind of processing. The engine reads, the runner takes in.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    /// The stored name of its checkpoint.
    fn name(&self) -> String;
    /// What it wants to see.
    fn filter(&self) -> EventFilter;
    /// How many events it takes in at once.
    fn page_size(&self) -> usize {
        PAGE
    }
    /// Once, before the first page.
    ///
    /// # Errors
    ///
    /// What keeps the app from starting.
    async fn prepare(&self) -> Result<(), StoreError>;
    /// Takes in some events, and moves the checkpoint with what they led to.
    ///
    /// # Errors
    ///
    /// The page is tried again, from where the stored checkpoint is then.
    async fn take(
        &self,
        events: &[RecordedEvent],
        step: CheckpointMove,
        services: &Services,
    ) -> Result<(), BoxError>;
    /// Empties what it keeps, checkpoint included.
    ///
    /// # Errors
    ///
    /// Nothing changed.
    async fn reset(&self) -> Result<(), StoreError>;
}

/// A SQL projection: rows and checkpoint in one live transaction.
pub(crate) struct ProjectionRunner<B, P> {
    backend: Arc<B>,
    projection: Arc<P>,
}

impl<B, P> ProjectionRunner<B, P> {
    pub(crate) const fn new(backend: Arc<B>, projection: Arc<P>) -> Self {
        Self { backend, projection }
    }
}

#[async_trait]
impl<B: Backend, P: Project<B::Tx>> Runner for ProjectionRunner<B, P> {
    fn name(&self) -> String {
        tables_of::<P>().stored_name()
    }

    fn filter(&self) -> EventFilter {
        P::filter()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.backend.install(&tables_of::<P>()).await
    }

    async fn take(
        &self,
        events: &[RecordedEvent],
        step: CheckpointMove,
        _: &Services,
    ) -> Result<(), BoxError> {
        let mut tx = self.backend.begin().await?;
        for event in events {
            if let Err(source) = self.projection.project(event, &mut tx).await {
                // Dropping would roll back too; this way the next page does not wait for it.
                let at = FailedAt { name: event.name.to_string(), position: event.place(), source };
                tx.rollback().await?;
                return Err(at.into());
            }
        }
        tx.staged().checkpoints.push(step);
        tx.commit().await?;
        Ok(())
    }

    async fn reset(&self) -> Result<(), StoreError> {
        self.backend.reset(&tables_of::<P>()).await
    }
}

/// A keyed view: each touched row is read once, folded in memory, and written once.
pub(crate) struct ViewRunner<B, V> {
    backend: Arc<B>,
    tables: Tables,
    view: PhantomData<fn() -> V>,
}

impl<B, V: View> ViewRunner<B, V> {
    pub(crate) const fn new(backend: Arc<B>) -> Self {
        Self { backend, tables: tables_of::<V>(), view: PhantomData }
    }
}

#[async_trait]
impl<B: Backend + ViewStore, V: View> Runner for ViewRunner<B, V> {
    fn name(&self) -> String {
        self.tables.stored_name()
    }

    fn filter(&self) -> EventFilter {
        V::filter()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.backend.install(&self.tables).await
    }

    async fn take(
        &self,
        events: &[RecordedEvent],
        step: CheckpointMove,
        _: &Services,
    ) -> Result<(), BoxError> {
        let view: Arc<str> = self.tables.stored_name().into();
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            let of_event = V::changes(event).map_err(|source| FailedAt::new(event, source))?;
            changes.extend(of_event.into_iter().map(|change| (event, change)));
        }
        let mut rows: BTreeMap<String, (u64, V)> = BTreeMap::new();
        for (_, change) in &changes {
            rows.entry(change.key()).or_default();
        }
        let keys: Vec<String> = rows.keys().cloned().collect();
        for row in self.backend.rows(&view, &keys).await?.into_iter().flatten() {
            let state = crate::projection::decode_row(&row)?;
            rows.insert(row.key, (row.rev, state));
        }
        for (event, change) in changes {
            let Entry::Occupied(mut row) = rows.entry(change.key()) else { unreachable!("entered above") };
            change.apply(&mut row.get_mut().1).map_err(|source| FailedAt::new(event, source))?;
        }
        let write = |(key, (rev, row)): (String, (u64, V))| {
            let row = Some(serde_json::to_vec(&row)?.into());
            Ok::<_, serde_json::Error>(ViewWrite { view: view.clone(), key, rev, row })
        };
        let views = rows.into_iter().map(write).collect::<Result<_, _>>()?;
        self.backend.commit(Commit { views, checkpoints: vec![step], ..Commit::default() }).await?;
        Ok(())
    }

    async fn reset(&self) -> Result<(), StoreError> {
        self.backend.reset(&self.tables).await
    }
}

/// A reactor: the checkpoint moves after each effect, so a failure repeats one at most.
pub(crate) struct ReactorRunner<B, R> {
    backend: Arc<B>,
    reactor: R,
}

impl<B, R> ReactorRunner<B, R> {
    pub(crate) const fn new(backend: Arc<B>, reactor: R) -> Self {
        Self { backend, reactor }
    }
}

#[async_trait]
impl<B: Backend, R: Reactor> Runner for ReactorRunner<B, R> {
    fn name(&self) -> String {
        R::NAME.to_owned()
    }

    fn filter(&self) -> EventFilter {
        R::filter()
    }

    /// What happened before its first activation is none of its business.
    async fn prepare(&self) -> Result<(), StoreError> {
        if self.backend.checkpoint(R::NAME).await?.is_some() {
            return Ok(());
        }
        let head = self.backend.head().await?;
        let step = CheckpointMove { name: R::NAME.to_owned(), from: None, to: Some(head) };
        match self.backend.commit(Commit { checkpoints: vec![step], ..Commit::default() }).await {
            // Another node was first: then it is activated, which is what was wanted.
            Ok(_) | Err(crate::store::CommitError::Fenced { .. }) => Ok(()),
            Err(error) => Err(StoreError::transient("activating a reactor", error)),
        }
    }

    async fn take(
        &self,
        events: &[RecordedEvent],
        step: CheckpointMove,
        services: &Services,
    ) -> Result<(), BoxError> {
        let CheckpointMove { name, mut from, to } = step;
        for (i, event) in events.iter().enumerate() {
            let acted = self.reactor.react(event, Scope::new(services)).await;
            acted.map_err(|source| FailedAt::new(event, source))?;
            let to = if i + 1 == events.len() { to } else { event.position };
            let step = CheckpointMove { name: name.clone(), from, to };
            self.backend.commit(Commit { checkpoints: vec![step], ..Commit::default() }).await?;
            from = to;
        }
        Ok(())
    }

    async fn reset(&self) -> Result<(), StoreError> {
        Err(StoreError::misuse("a reactor is not rebuilt: it would act twice"))
    }
}

/// Which event a handler failed on.
#[derive(Debug, thiserror::Error)]
#[error("event {name} at {position}")]
struct FailedAt {
    name: String,
    position: crate::Position,
    #[source]
    source: BoxError,
}

impl FailedAt {
    fn new(event: &RecordedEvent, source: BoxError) -> Self {
        Self { name: event.name.to_string(), position: event.place(), source }
    }
}

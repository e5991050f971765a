//! What is asked of a processor by its stored name alone: for tools that do not have its code.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handle::change_control;
use super::parked::{self, Asker, Asking, ParkedFilter, ParkedSequence, RetriedAll};
use super::worker::has_shares;
use super::{AnyBackend, ProcessorError};
use crate::clock::Timestamp;
use crate::cluster::Shares;
use crate::state::{Build, Checkpoint, Generations, control};
use crate::store::{Backend, Generation, Position, StoreError};

/// A processor of a store, by its stored name: `balance/1` for a projection, `mails` for a reactor. What is asked of it is
/// done by a node that runs it; where none does, the request stands until one does.
#[derive(Clone)]
pub struct Desk<B> {
    pub(super) backend: Arc<B>,
    pub(super) name: String,
}

/// Without the backend.
impl<B> fmt::Debug for Desk<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The builds of a processor, by their generations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownBuilds {
    /// What queries read.
    pub current: Generation,
    /// What is being built to take its place, and since when.
    pub building: Option<(Generation, Timestamp)>,
    /// What queries read before; it is kept up to date.
    pub previous: Option<Generation>,
    /// Those on their way out.
    pub leaving: Vec<Generation>,
    /// Up to where each of the first three has handled everything.
    pub reached: BTreeMap<Generation, Position>,
    /// The head of the log.
    pub head: Position,
    /// Since when the processor is paused; `None` if it is not.
    pub paused: Option<Timestamp>,
}

impl<B: Backend> Desk<B> {
    /// Of a processor that the store knows.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if no processor of this name has ever run on the store.
    pub async fn of(backend: B, name: &str) -> Result<Self, StoreError> {
        crate::limits::row_key(name)?;
        if !has_shares(&backend, name).await? && Generations::read(&backend, name).await?.is_none() {
            let what = format!(
                "the store knows no processor {name:?}: a projection is named with its version, like `balance/1`"
            );
            return Err(StoreError::misuse(what));
        }
        Ok(Self { backend: Arc::new(backend), name: name.to_owned() })
    }

    /// Its stored name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Processor::parked`](super::Processor::parked).
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be read.
    pub async fn parked(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ParkedSequence>, ProcessorError> {
        Ok(parked::list(&*self.backend, &self.current().await?, after, limit).await?)
    }

    /// One parked sequence, by its key.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotParked`]; [`ProcessorError::Store`] if the store cannot be read.
    pub async fn parked_under(&self, key: &str) -> Result<ParkedSequence, ProcessorError> {
        let build = self.current().await?;
        let found = parked::show(&*self.backend, &build, key).await?;
        found.ok_or_else(|| ProcessorError::NotParked { build, key: key.to_owned() })
    }

    /// As [`Processor::retry`](super::Processor::retry).
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn retry(&self, key: &str, limit: Duration) -> Result<Option<ParkedSequence>, ProcessorError> {
        Asking(self).retry(key, limit).await
    }

    /// As [`Processor::retry_all`](super::Processor::retry_all).
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn retry_all(
        &self,
        filter: &ParkedFilter,
        limit: Duration,
    ) -> Result<RetriedAll, ProcessorError> {
        Asking(self).retry_all(filter, limit).await
    }

    /// As [`Processor::discard`](super::Processor::discard).
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn discard(&self, key: &str, reason: &str, limit: Duration) -> Result<(), ProcessorError> {
        Asking(self).discard(key, reason, limit).await
    }

    /// As [`Processor::discard_all`](super::Processor::discard_all).
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn discard_all(
        &self,
        filter: &ParkedFilter,
        reason: &str,
        limit: Duration,
    ) -> Result<usize, ProcessorError> {
        Asking(self).discard_all(filter, reason, limit).await
    }

    /// Its builds, and whether it is paused.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn builds(&self) -> Result<KnownBuilds, StoreError> {
        let backend = &*self.backend;
        let row = Generations::read(backend, &self.name).await?;
        let known = row.map(|row| row.value).unwrap_or_default();
        let mut reached = BTreeMap::new();
        for generation in known.all() {
            let build = known.build(&self.name, generation).to_string();
            let shares = Shares::<Checkpoint>::checkpoints().of(backend, &build).await?;
            reached
                .extend(shares.iter().map(|share| share.progress.position).min().map(|at| (generation, at)));
        }
        let asked = control().get(backend, &self.name).await?;
        let Generations { current, building, previous, leaving, .. } = known;
        Ok(KnownBuilds {
            current,
            building: building.map(|building| (building.generation, building.since)),
            previous,
            leaving,
            reached,
            head: backend.head().await?,
            paused: asked.and_then(|row| row.value.paused),
        })
    }

    /// As [`Processor::pause`](super::Processor::pause).
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be written.
    pub async fn pause(&self) -> Result<(), ProcessorError> {
        let now = self.backend.now().await?;
        change_control(&*self.backend, &self.name, |control| control.paused = control.paused.or(Some(now)))
            .await
    }

    /// As [`Processor::resume`](super::Processor::resume).
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be written.
    pub async fn resume(&self) -> Result<(), ProcessorError> {
        change_control(&*self.backend, &self.name, |control| {
            control.paused = None;
            control.resumes += 1;
        })
        .await
    }
}

impl<B: Backend> Asker for Desk<B> {
    fn backend(&self) -> &dyn AnyBackend {
        &*self.backend
    }

    async fn current(&self) -> Result<Build, StoreError> {
        let row = Generations::read(&*self.backend, &self.name).await?;
        let generations = row.map(|row| row.value).unwrap_or_default();
        Ok(generations.build(&self.name, generations.current))
    }

    fn wake(&self) {}

    fn nudge(&self) {}

    fn in_the_way(&self) -> String {
        " (the request stands: a node that runs the processor does it)".to_owned()
    }
}

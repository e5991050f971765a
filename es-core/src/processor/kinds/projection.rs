//! A SQL projection: its rows and its checkpoint in one transaction.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::admission::{Admission, Failure};
use super::runner::{Execution, Keeps, Opening, Rebuildable, Runner, Session};
use crate::BoxError;
use crate::projection::{Code, Partition, Project, projected, tables_of};
use crate::store::{
    Backend, Commit, CommitError, EventFilter, Generation, RecordedEvent, RowWrite, Transaction,
};

/// Events of one transaction: more hold its locks for longer, and gain little.
const PAGE: usize = 1_000;

pub(crate) struct ProjectionRunner<B, P> {
    backend: Arc<B>,
    projection: Arc<P>,
}

impl<B, P> ProjectionRunner<B, P> {
    pub(crate) const fn new(backend: Arc<B>, projection: Arc<P>) -> Self {
        Self { backend, projection }
    }
}

impl<B: Backend, P: Project<B::Tx>> Runner for ProjectionRunner<B, P> {
    fn name(&self) -> String {
        tables_of::<P>().stored_name()
    }

    fn filter(&self) -> EventFilter {
        P::filter()
    }

    fn code(&self) -> Code {
        P::code()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Tables(tables_of::<P>())
    }

    fn execution(&self) -> Execution {
        let splits = P::PARTITION == Partition::Stream;
        Execution { splits, on_failure: P::ON_FAILURE, page: PAGE, idempotent: P::IDEMPOTENT }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let (backend, projection) = (self.backend.clone(), self.projection.clone());
        let Opening { generation, idle, handler_limit: limit, .. } = opening;
        Box::new(ProjectionSession {
            backend,
            projection,
            generation,
            idle,
            limit,
            tx: None,
            opened: Instant::now(),
        })
    }
}

struct ProjectionSession<B: Backend, P> {
    backend: Arc<B>,
    projection: Arc<P>,
    generation: Generation,
    idle: Duration,
    /// The longest that a call of a handler may take.
    limit: Duration,
    tx: Option<B::Tx>,
    /// When the last transaction was open.
    opened: Instant,
}

#[async_trait]
impl<B: Backend, P: Project<B::Tx>> Session for ProjectionSession<B, P> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        for event in events {
            let key = event.stream.as_str();
            if !admission.admits(event, key) {
                continue;
            }
            if self.tx.is_none() {
                let begun = self.backend.begin_at(&tables_of::<P>(), self.generation, self.idle).await;
                self.tx = Some(begun.map_err(|e| Failure::of_the_store(event, key, e))?);
                self.opened = Instant::now();
            }
            let tx = self.tx.as_mut().expect("it was just opened");
            if let Err(source) = projected(self.limit, &*self.projection, event, tx).await {
                // Dropping would roll back too; this way the next transaction does not wait for it.
                if let Some(tx) = self.tx.take() {
                    drop(tx.rollback().await);
                }
                return Err(Failure::new(event, key, source));
            }
        }
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.flush_with(Commit { rows, ..Commit::default() }).await
    }

    fn held(&self) -> Option<Duration> {
        self.tx.as_ref().map(|_| self.opened.elapsed())
    }

    fn rebuildable(&mut self) -> Option<&mut dyn Rebuildable> {
        Some(self)
    }
}

#[async_trait]
impl<B: Backend, P: Project<B::Tx>> Rebuildable for ProjectionSession<B, P> {
    async fn flush_with(&mut self, commit: Commit) -> Result<(), CommitError> {
        let Some(mut tx) = self.tx.take() else { return self.backend.commit(commit).await.map(drop) };
        *tx.staged() = commit;
        tx.commit().await.map(drop)
    }
}

//! A SQL projection: its rows and its checkpoint in one transaction.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::BoxError;
use crate::guarded::call;
use crate::processor::runner::{Runner, Session, Traits};
use crate::processor::work::{Failure, Work};
use crate::projection::{Partition, Project, tables_of};
use crate::services::Services;
use crate::store::{
    Backend, Commit, CommitError, EventFilter, Generation, RecordedEvent, RowWrite, Tables, Transaction,
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

    fn tables(&self) -> Option<Tables> {
        Some(tables_of::<P>())
    }

    fn traits(&self) -> Traits {
        let splits = P::PARTITION == Partition::Stream;
        Traits { splits, on_failure: P::ON_FAILURE, page: PAGE, folds: false, idempotent: P::IDEMPOTENT }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, generation: Generation, _: &Arc<Services>, idle: Duration) -> Box<dyn Session> {
        let (backend, projection) = (self.backend.clone(), self.projection.clone());
        Box::new(ProjectionSession { backend, projection, generation, idle, tx: None })
    }
}

struct ProjectionSession<B: Backend, P> {
    backend: Arc<B>,
    projection: Arc<P>,
    generation: Generation,
    idle: Duration,
    tx: Option<B::Tx>,
}

#[async_trait]
impl<B: Backend, P: Project<B::Tx>> Session for ProjectionSession<B, P> {
    async fn fold(&mut self, events: &[&RecordedEvent], work: &mut Work<'_>) -> Result<(), Failure> {
        for event in events {
            let key = event.stream.as_str();
            if !work.admits(event, key) {
                continue;
            }
            if self.tx.is_none() {
                let begun = self.backend.begin_at(&tables_of::<P>(), self.generation, self.idle).await;
                self.tx = Some(begun.map_err(|e| Failure::new(event, key, e))?);
            }
            let tx = self.tx.as_mut().expect("it was just opened");
            if let Err(source) = call(self.projection.project(event, tx)).await {
                // Dropping would roll back too; this way whoever comes next does not wait for it.
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

    async fn flush_with(&mut self, commit: Commit) -> Result<(), CommitError> {
        let Some(mut tx) = self.tx.take() else { return self.backend.commit(commit).await.map(drop) };
        *tx.staged() = commit;
        tx.commit().await.map(drop)
    }
}

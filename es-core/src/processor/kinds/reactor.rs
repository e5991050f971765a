//! A reactor: its checkpoint moves after each event, so a failure repeats one effect at most.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::BoxError;
use crate::guarded::call;
use crate::processor::runner::{Runner, Session, Traits};
use crate::processor::work::{Failure, Work};
use crate::projection::Reactor;
use crate::services::{Scope, Services};
use crate::store::{Backend, Commit, CommitError, EventFilter, Generation, RecordedEvent, RowWrite, Tables};

pub(crate) struct ReactorRunner<B, R> {
    backend: Arc<B>,
    reactor: Arc<R>,
}

impl<B, R> ReactorRunner<B, R> {
    pub(crate) fn new(backend: Arc<B>, reactor: R) -> Self {
        Self { backend, reactor: Arc::new(reactor) }
    }
}

impl<B: Backend, R: Reactor> Runner for ReactorRunner<B, R> {
    fn name(&self) -> String {
        R::NAME.to_owned()
    }

    fn filter(&self) -> EventFilter {
        R::filter()
    }

    fn tables(&self) -> Option<Tables> {
        None
    }

    fn traits(&self) -> Traits {
        Traits { on_failure: R::ON_FAILURE, page: 1, ..Traits::default() }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, _: Generation, services: &Arc<Services>, _: Duration) -> Box<dyn Session> {
        let (backend, reactor) = (self.backend.clone(), self.reactor.clone());
        Box::new(ReactorSession { backend, reactor, services: services.clone() })
    }
}

struct ReactorSession<B, R> {
    backend: Arc<B>,
    reactor: Arc<R>,
    services: Arc<Services>,
}

#[async_trait]
impl<B: Backend, R: Reactor> Session for ReactorSession<B, R> {
    async fn fold(&mut self, events: &[&RecordedEvent], work: &mut Work<'_>) -> Result<(), Failure> {
        for event in events {
            let key = event.stream.as_str();
            if work.admits(event, key) {
                let acted = call(self.reactor.react(event, Scope::new(&self.services))).await;
                acted.map_err(|source| Failure::new(event, key, source))?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.backend.commit(Commit { rows, ..Commit::default() }).await.map(drop)
    }
}

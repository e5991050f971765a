//! A reactor: its checkpoint moves after each event, so a failure repeats one effect at most.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::admission::{Admission, Failure};
use super::runner::{Execution, Keeps, Opening, Runner, Session};
use crate::BoxError;
use crate::guarded::call;
use crate::projection::{Code, Reactor};
use crate::services::{Scope, Services};
use crate::store::{Backend, Commit, CommitError, EventFilter, RecordedEvent, RowWrite};

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

    fn code(&self) -> Code {
        R::code()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    fn execution(&self) -> Execution {
        Execution { on_failure: R::ON_FAILURE, page: 1, ..Execution::default() }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let (backend, reactor) = (self.backend.clone(), self.reactor.clone());
        let (services, limit) = (opening.services.clone(), opening.handler_limit);
        Box::new(ReactorSession { backend, reactor, services, limit })
    }
}

struct ReactorSession<B, R> {
    backend: Arc<B>,
    reactor: Arc<R>,
    services: Arc<Services>,
    /// The longest that a call of a handler may take.
    limit: Duration,
}

#[async_trait]
impl<B: Backend, R: Reactor> Session for ReactorSession<B, R> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        for event in events {
            let key = event.stream.as_str();
            if admission.admits(event, key) {
                let acted = call(self.limit, self.reactor.react(event, Scope::new(&self.services))).await;
                acted.map_err(|source| Failure::new(event, key, source))?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.backend.commit(Commit { rows, ..Commit::default() }).await.map(drop)
    }
}

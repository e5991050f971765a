//! A reactor: the calls of one stream are made one after the other, and those of several streams at the same time. The
//! checkpoint moves over a batch once all of it is done. Without a partition a batch is one event.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::admission::{Admission, Failure};
use super::effects::Calls;
use super::runner::{Execution, Keeps, Opening, Runner, Session};
use crate::BoxError;
use crate::guarded::call;
use crate::limits::MAX_PAGE;
use crate::projection::{Code, Partition, Reactor};
use crate::services::{Scope, Services};
use crate::store::{Backend, Commit, CommitError, EventFilter, RecordedEvent, RowWrite};

/// How many events a batch has for each call that may be in flight: so there is work for all while some keys have several
/// events, and a crash repeats no more than these.
const BATCH: usize = 8;

pub(crate) struct ReactorRunner<B, R> {
    backend: Arc<B>,
    reactor: Arc<R>,
}

impl<B, R: Reactor> ReactorRunner<B, R> {
    pub(crate) fn new(backend: Arc<B>, reactor: R) -> Self {
        const { assert!(R::IN_FLIGHT > 0, "the `IN_FLIGHT` of a reactor is at least 1") }
        Self { backend, reactor: Arc::new(reactor) }
    }
}

/// How many calls of a range are in flight at most.
const fn in_flight<R: Reactor>() -> usize {
    match R::PARTITION {
        Partition::Whole => 1,
        Partition::Stream => R::IN_FLIGHT,
    }
}

impl<B: Backend, R: Reactor> Runner for ReactorRunner<B, R> {
    fn name(&self) -> String {
        R::NAME.to_owned()
    }

    fn was(&self) -> Option<&'static str> {
        R::WAS
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
        let (splits, page) = match R::PARTITION {
            Partition::Whole => (false, 1),
            Partition::Stream => (true, R::IN_FLIGHT.saturating_mul(BATCH).min(MAX_PAGE)),
        };
        Execution { splits, on_failure: R::ON_FAILURE, page, idempotent: false }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let (backend, reactor) = (self.backend.clone(), self.reactor.clone());
        let (services, calls, limit) = (opening.services.clone(), opening.calls(), opening.handler_limit);
        Box::new(ReactorSession { backend, reactor, services, calls, limit })
    }
}

struct ReactorSession<B, R> {
    backend: Arc<B>,
    reactor: Arc<R>,
    services: Arc<Services>,
    calls: Calls,
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
        let by_stream = events.iter().map(|event| (*event, event.stream.as_str()));
        let batch: Vec<_> = by_stream.filter(|(event, key)| admission.admits(event, key)).collect();
        let act = |nth: usize| {
            let (event, _) = batch[nth];
            call(self.limit, event, self.reactor.react(event, Scope::new(&self.services)))
        };
        self.calls.make(&batch, in_flight::<R>(), act).await
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.backend.commit(Commit { rows, ..Commit::default() }).await.map(drop)
    }
}

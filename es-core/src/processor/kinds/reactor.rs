//! A reactor: of a batch, the calls of one key are made one after the other, and those of several keys at the same time. The
//! checkpoint moves over a batch once all of it is done. Without a partition a batch is one event.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::admission::{Admission, Failure};
use super::effects::{Effects, Interrupted};
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
        let Opening { services, effects, handler_limit: limit, .. } = opening;
        Box::new(ReactorSession {
            backend,
            reactor,
            services: services.clone(),
            effects: effects.clone(),
            limit,
        })
    }
}

struct ReactorSession<B, R> {
    backend: Arc<B>,
    reactor: Arc<R>,
    services: Arc<Services>,
    effects: Arc<Effects>,
    /// The longest that a call of a handler may take.
    limit: Duration,
}

impl<B: Backend, R: Reactor> ReactorSession<B, R> {
    async fn act<'e>(&self, event: &'e RecordedEvent) -> (&'e RecordedEvent, Result<(), BoxError>) {
        (event, call(self.limit, self.reactor.react(event, Scope::new(&self.services))).await)
    }

    /// Makes the calls of a batch that are not made yet, and remembers what they come to. Once one has failed, or none may
    /// begin any more, those in flight are waited for.
    async fn act_on(&self, events: &[&RecordedEvent]) {
        let mut ready = BTreeMap::new();
        // Of each key that has a call to be made, the events after it.
        let mut behind = HashMap::<&str, VecDeque<&RecordedEvent>>::new();
        for event in events {
            match self.effects.succeeded(event.place()) {
                Some(true) => continue,
                Some(false) => break,
                None => {}
            }
            match behind.get_mut(event.stream.as_str()) {
                Some(queue) => queue.push_back(event),
                None => {
                    behind.insert(event.stream.as_str(), VecDeque::new());
                    ready.insert(event.place(), *event);
                }
            }
        }
        let (mut calls, mut failed) = (FuturesUnordered::new(), false);
        loop {
            while !failed && calls.len() < in_flight::<R>() && self.effects.may_begin() {
                let Some((_, event)) = ready.pop_first() else { break };
                calls.push(self.act(event));
            }
            let Some((event, outcome)) = calls.next().await else { return };
            failed |= outcome.is_err();
            self.effects.remember(event.place(), outcome);
            let next = behind.get_mut(event.stream.as_str()).and_then(VecDeque::pop_front);
            ready.extend(next.map(|next| (next.place(), next)));
        }
    }
}

#[async_trait]
impl<B: Backend, R: Reactor> Session for ReactorSession<B, R> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        let mut admitted = Vec::with_capacity(events.len());
        admitted
            .extend(events.iter().filter(|event| admission.admits(event, event.stream.as_str())).copied());
        self.act_on(&admitted).await;
        for event in admitted {
            let outcome = self.effects.take(event.place()).unwrap_or_else(|| Err(Interrupted.into()));
            outcome.map_err(|source| Failure::new(event, event.stream.as_str(), source))?;
        }
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.backend.commit(Commit { rows, ..Commit::default() }).await.map(drop)
    }
}

//! A store that answers when it likes, and a clock.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::store::{
    Append, Commit, CommitError, ExpectedVersion, NewEvent, Position, Resolution, RowWrite, StreamId, Table,
};
use es_core::testing::TestClock;
use es_core::{App, AppBuilder, Backend, ErrorKind, Event, EventStore as _};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Subject;

/// Longer than anything takes here; nothing waits this long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1_200);
const LEASE: Duration = Duration::from_millis(800);

pub(crate) struct Ground<'s, S: Subject> {
    pub(crate) subject: &'s S,
    pub(crate) backend: S::Backend,
    pub(crate) clock: TestClock,
    /// When the clock was moved on with time, if it is.
    flows: Mutex<Option<Instant>>,
}

impl<'s, S: Subject> Ground<'s, S> {
    pub(crate) async fn open(subject: &'s S) -> Self {
        let clock = TestClock::default();
        let backend = subject.open(clock.clone()).await;
        Self::on(subject, backend, clock)
    }

    /// A store that is open.
    pub(crate) fn on(subject: &'s S, backend: S::Backend, clock: TestClock) -> Self {
        Self { subject, backend, clock, flows: Mutex::default() }
    }

    /// Another node, with what is wired.
    pub(crate) async fn join(&self, wire: impl Fn(AppBuilder<S::Backend>) -> AppBuilder<S::Backend>) -> App {
        self.join_over(&self.subject.again(&self.backend, &self.clock).await, wire).await
    }

    /// The same, over a line of its own to the store.
    pub(crate) async fn join_over<B: Backend + Clone>(
        &self,
        backend: &B,
        wire: impl Fn(AppBuilder<B>) -> AppBuilder<B>,
    ) -> App {
        self.join_by(&self.clock, backend, wire).await
    }

    /// The same, of a machine with this clock.
    pub(crate) async fn join_by<B: Backend + Clone>(
        &self,
        clock: &TestClock,
        backend: &B,
        wire: impl Fn(AppBuilder<B>) -> AppBuilder<B>,
    ) -> App {
        loop {
            let app = wire(App::on(backend.clone()).clock(clock.clone())).lease(LEASE);
            match app.processor_retries(2, Duration::from_millis(5), Duration::from_millis(50)).start().await
            {
                Ok(app) => return app,
                Err(error) => assert!(error.to_string().contains("could not be done now"), "{error}"),
            }
        }
    }

    /// From now on the clock goes with time: a lease runs out.
    pub(crate) fn flow(&self) {
        self.flows.lock().unwrap().get_or_insert_with(Instant::now);
    }

    pub(crate) fn tick(&self) {
        if let Some(since) = &mut *self.flows.lock().unwrap() {
            // Where nobody looked for long, in no jump: nodes that are at work renew their leases in between.
            self.clock.advance(since.elapsed().min(LEASE / 8));
            *since = Instant::now();
        }
    }

    pub(crate) fn seconds(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn tell_to(&self, stream: &str, events: Vec<impl Event>) -> Position {
        let event = |event: &_| NewEvent::new(Uuid::new_v4(), Event::encode(event).unwrap(), Arc::default());
        let append = Append {
            stream: StreamId::new(stream).unwrap(),
            expected: ExpectedVersion::Any,
            events: events.iter().map(event).collect(),
        };
        self.commit(Commit { appends: vec![append], ..Commit::default() }).await
    }

    /// Until it is answered.
    pub(crate) async fn commit(&self, commit: Commit) -> Position {
        loop {
            match self.backend.commit(commit.clone()).await {
                Ok(committed) => return committed.position,
                // What is unknown may still be applied: it is sent again only if it never will be.
                Err(CommitError::Unknown(attempt)) => {
                    let resolved = self.ask(|| self.backend.resolve(&attempt)).await;
                    if let Resolution::Applied(committed) = resolved {
                        return committed.position;
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            }
            self.pause().await;
        }
    }

    /// Until there is a row of a key.
    pub(crate) async fn until_stored(&self, table: &Table<Value>, key: &str) {
        let begun = Instant::now();
        while !self.ask(|| table.all(&self.backend)).await.iter().any(|row| row.key.contains(key)) {
            assert!(begun.elapsed() < PATIENCE, "there is no row of {key}");
            self.pause().await;
        }
    }

    /// Replaces the value of the row of a key; gives the one of before.
    pub(crate) async fn overwrite(&self, table: &Table<Value>, key: &str, value: &Value) -> Value {
        let all = self.ask(|| table.all(&self.backend)).await;
        let mut row = all.into_iter().find(|row| row.key.contains(key)).unwrap();
        let before = std::mem::replace(&mut row.value, value.clone());
        let write: RowWrite = table.put(&row).unwrap();
        // Rows have no id: written twice it would be refused, and that says that it was written.
        loop {
            let commit = Commit { rows: vec![write.clone()], ..Commit::default() };
            match self.backend.commit(commit).await {
                Ok(_) => return before,
                Err(error) if error.kind() == ErrorKind::Conflict => return before,
                Err(_) => self.pause().await,
            }
        }
    }

    pub(crate) async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.tick();
    }

    pub(crate) async fn ask<T, E: fmt::Debug>(&self, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
        let mut last = None;
        for _ in 0..1_000 {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => last = Some(error),
            }
            self.pause().await;
        }
        panic!("nothing but errors: {last:?}")
    }
}

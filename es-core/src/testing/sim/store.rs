//! The contract, with delays and faults around it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::SimStore;
use super::chance::{Luck, Wake};
use crate::memory::MemoryBackend;
use crate::services::Services;
use crate::slices::Slices;
use crate::store::{
    Attempt, Backend, Builds, Commit, CommitError, Committed, EventFilter, EventStore, Generation,
    IdempotencyKey, Outcome, Page, Position, RecordedEvent, Resolution, RowSnapshot, RowStore, Snapshot,
    SnapshotStore, Span, StoreError, StoredRow, StreamId, Tables, Touched, Version,
};

/// One try of a commit: its name, and the rows that it touches.
pub(super) struct Try {
    attempt: Attempt,
    touched: Touched,
    /// Whether it leaves anything that proves it.
    leaves: bool,
}

/// A commit, ready to be applied at some moment, or never.
pub(super) type Work = Box<dyn FnOnce() -> Result<Committed, CommitError> + Send>;

impl SimStore {
    pub(super) fn memory(&self) -> &MemoryBackend {
        &self.0.memory
    }

    /// Gives a commit a name, unless its writer has.
    pub(super) fn name(&self, commit: &mut Commit) -> Try {
        if commit.attempt.is_nil() {
            commit.attempt = self.0.fates.next_attempt();
        }
        let attempt = Attempt::of(commit.attempt, commit);
        Try { attempt, touched: Touched::from(&*commit), leaves: true }
    }

    fn is_calm(&self) -> bool {
        self.0.calm.load(Ordering::Relaxed)
    }

    pub(super) async fn delay(&self) {
        tokio::time::sleep(self.0.dice.delay()).await;
    }

    /// A call that changes nothing that must not happen twice: it takes its time, and may fail.
    pub(super) async fn call(&self, what: &'static str) -> Result<(), StoreError> {
        self.delay().await;
        if !self.is_calm() && self.0.dice.read_fails() {
            return Err(StoreError::transient(what, std::io::Error::other("simulated")));
        }
        Ok(())
    }

    /// What is stored now, delivered later.
    async fn read_now<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let found = now(read);
        self.call("a read").await?;
        found
    }

    /// One attempt, with an outcome from the dice. Half of the attempts go on when their caller is gone.
    pub(super) async fn attempt(&self, attempt: Try, work: Work) -> Result<Committed, CommitError> {
        let run = self.clone().run(attempt, work);
        if self.0.dice.heads() {
            return run.await;
        }
        tokio::spawn(run).await.unwrap_or_else(|gone| Err(StoreError::transient("a commit", gone).into()))
    }

    async fn run(self, Try { attempt, touched, leaves }: Try, work: Work) -> Result<Committed, CommitError> {
        self.delay().await;
        let luck = if self.is_calm() { Luck::Fine } else { self.0.dice.commit() };
        if matches!(luck, Luck::AnswerLost | Luck::RequestLost | Luck::AppliedLate) {
            self.0.dice.count(|c| c.unknown += 1);
        }
        match luck {
            Luck::Fine => {
                let outcome = self.apply(attempt.id, leaves, work, &touched);
                let outcome = outcome.unwrap_or_else(|| Err(given_up(attempt.id)));
                self.delay().await;
                outcome
            }
            Luck::Fails => {
                self.0.dice.count(|c| c.failed += 1);
                Err(StoreError::transient("a commit", std::io::Error::other("simulated")).into())
            }
            Luck::AnswerLost => {
                drop(self.apply(attempt.id, leaves, work, &touched));
                self.delay().await;
                Err(CommitError::Unknown(Box::new(attempt)))
            }
            Luck::RequestLost => Err(CommitError::Unknown(Box::new(attempt))),
            Luck::AppliedLate => {
                self.apply_late(attempt.id, leaves, work, touched);
                Err(CommitError::Unknown(Box::new(attempt)))
            }
        }
    }

    fn apply_late(&self, attempt: Uuid, leaves: bool, work: Work, touched: Touched) {
        let sim = self.clone();
        drop(tokio::spawn(async move {
            tokio::time::sleep(sim.0.dice.late()).await;
            let applied = sim.apply(attempt, leaves, work, &touched);
            sim.0.dice.count(|c| match applied {
                None => c.fenced += 1,
                Some(Ok(_)) => c.applied_late += 1,
                Some(Err(_)) => {}
            });
        }));
    }

    /// Applies an attempt unless it is fenced, and wakes the readers, or not.
    fn apply(
        &self,
        attempt: Uuid,
        leaves: bool,
        work: Work,
        touched: &Touched,
    ) -> Option<Result<Committed, CommitError>> {
        let outcome = self.0.fates.apply(attempt, leaves, work)?;
        self.0.dice.count(|c| match &outcome {
            Ok(_) => c.applied += 1,
            Err(_) => c.refused += 1,
        });
        if outcome.is_ok() {
            self.wake(touched);
        }
        Some(outcome)
    }

    fn wake(&self, touched: &Touched) {
        match self.0.dice.wake() {
            Wake::Lost => {}
            Wake::Now => self.wake_readers(touched),
            Wake::Late => {
                let (sim, touched) = (self.clone(), touched.clone());
                drop(tokio::spawn(async move {
                    tokio::time::sleep(sim.0.dice.late()).await;
                    sim.wake_readers(&touched);
                }));
            }
        }
    }

    fn wake_readers(&self, touched: &Touched) {
        self.0.row_wakes.touch(touched);
        let Ok(head) = now(self.memory().head()) else { return };
        let mut readers = self.0.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !reader.is_closed());
        for reader in &*readers {
            reader.send_if_modified(|known| {
                let moved = head > *known;
                *known = head.max(*known);
                moved
            });
        }
    }
}

/// Its writer named it, and had asked before what became of it.
fn given_up(attempt: Uuid) -> CommitError {
    StoreError::misuse(format!("attempt {attempt} was given up: send it under another name")).into()
}

/// The memory backend has no await points.
fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("the memory backend answers at once")
}

#[async_trait]
impl EventStore for SimStore {
    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        let attempt = Try { leaves: !commit.only_looks(), ..self.name(&mut commit) };
        let memory = self.memory().clone();
        self.attempt(attempt, Box::new(move || now(memory.commit(commit)))).await
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        self.call("resolving an attempt").await?;
        let ask = || now(self.memory().resolve(attempt));
        let resolution = self.0.fates.resolve(attempt.id, ask)?;
        self.0.dice.count(|c| match resolution {
            Resolution::Applied(_) => c.resolved_applied += 1,
            Resolution::Never => c.resolved_never += 1,
        });
        // The answer can be lost as well; asked again, it is the same.
        self.call("resolving an attempt").await?;
        Ok(resolution)
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.read_now(self.memory().stream(id, after, limit)).await
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        self.read_now(self.memory().read(filter, after, limit)).await
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        self.read_now(self.memory().at(positions)).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.read_now(self.memory().head()).await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.read_now(self.memory().position_at(time)).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.read_now(self.memory().now()).await
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        self.read_now(self.memory().outcome(key)).await
    }

    fn watch(&self) -> watch::Receiver<Position> {
        let (reader, wake) = watch::channel(Position(0));
        self.0.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        wake
    }

    fn identity(&self) -> Uuid {
        self.memory().identity()
    }

    fn history(&self) -> u64 {
        0
    }
}

#[async_trait]
impl SnapshotStore for SimStore {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.read_now(self.memory().snapshot(stream)).await
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.call("storing a snapshot").await?;
        now(self.memory().put_snapshot(snapshot))?;
        self.call("storing a snapshot").await
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.call("dropping a snapshot").await?;
        now(self.memory().drop_snapshot(stream))?;
        self.call("dropping a snapshot").await
    }
}

#[async_trait]
impl RowStore for SimStore {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        self.read_now(self.memory().rows(table, keys)).await
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.read_now(self.memory().scan(table, after, limit)).await
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        self.read_now(self.memory().scan_many(table, spans)).await
    }

    /// Wakes as those of the log: late, lost, or in time.
    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        self.0.row_wakes.watch(table, slices)
    }
}

#[async_trait]
impl Backend for SimStore {
    type Tx = super::SimTx;

    async fn begin(&self) -> Result<Self::Tx, StoreError> {
        self.call("opening a transaction").await?;
        Ok(super::SimTx::new(self.clone(), now(self.memory().begin())?))
    }

    fn provide(&self, services: &mut Services, own: &[Tables]) {
        self.memory().provide(services, own);
        services.replace(std::sync::Arc::new(self.clone()));
    }

    async fn begin_at(
        &self,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<Self::Tx, StoreError> {
        self.call("opening a transaction").await?;
        Ok(super::SimTx::new(self.clone(), now(self.memory().begin_at(tables, generation, idle))?))
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        // Also behind the error of a command, say: as the other backends know it.
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        causes.any(|error| {
            error.downcast_ref::<StoreError>().is_some_and(|e| e.kind() == crate::ErrorKind::Transient)
        })
    }
}

#[async_trait]
impl Builds for SimStore {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.call("installing tables").await?;
        now(self.memory().install(tables, generation))
    }

    async fn check(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.read_now(self.memory().check(tables, generation)).await
    }

    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        mut commit: Commit,
    ) -> Result<Committed, CommitError> {
        let (memory, tables) = (self.memory().clone(), *tables);
        let attempt = self.name(&mut commit);
        self.attempt(attempt, Box::new(move || now(memory.clear(&tables, generation, commit)))).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        mut commit: Commit,
    ) -> Result<Committed, CommitError> {
        let (memory, tables) = (self.memory().clone(), *tables);
        let attempt = self.name(&mut commit);
        self.attempt(attempt, Box::new(move || now(memory.uninstall(&tables, generation, commit)))).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        mut commit: Commit,
    ) -> Result<Committed, CommitError> {
        let (memory, tables) = (self.memory().clone(), *tables);
        let attempt = self.name(&mut commit);
        self.attempt(attempt, Box::new(move || now(memory.switch(&tables, to, commit)))).await
    }

    async fn publish(&self, tables: &Tables, mut commit: Commit) -> Result<Committed, CommitError> {
        let (memory, tables) = (self.memory().clone(), *tables);
        let attempt = self.name(&mut commit);
        self.attempt(attempt, Box::new(move || now(memory.publish(&tables, commit)))).await
    }

    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        mut commit: Commit,
    ) -> Result<Committed, CommitError> {
        let (memory, projection) = (self.memory().clone(), projection.to_owned());
        let attempt = self.name(&mut commit);
        let remove = move || now(memory.remove_version(&projection, version, commit));
        self.attempt(attempt, Box::new(remove)).await
    }

    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError> {
        self.read_now(self.memory().row_snapshot()).await
    }
}

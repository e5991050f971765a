//! Aggregates: load is snapshot, tail and fold; what was loaded is kept, and proven before it is believed.

mod error;
mod shown;

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache as QuickCache;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use tracing::{Instrument as _, Level, enabled};

pub use self::error::LoadError;
use crate::clock::Timestamp;
use crate::event::DecodeError;
use crate::guarded::caught_now;
use crate::limits::{LimitError, MAX_NAME};
use crate::snapshot::Situation;
use crate::store::{
    EventId, EventStore, Position, RecordedEvent, Snapshot, SnapshotStore, StoreError, StreamId, Version,
    is_full,
};
use crate::{Aggregate, Apply, Event};

/// Events read at once while loading. The next page is read while this one is folded.
const PAGE: usize = 2_500;

/// Events folded before other tasks of the thread have their turn.
const TURN: usize = 1_000;

/// An aggregate's state, and where its stream is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded<A> {
    /// The folded state.
    pub state: A,
    /// How many events are folded in; 0 if there is no such aggregate.
    pub version: Version,
    /// The position of the last of them.
    pub position: Position,
    /// The last of them: tells a snapshot of another history.
    pub(crate) last: EventId,
    /// The history of the store that it was read in, as the store counts them: what an operator has replaced since, or a
    /// restore has taken, may be in it.
    pub(crate) history: u64,
    /// What the load cost, for the snapshot policy.
    pub(crate) cost: Cost,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) took: Duration,
    pub(crate) events: u64,
}

impl<A> std::ops::Deref for Loaded<A> {
    type Target = A;
    fn deref(&self) -> &A {
        &self.state
    }
}

impl<A: Default> Default for Loaded<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            version: Version(0),
            position: Position(0),
            last: EventId::nil(),
            history: 0,
            cost: Cost::default(),
        }
    }
}

impl<A: Apply> Loaded<A> {
    /// Takes in one stored event.
    fn fold(&mut self, stored: &RecordedEvent) -> Result<(), LoadError> {
        for event in A::Event::decode(stored).map_err(DecodeError::of_a_load)? {
            // A state that panicked half way is not kept: whoever loads drops it with the error.
            caught_now(|| self.state.apply(&event))
                .map_err(|panic| LoadError::Panicked { aggregate: A::NAME, panic: panic.0 })?;
        }
        self.version = stored.version;
        self.position = stored.place();
        self.last = stored.id;
        Ok(())
    }
}

/// A point in an aggregate's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// After this many of its events.
    Version(Version),
    /// After everything up to this position of the log.
    Position(Position),
    /// After everything recorded up to and at this time.
    Time(Timestamp),
}

impl At {
    fn is_before(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Version(version) => event.version > version,
            Self::Position(position) => event.place() > position,
            Self::Time(time) => event.recorded_at > time,
        }
    }
}

/// The stream of an aggregate.
///
/// # Errors
///
/// The id makes a stream id that is too long or has control characters.
pub(crate) fn stream_of<A: Aggregate>(id: &A::Id) -> Result<StreamId, LimitError> {
    // A buffer that is used again: every command comes through here.
    thread_local! {
        static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
    }
    let mut text = BUFFER.take();
    text.clear();
    text.push_str(A::NAME);
    text.push('-');
    write!(text, "{id}").expect("writing to a string");
    if text.len() == A::NAME.len() + 1 {
        return Err(LimitError::Empty { field: "aggregate id" });
    }
    let stream = StreamId::new(&*text);
    if text.capacity() <= 4 * MAX_NAME {
        BUFFER.set(text);
    }
    stream
}

/// Reads and folds; knows no cache.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
}

impl std::fmt::Debug for dyn SnapshotStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotStore")
    }
}

impl Repository {
    /// The newest state: its snapshot, if it can be used, and the tail.
    pub(crate) async fn load<A: Apply>(&self, stream: &StreamId) -> Result<Loaded<A>, LoadError> {
        if !enabled!(Level::DEBUG) {
            return self.load_now(stream).await;
        }
        let span = shown::span::<A>(stream);
        let loaded = Box::pin(self.load_now(stream)).instrument(span.clone()).await?;
        let from = if loaded.cost.events < loaded.version.0 { "snapshot" } else { "start" };
        shown::read(&span, from, &loaded, loaded.cost.events);
        Ok(loaded)
    }

    async fn load_now<A: Apply>(&self, stream: &StreamId) -> Result<Loaded<A>, LoadError> {
        let started = Instant::now();
        // The first events of one history and the next ones of another fold to what never was.
        loop {
            let history = self.store.history();
            let mut loaded = match A::snapshots().is_on() {
                true => self.start(stream).await?,
                false => Loaded::default(),
            };
            let events = self.catch_up(stream, &mut loaded).await?;
            if self.store.history() == history {
                (loaded.cost, loaded.history) = (Cost { took: started.elapsed(), events }, history);
                return Ok(loaded);
            }
        }
    }

    /// The state at a point in the past, from its events alone.
    pub(crate) async fn load_at<A: Apply>(&self, stream: &StreamId, at: At) -> Result<Loaded<A>, LoadError> {
        loop {
            let history = self.store.history();
            let loaded = self.load_before(stream, at).await?;
            if self.store.history() == history {
                return Ok(loaded);
            }
        }
    }

    async fn load_before<A: Apply>(&self, stream: &StreamId, at: At) -> Result<Loaded<A>, LoadError> {
        let mut loaded = Loaded::default();
        loop {
            let page = self.store.stream(stream, loaded.version, PAGE).await?;
            for event in &page {
                if at.is_before(event) {
                    return Ok(loaded);
                }
                loaded.fold(event)?;
            }
            if !is_full(&page, PAGE) {
                return Ok(loaded);
            }
        }
    }

    /// Brings a kept state up to date; says whether it was. One whose last event is not in the stream is of another history
    /// of the store, which lost its last commits or was restored: it is loaded anew. So is one that the store has another
    /// history than, although its last event is there: a payload before it may have been replaced.
    pub(crate) async fn refresh<A: Apply>(
        &self,
        stream: &StreamId,
        kept: &mut Loaded<A>,
    ) -> Result<bool, LoadError> {
        if !enabled!(Level::DEBUG) {
            return self.refresh_now(stream, kept).await;
        }
        let (span, before) = (shown::span::<A>(stream), kept.version.0);
        let same = Box::pin(self.refresh_now(stream, kept)).instrument(span.clone()).await?;
        shown::read(&span, "kept", kept, kept.version.0.saturating_sub(before));
        Ok(same)
    }

    async fn refresh_now<A: Apply>(
        &self,
        stream: &StreamId,
        kept: &mut Loaded<A>,
    ) -> Result<bool, LoadError> {
        let same = match kept.version.0.checked_sub(1) {
            None => Some(self.catch_up(stream, kept).await? == 0),
            Some(before) => {
                let page = self.store.stream(stream, Version(before), PAGE).await?;
                match page.split_first() {
                    Some((last, since)) if last.id == kept.last => {
                        since.iter().try_for_each(|event| kept.fold(event))?;
                        if is_full(&page, PAGE) {
                            self.catch_up(stream, kept).await?;
                        }
                        Some(since.is_empty())
                    }
                    _ => None,
                }
            }
        };
        if let Some(same) = same.filter(|_| self.store.history() == kept.history) {
            return Ok(same);
        }
        tracing::warn!(%stream, version = kept.version.0, "the store has another history than the state that was kept: it is loaded anew");
        // Also if that fails: nobody may go on with what is a part of each.
        *kept = Loaded::default();
        *kept = self.load(stream).await?;
        Ok(false)
    }

    /// Folds in what was appended since; says how many events that was.
    async fn catch_up<A: Apply>(&self, stream: &StreamId, loaded: &mut Loaded<A>) -> Result<u64, LoadError> {
        let from = loaded.version;
        let mut page = self.store.stream(stream, from, PAGE).await?;
        while let Some(last) = page.last() {
            if !is_full(&page, PAGE) {
                page.iter().try_for_each(|event| loaded.fold(event))?;
                break;
            }
            let next = self.store.stream(stream, last.version, PAGE);
            // Polled first, so that the store reads the next page while this one is folded.
            let fold = async {
                for events in page.chunks(TURN) {
                    events.iter().try_for_each(|event| loaded.fold(event))?;
                    tokio::task::yield_now().await;
                }
                Ok::<_, LoadError>(())
            };
            let (next, folded) = futures::join!(next, fold);
            folded?;
            page = next?;
        }
        Ok(loaded.version.0 - from.0)
    }

    /// The state of the stored snapshot, or nothing folded yet if there is none that can be used.
    async fn start<A: Apply>(&self, stream: &StreamId) -> Result<Loaded<A>, StoreError> {
        let found = match self.snapshots.snapshot(stream).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%stream, error = &error as &dyn std::error::Error, "snapshot unreadable, full replay");
                None
            }
        };
        let Some(snapshot) = found else { return Ok(Loaded::default()) };
        match self.accept(&snapshot).await? {
            Ok(loaded) => Ok(loaded),
            Err(why) => {
                tracing::warn!(%stream, version = snapshot.version.0, why, "snapshot ignored, full replay");
                Ok(Loaded::default())
            }
        }
    }

    /// A snapshot is believed if its last event stands in the stream: else it is of another history.
    async fn accept<A: Apply>(&self, snapshot: &Snapshot) -> Result<Result<Loaded<A>, String>, StoreError> {
        let policy = A::snapshots();
        if snapshot.schema != policy.schema() {
            return Ok(Err(format!("its schema is {}, the state's is {}", snapshot.schema, policy.schema())));
        }
        let before = Version(snapshot.version.0.saturating_sub(1));
        let last = self.store.stream(&snapshot.stream, before, 1).await?;
        let Some(last) = last.first().filter(|last| last.id == snapshot.event) else {
            return Ok(Err("its last event is not in the stream".to_owned()));
        };
        Ok(match policy.decode(&snapshot.data) {
            Err(error) => Err(error.to_string()),
            Ok(state) => Ok(Loaded {
                state,
                version: snapshot.version,
                position: last.place(),
                last: last.id,
                ..Loaded::default()
            }),
        })
    }

    /// Stores a snapshot of a state that was read in this history of the store. If the store has another one by then, what
    /// was put is taken away again: an operator may have replaced a payload that is in it.
    pub(crate) async fn put_snapshot(&self, snapshot: Snapshot, history: u64) -> Result<(), StoreError> {
        let stream = snapshot.stream.clone();
        self.snapshots.put_snapshot(snapshot).await?;
        if self.store.history() != history {
            self.snapshots.drop_snapshot(&stream).await?;
        }
        Ok(())
    }

    /// The snapshot of this state, if the aggregate has snapshots.
    pub(crate) fn snapshot_of<A: Apply>(
        stream: &StreamId,
        loaded: &Loaded<A>,
    ) -> Result<Snapshot, crate::BoxError> {
        let policy = A::snapshots();
        Ok(Snapshot {
            stream: stream.clone(),
            version: loaded.version,
            event: loaded.last,
            schema: policy.schema(),
            data: policy.encode(&loaded.state)?,
        })
    }

    /// Whether the policy wants a snapshot after a commit of `appended` events.
    pub(crate) fn wants_snapshot<A: Apply>(loaded: &Loaded<A>, appended: u64) -> bool {
        let policy = A::snapshots();
        policy.is_on()
            && policy.wants(&Situation {
                state: &loaded.state,
                version: loaded.version,
                appended,
                load: loaded.cost.took,
                loaded: loaded.cost.events,
            })
    }
}

/// Recently used aggregates, a slot each. Bounded; what is pushed out is loaded again.
///
/// Nothing in here is believed by itself: a commit at the kept version proves it, and where there is
/// no commit (a refusal, a read) the tail of the stream is read first.
#[derive(Debug)]
pub(crate) struct Cache {
    slots: QuickCache<StreamId, Arc<Slot>>,
}

/// One aggregate: whoever holds it decides. So commands to one aggregate run one after the other in
/// this process, and conflict only with other processes.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Arc<Mutex<Option<Box<dyn Any + Send>>>>,
    snapshotting: AtomicBool,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: QuickCache::new(capacity) }
    }

    pub(crate) fn slot(&self, stream: &StreamId) -> Arc<Slot> {
        let found =
            self.slots.get_or_insert_with(stream, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match found {
            Ok(slot) => slot,
            Err(never) => match never {},
        }
    }
}

impl Slot {
    /// The usual case: nobody else decides for this aggregate now.
    pub(crate) fn try_hold(&self) -> Option<Held> {
        self.state.clone().try_lock_owned().ok().map(Held)
    }

    pub(crate) async fn hold(&self) -> Held {
        Held(self.state.clone().lock_owned().await)
    }

    /// Whether the caller may take a snapshot now: one at a time for each stream.
    pub(crate) fn begin_snapshot(&self) -> bool {
        !self.snapshotting.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_snapshot(&self) {
        self.snapshotting.store(false, Ordering::Release);
    }
}

/// The right to decide for one aggregate.
#[derive(Debug)]
pub(crate) struct Held(OwnedMutexGuard<Option<Box<dyn Any + Send>>>);

impl Held {
    /// Takes the kept state out, if it is of this history of the store. Whoever does not put it back (a panic, a dropped
    /// future) makes the next one load it.
    pub(crate) fn take<A: Apply>(&mut self, history: u64) -> Option<Box<Loaded<A>>> {
        let kept: Box<Loaded<A>> = self.0.take()?.downcast().ok()?;
        (kept.history == history).then_some(kept)
    }

    pub(crate) fn put<A: Apply>(&mut self, loaded: Box<Loaded<A>>) {
        *self.0 = Some(loaded);
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::fails_over::{FailsOver, of};
    use crate::memory::MemoryBackend;
    use crate::testing::conformance::domain::{Account, Deposit, Open};
    use crate::{App, BoxError};

    /// One whose account of Ada has these deposits, and those once it has failed over; told or not.
    async fn between(deposits: [&[i64]; 2]) -> Result<(Arc<FailsOver>, Repository), BoxError> {
        let logs = [MemoryBackend::new(), MemoryBackend::new()];
        for (log, deposits) in logs.iter().zip(deposits) {
            let (app, ada) = (App::on(log.clone()).start().await?, "ada".to_owned());
            app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
            for &amount in deposits {
                app.send(&ada, Deposit { amount }).await?;
            }
        }
        let store = of(logs, true);
        let snapshots = Arc::new(MemoryBackend::new());
        Ok((store.clone(), Repository { store, snapshots }))
    }

    #[tokio::test]
    async fn what_is_loaded_is_of_one_history() -> Result<(), BoxError> {
        let (store, repository) = between([&[10, 100], &[1, 2]]).await?;
        let stream = stream_of::<Account>(&"ada".to_owned())?;
        let mut kept = repository.load::<Account>(&stream).await?;
        assert_eq!(kept.state.balance, 110);
        store.in_reads.store(1, Ordering::SeqCst);
        assert!(
            !repository.refresh(&stream, &mut kept).await?,
            "it was up to date, in a history that is gone"
        );
        assert_eq!((kept.state.balance, kept.version), (3, Version(3)));
        let again = || {
            store.has.store(false, Ordering::SeqCst);
            store.in_reads.store(1, Ordering::SeqCst);
        };
        again();
        assert_eq!(repository.load::<Account>(&stream).await?.state.balance, 3);
        again();
        let end = At::Version(Version(u64::MAX));
        assert_eq!(repository.load_at::<Account>(&stream, end).await?.state.balance, 3);
        Ok(())
    }
}

//! Brings copies to where their aggregates are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use es_core::command::Sender;
use es_core::projection::{Partition, Reactor};
use es_core::services::{FromServices, Scope, Services};
use es_core::store::{EventFilter, Position, StreamId, Version};
use es_core::{Aggregate, AggregateId, BoxError, ErrorKind, EventStore, LoadError, RecordedEvent};
use futures::{StreamExt as _, stream};
use xxhash_rust::xxh3::xxh3_128;

use super::{Mirror, MirrorError, NotWritten};

/// Of so many aggregates it is known what the copy has.
const KNOWN: usize = 10_000;

/// Events that are read at once to fill a copy.
const PAGE: usize = 2_500;

/// Before what could not be written is tried again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(3);

/// Writes of a fill that are under way at the same time.
const IN_FLIGHT: usize = 16;
/// Of so many that could not be written a fill gives up: the copy is away, say.
const TOO_MANY: usize = 100;

/// Who writes a copy.
pub(super) struct Follower<M> {
    mirror: Arc<M>,
    written: Mutex<Written>,
}

/// What the copy has at least. A write takes in all that has happened, so what comes right behind it has nothing to do.
#[derive(Debug, Default)]
struct Written {
    /// The history of the store that all of it was read in: another one gives the same versions to other events.
    history: u64,
    held: HashMap<StreamId, Version>,
}

impl Written {
    fn in_history(&mut self, history: u64) -> &mut Self {
        if self.history != history {
            *self = Self { history, ..Self::default() };
        }
        self
    }

    fn has(&self, stream: &StreamId, version: Version) -> bool {
        self.held.get(stream).is_some_and(|held| *held >= version)
    }

    fn note(&mut self, stream: &StreamId, version: Version) {
        if self.held.len() >= KNOWN {
            self.held.clear();
        }
        self.held.insert(stream.clone(), version);
    }
}

/// The id of the aggregate that a stream is.
pub(super) fn id_of<A: Aggregate>(stream: &StreamId) -> Result<A::Id, BoxError> {
    let text = stream.as_str().strip_prefix(A::NAME).and_then(|rest| rest.strip_prefix('-'));
    let id = text.and_then(AggregateId::parse);
    id.ok_or_else(|| format!("stream {stream} is no {}, though its event is one of that", A::NAME).into())
}

/// The events of an aggregate.
pub(super) fn events_of<A: Aggregate>() -> EventFilter {
    EventFilter::of_enum::<A::Event>()
}

impl<M: Mirror> Follower<M> {
    pub(super) fn of(mirror: Arc<M>) -> Self {
        Self { mirror, written: Mutex::default() }
    }

    /// Brings the copy to where an aggregate is now. Whether there was something to write.
    async fn follow(&self, event: &RecordedEvent, sender: &Sender) -> Result<bool, BoxError> {
        let history = history_of(sender);
        if self.written().in_history(history).has(&event.stream, event.version) {
            return Ok(false);
        }
        self.write(event, sender).await?;
        Ok(true)
    }

    async fn write(&self, event: &RecordedEvent, sender: &Sender) -> Result<(), BoxError> {
        let (id, history) = (id_of::<M::Of>(&event.stream)?, history_of(sender));
        let loaded = sender.load::<M::Of>(&id).await?;
        let loaded = loaded.ok_or_else(|| format!("{} has an event, and cannot be found", event.stream))?;
        self.mirror.write(&id, loaded.version, &loaded.state).await?;
        self.written().in_history(history).note(&event.stream, loaded.version);
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all that there is, each aggregate once.
    pub(super) async fn fill(&self, store: &dyn EventStore, sender: &Sender) -> Result<u64, MirrorError> {
        // What was written once may be gone: that is why somebody fills it.
        self.written().held.clear();
        let filter = events_of::<M::Of>();
        let (head, mut after, mut n) = (store.head().await?, Position(0), 0);
        let (mut seen, mut failed) = (HashSet::<u128>::new(), Vec::new());
        while after < head && failed.len() < TOO_MANY {
            let page = store.read(&filter, after, PAGE).await?;
            let mut writes = Vec::new();
            for event in &page.events {
                if seen.insert(xxh3_128(event.stream.as_str().as_bytes())) {
                    writes.push(self.fill_one(event, sender));
                }
            }
            let mut written = stream::iter(writes).buffer_unordered(IN_FLIGHT);
            while let Some(came) = written.next().await {
                match came {
                    Ok(()) => n += 1,
                    Err(why) => failed.push(why),
                }
                if failed.len() >= TOO_MANY {
                    break;
                }
            }
            if !page.more {
                break;
            }
            after = page.through;
        }
        match failed.is_empty() {
            true => Ok(n),
            false => Err(MirrorError::Write { name: M::NAME, written: n, failed }),
        }
    }

    /// One that fails is tried again a few times: a fill is long, and would else begin at its start.
    async fn fill_one(&self, event: &RecordedEvent, sender: &Sender) -> Result<(), NotWritten> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.write(event, sender).await {
                Ok(()) => return Ok(()),
                Err(why) if pause > LAST_PAUSE || !is_worth_a_retry(&why) => {
                    return Err(NotWritten { stream: event.stream.to_string(), why });
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
    }
}

/// The history that the store of an app has; one that has ended reads nothing any more.
fn history_of(sender: &Sender) -> u64 {
    sender.store().map_or(0, |store| store.history())
}

/// Whether another try may help: an aggregate that cannot be read stays so.
fn is_worth_a_retry(why: &BoxError) -> bool {
    kind_of(why) == ErrorKind::Transient
}

/// What to do about it. What a copy says is not known: it is tried again.
pub(super) fn kind_of(why: &BoxError) -> ErrorKind {
    why.downcast_ref::<LoadError>().map_or(ErrorKind::Transient, LoadError::kind)
}

/// The reactor of a mirror.
pub(super) struct Following<M>(pub(super) Arc<Follower<M>>);

impl<M: Mirror> Reactor for Following<M> {
    const NAME: &'static str = M::NAME;
    const PARTITION: Partition = Partition::Stream;

    fn filter() -> EventFilter {
        events_of::<M::Of>()
    }

    async fn react(&self, event: &RecordedEvent, scope: Scope<'_>) -> Result<(), BoxError> {
        let (sender,) = <(&Sender,)>::from_services(scope)?;
        self.0.follow(event, sender).await.map(drop)
    }

    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use es_core::memory::MemoryBackend;
    use es_core::testing::conformance::domain::{Account, Deposit, Open};
    use es_core::{App, BoxError};

    use super::*;

    #[derive(Default)]
    struct Copy(Mutex<Vec<u64>>);

    impl Mirror for Copy {
        const NAME: &'static str = "copy";
        type Of = Account;

        async fn write(&self, _: &String, version: Version, _: &Account) -> Result<(), BoxError> {
            self.0.lock().expect("nobody panics").push(version.0);
            Ok(())
        }
    }

    #[test]
    fn what_was_written_is_believed_in_one_history_only() {
        let (mut written, ada) = (Written::default(), StreamId::new("account-ada").expect("a stream"));
        written.in_history(0).note(&ada, Version(5));
        let mut has = |version, history| written.in_history(history).has(&ada, Version(version));
        assert!(has(5, 0) && has(3, 0));
        assert!(!has(6, 0), "that is newer");
        assert!(!has(3, 1), "this version 3 is another one");
    }

    #[tokio::test]
    async fn what_was_written_before_a_fill_is_not_believed_after_it() -> Result<(), BoxError> {
        let app = App::on(MemoryBackend::new()).start().await?;
        let ada = "ada".to_owned();
        app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
        app.send(&ada, Deposit { amount: 5 }).await?;
        let (copy, sender) = (Arc::new(Copy::default()), app.sender());
        let follower = Follower::of(copy.clone());
        let log = async || {
            Ok::<_, BoxError>(app.store().read(&events_of::<Account>(), Position(0), 10).await?.events)
        };
        let events = log().await?;
        assert!(follower.follow(&events[1], &sender).await?);
        assert!(!follower.follow(&events[0], &sender).await?, "the copy has it by now");
        // It wrote up to version 5 just before the store was restored to 2. Then the copy was emptied.
        follower.written().note(&events[0].stream, Version(5));
        // It wrote one as well that is not there any more.
        let bob = StreamId::new("account-bob")?;
        follower.written().note(&bob, Version(5));
        assert_eq!(follower.fill(app.store(), &sender).await?, 1);
        app.send(&ada, Deposit { amount: 7 }).await?;
        assert!(follower.follow(&log().await?[2], &sender).await?);
        app.send(&"bob".to_owned(), Open { owner: "Bob".to_owned() }).await?;
        assert!(follower.follow(&log().await?[3], &sender).await?);
        assert_eq!(*copy.0.lock().expect("nobody panics"), [2, 2, 3, 1], "each aggregate once");
        Ok(())
    }
}

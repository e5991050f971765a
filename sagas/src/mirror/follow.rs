//! Brings copies to where their aggregates are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use es_core::command::Sender;
use es_core::projection::{Partition, Reactor};
use es_core::services::{FromServices, Scope, Services};
use es_core::store::{EventFilter, Position, StreamId, Version};
use es_core::{Aggregate, AggregateId, BoxError, EventStore, RecordedEvent};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Mirror, MirrorError};

/// Of so many aggregates it is known what the copy has.
const KNOWN: usize = 10_000;

/// Events that are read at once to fill a copy.
const PAGE: usize = 2_500;

/// Before what could not be written is tried again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(3);

/// Writes of a fill that are under way at the same time.
const IN_FLIGHT: usize = 16;

/// Who writes a copy.
pub(super) struct Follower<M> {
    mirror: Arc<M>,
    /// What the copy has at least. A write takes in all that has happened, so what comes right behind it has nothing to do.
    written: Mutex<HashMap<StreamId, Version>>,
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
        if self.has(event) {
            return Ok(false);
        }
        let id = id_of::<M::Of>(&event.stream)?;
        let loaded = sender.load::<M::Of>(&id).await?;
        let loaded = loaded.ok_or_else(|| format!("{} has an event, and cannot be found", event.stream))?;
        self.mirror.write(&id, loaded.version, &loaded.state).await?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= KNOWN {
            written.clear();
        }
        written.insert(event.stream.clone(), loaded.version);
        Ok(true)
    }

    fn has(&self, event: &RecordedEvent) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(&event.stream).is_some_and(|version| *version >= event.version)
    }

    /// Writes all that there is.
    pub(super) async fn fill(&self, store: &dyn EventStore, sender: &Sender) -> Result<u64, MirrorError> {
        // What was written once may be gone: that is why somebody fills it.
        let (anew, filter) = (Self::of(self.mirror.clone()), events_of::<M::Of>());
        let (head, mut after, mut n) = (store.head().await?, Position(0), 0);
        while after < head {
            let page = store.read(&filter, after, PAGE).await?;
            let newest: HashMap<&StreamId, &RecordedEvent> =
                page.events.iter().map(|event| (&event.stream, event)).collect();
            let mut writes = Vec::with_capacity(newest.len());
            for event in newest.into_values() {
                writes.push(anew.fill_one(event, sender));
            }
            let written = stream::iter(writes).buffer_unordered(IN_FLIGHT);
            n += written.try_fold(0, |n, one| async move { Ok(n + one) }).await?;
            if !page.more {
                break;
            }
            after = page.through;
        }
        Ok(n)
    }

    /// One that fails is tried again a few times: a fill is long, and would else begin at its start.
    async fn fill_one(&self, event: &RecordedEvent, sender: &Sender) -> Result<u64, MirrorError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.follow(event, sender).await {
                Ok(written) => return Ok(written.into()),
                Err(source) if pause > LAST_PAUSE => {
                    let stream = event.stream.to_string();
                    return Err(MirrorError::Write { name: M::NAME, stream, source });
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
    }
}

/// The reactor of a mirror.
pub(super) struct Following<M>(pub(super) Follower<M>);

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

//! Reading the log to its end, and continuing from there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream;
use tokio::sync::watch;

use crate::limits::MAX_PAGE;
use crate::store::{
    Bookmark, EventFilter, EventStore, Page, Position, RecordedEvent, StoreError, StreamId, Version, is_full,
};

/// Events that are asked for together.
const PAGE: usize = 1_000;

/// How long a subscription sleeps when no wake-up comes.
const POLL: Duration = Duration::from_secs(1);

/// Everything that matches now, with the position to use as `after` of an append condition. All of it is in memory.
///
/// # Errors
///
/// [`StoreError`] if the store cannot be read.
pub async fn read_all(
    store: &dyn EventStore,
    filter: &EventFilter,
    after: Position,
) -> Result<Page, StoreError> {
    let mut all = Page { through: after, ..Page::default() };
    loop {
        let page = store.read(filter, all.through, MAX_PAGE).await?;
        all.events.extend(page.events);
        all.through = page.through;
        if !page.more {
            return Ok(all);
        }
    }
}

/// At most so many events of a stream after a version, fewer only if there are no more. All of them are in memory.
pub(crate) async fn stream_all(
    store: &dyn EventStore,
    id: &StreamId,
    after: Version,
    n: usize,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let mut all: Vec<RecordedEvent> = Vec::new();
    while all.len() < n {
        let after = all.last().map_or(after, |last| last.version);
        let page = store.stream(id, after, n - all.len()).await?;
        let last = !is_full(&page, n - all.len());
        all.extend(page);
        if last {
            break;
        }
    }
    Ok(all)
}

/// The events at the first of these positions, which are in order, and how many positions that are: at least one.
pub(crate) async fn at_first(
    store: &dyn EventStore,
    positions: &[Position],
) -> Result<(Vec<RecordedEvent>, usize), StoreError> {
    let asked = &positions[..positions.len().min(MAX_PAGE)];
    let events = store.at(asked).await?;
    let answered = match events.last() {
        Some(last) if is_full(&events, usize::MAX) => asked.partition_point(|p| *p <= last.place()),
        _ => asked.len(),
    };
    Ok((events, answered))
}

/// Every matching event after a position, exactly once and in order, now and in future.
///
/// The stream never ends by itself. After an error it can be polled again and continues where it was.
pub fn subscribe(
    store: Arc<dyn EventStore>,
    filter: EventFilter,
    after: Position,
) -> impl Stream<Item = Result<RecordedEvent, StoreError>> + Send {
    let subscription = Subscription::new(store, filter, after);
    stream::unfold(subscription, |mut subscription| async move {
        let next = subscription.next().await;
        Some((next, subscription))
    })
}

/// The same as [`subscribe`], as a value that knows the position that it has reached.
#[derive(Debug)]
pub struct Subscription {
    store: Arc<dyn EventStore>,
    filter: EventFilter,
    wake: watch::Receiver<Position>,
    buffered: VecDeque<RecordedEvent>,
    /// Nothing up to here is left to read from the store; what is buffered lies before it.
    through: Position,
    /// The event that was delivered last.
    last: Option<Bookmark>,
    /// Whether a read has failed: the store that answers again may have another history.
    failed: bool,
    poll: Duration,
}

impl Subscription {
    /// A subscription that begins after a position.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>, filter: EventFilter, after: Position) -> Self {
        let wake = store.watch();
        let buffered = VecDeque::new();
        Self { store, filter, wake, buffered, through: after, last: None, failed: false, poll: POLL }
    }

    /// A subscription that continues after a bookmark, which was kept outside the store.
    ///
    /// # Errors
    ///
    /// As [`Bookmark::check`].
    pub async fn resume(
        store: Arc<dyn EventStore>,
        filter: EventFilter,
        bookmark: Bookmark,
    ) -> Result<Self, StoreError> {
        bookmark.check(&*store).await?;
        Ok(Self { last: Some(bookmark), ..Self::new(store, filter, bookmark.position) })
    }

    /// The event that was delivered last, to continue after it with [`Self::resume`]; `None` before the first.
    #[must_use]
    pub const fn bookmark(&self) -> Option<Bookmark> {
        self.last
    }

    /// Another longest sleep between two looks than one second.
    #[must_use]
    pub const fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// The position that it has reached: every matching event up to here was delivered.
    #[must_use]
    pub fn position(&self) -> Position {
        match self.buffered.front() {
            Some(next) => Position(next.place().0.saturating_sub(1)),
            None => self.through,
        }
    }

    /// The next event; waits for it. Safe to drop and to call again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read now; a later call continues. [`StoreError::Misuse`] if the store came
    /// back with another history, see [`Bookmark::check`].
    pub async fn next(&mut self) -> Result<RecordedEvent, StoreError> {
        loop {
            if let Some(event) = self.buffered.pop_front() {
                let (position, event_id) = (event.place(), event.id);
                self.last = Some(Bookmark { store: self.store.identity(), position, event: event_id });
                return Ok(event);
            }
            if let Some(last) = self.last.filter(|_| self.failed) {
                last.check(&*self.store).await?;
            }
            // Seen before the read: a wake-up that comes during it is not lost.
            self.wake.mark_unchanged();
            let page = self.store.read(&self.filter, self.through, PAGE).await;
            self.failed = page.is_err();
            let page = page?;
            self.through = page.through;
            self.buffered = page.events.into();
            if self.buffered.is_empty() && !page.more {
                wait(&mut self.wake, self.poll).await;
            }
        }
    }
}

/// Until a wake-up, or until it is time to look anyway.
pub(crate) async fn wait(wake: &mut watch::Receiver<Position>, poll: Duration) {
    // A store that is gone wakes no reader: then only time passes.
    if let Ok(Err(_closed)) = tokio::time::timeout(poll, wake.changed()).await {
        tokio::time::sleep(poll).await;
    }
}

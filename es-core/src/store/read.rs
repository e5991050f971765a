//! Reading the log to its end, and continuing from there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

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
    /// Where it began.
    start: Position,
    /// The history of the store that this was read in, as the store counts them.
    history: u64,
    /// The event that was delivered last.
    last: Option<Bookmark>,
    /// Whether a read has failed: the store that answers again may have another history.
    failed: bool,
    /// How far the log was seen to go, and when that was looked at: a store may fail over without a read that fails.
    head: Position,
    looked: Option<Instant>,
    /// Once it was behind that: where.
    behind: Option<Position>,
    poll: Duration,
}

impl Subscription {
    /// A subscription that begins after a position.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>, filter: EventFilter, after: Position) -> Self {
        let (wake, history) = (store.watch(), store.history());
        Self {
            history,
            start: after,
            store,
            filter,
            wake,
            buffered: VecDeque::new(),
            through: after,
            last: None,
            failed: false,
            head: Position(0),
            looked: None,
            behind: None,
            poll: POLL,
        }
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
        // Before it is looked up: what is read later may be of another one.
        let history = store.history();
        bookmark.check(&*store).await?;
        Ok(Self { last: Some(bookmark), history, ..Self::new(store, filter, bookmark.position) })
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
    /// back with another history, see [`Bookmark::check`]: the event that was delivered last is not there any more, or the log
    /// ends before where it ended. That is looked at after a read that failed, and while there is nothing to deliver, as often
    /// as it sleeps at most. A log that ends early does so for good: begin again with another subscription.
    pub async fn next(&mut self) -> Result<RecordedEvent, StoreError> {
        loop {
            if self.store.history() != self.history {
                self.begin_again().await?;
            }
            if let Some(event) = self.buffered.pop_front() {
                let (position, event_id) = (event.place(), event.id);
                self.last = Some(Bookmark { store: self.store.identity(), position, event: event_id });
                return Ok(event);
            }
            if let Some(behind) = self.behind {
                return Err(ends_early(behind, self.head));
            }
            if let Some(last) = self.last.filter(|_| self.failed) {
                last.check(&*self.store).await?;
            }
            // Seen before the read: a wake-up that comes during it is not lost.
            self.wake.mark_unchanged();
            let page = self.store.read(&self.filter, self.through, PAGE).await;
            self.failed = page.is_err();
            let page = page?;
            if self.store.history() != self.history {
                continue;
            }
            self.through = page.through;
            self.head = page.events.last().map_or(self.head, |last| self.head.max(last.place()));
            self.buffered = page.events.into();
            if self.buffered.is_empty() && !page.more {
                self.look_back().await?;
                wait(&mut self.wake, self.poll).await;
            }
        }
    }

    /// The store has another history: what was read ahead is not delivered. If what was delivered last is still there, so is
    /// everything before it, and what follows it there comes next.
    async fn begin_again(&mut self) -> Result<(), StoreError> {
        let history = self.store.history();
        self.buffered.clear();
        self.through = match self.last {
            Some(last) => {
                last.check(&*self.store).await?;
                last.position
            }
            None => {
                let head = self.store.head().await?;
                if head < self.start {
                    return Err(ends_early(head, self.start));
                }
                self.start
            }
        };
        (self.head, self.behind, self.looked) = (self.through, None, None);
        self.history = history;
        Ok(())
    }

    /// Whether the store still has the history that was read.
    async fn look_back(&mut self) -> Result<(), StoreError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < self.poll) {
            return Ok(());
        }
        let head = self.store.head().await?;
        if self.store.history() != self.history {
            return Ok(());
        }
        if head < self.head {
            self.behind = Some(head);
            return Err(ends_early(head, self.head));
        }
        self.head = head;
        if let Some(last) = self.last {
            // If it is of another one, or that cannot be asked: the next call asks first.
            self.failed = true;
            last.check(&*self.store).await?;
            self.failed = false;
        }
        self.looked = Some(Instant::now());
        Ok(())
    }
}

fn ends_early(head: Position, before: Position) -> StoreError {
    StoreError::misuse(format!(
        "the log ends at {head}, and has ended at {before}. The store was restored from an older state, or failed over to it; \
         begin again at a position from before that"
    ))
}

/// Until a wake-up, or until it is time to look anyway.
pub(crate) async fn wait(wake: &mut watch::Receiver<Position>, poll: Duration) {
    // A store that is gone wakes no reader: then only time passes.
    if let Ok(Err(_closed)) = tokio::time::timeout(poll, wake.changed()).await {
        tokio::time::sleep(poll).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::fails_over::{FailsOver, between};
    use crate::id::Ids;

    /// A store whose first log has five events, and the other one some.
    async fn fails_over(events: usize) -> Arc<FailsOver> {
        let ids = Ids::default();
        let new = |n| (0..n).map(|_| ids.next()).collect();
        between([new(5), new(events)], false).await
    }

    /// What a subscription says that has nothing to deliver, and then its store fails over.
    async fn says(events: usize, after: Position) -> String {
        let store = fails_over(events).await;
        let mut log = Subscription::new(store.clone(), EventFilter::all(), after);
        for _ in after.0..5 {
            log.next().await.expect("an event");
        }
        let waits = tokio::time::timeout(POLL * 3, log.next()).await;
        assert!(waits.is_err(), "there is nothing more: {waits:?}");
        store.has.store(true, Ordering::SeqCst);
        let error = tokio::time::timeout(POLL * 3, log.next()).await.expect("it says so").unwrap_err();
        let again = log.next().await.unwrap_err();
        assert_eq!(error.to_string(), again.to_string(), "it goes on with no other history");
        error.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_ends_early_is_an_error_though_no_read_fails() {
        // It has delivered something, or nothing at all.
        for after in [3, 5] {
            let why = says(4, Position(after)).await;
            assert!(why.contains("the log ends at #4, and has ended at #5"), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_has_grown_as_far_with_other_events_is_an_error_though_no_read_fails() {
        let why = says(5, Position(3)).await;
        assert!(why.contains("another event stands there now"), "{why}");
    }

    /// What a subscription of all has delivered before its store fails over, from 1 to 5 to 1, 2, 6, 7, and what comes then.
    async fn after_a_failover(start: u64, delivered: u64) -> Result<u128, String> {
        let id = uuid::Uuid::from_u128;
        let logs = [vec![1, 2, 3, 4, 5], vec![1, 2, 6, 7]].map(|log| log.into_iter().map(id).collect());
        let store = between(logs, true).await;
        let mut log = Subscription::new(store.clone(), EventFilter::all(), Position(start));
        for _ in 0..delivered {
            log.next().await.expect("an event");
        }
        store.has.store(true, Ordering::SeqCst);
        let next = log.next().await.map(|event| event.id.as_u128()).map_err(|error| error.to_string());
        if let Err(why) = &next {
            assert_eq!(&log.next().await.unwrap_err().to_string(), why, "it stays so");
        }
        next
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_now_follows_what_is_still_there() {
        // What it has read ahead is not delivered, and nothing is skipped.
        assert_eq!(after_a_failover(0, 1).await, Ok(2));
        assert_eq!(after_a_failover(0, 2).await, Ok(6));
        assert_eq!(after_a_failover(3, 0).await, Ok(7), "it has seen nothing yet");
        let why = after_a_failover(0, 3).await.unwrap_err();
        assert!(why.contains("another event stands there now"), "{why}");
        let why = after_a_failover(0, 5).await.unwrap_err();
        assert!(why.contains("no event stands there any more"), "{why}");
        let why = after_a_failover(5, 0).await.unwrap_err();
        assert!(why.contains("the log ends at #4, and has ended at #5"), "{why}");
    }
}

//! Pages of the log, read once for all processors at the same position.
//!
//! Processors near the head, and those that begin together, ask for the same pages: the first one reads, the others get
//! what it read. One that is elsewhere reads for itself, until it reaches the others. While a page is
//! handled, the next one is read. Processors at the end of the log wait for [news](Pages::news): one look at the head a
//! second serves all of them.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};

use crate::limits::{MAX_PAGE, PAGE_BYTES};
use crate::store::{EventFilter, EventStore, Page, PageItem as _, Position, RecordedEvent, StoreError};

/// The longest time between two looks at the head, where no wake-up comes.
const POLL: Duration = Duration::from_secs(1);
/// Bytes that are kept for others, and bytes of one page, about.
const KEPT: usize = 16 << 20;
const READ: usize = PAGE_BYTES;
/// Events of the first page, before anything is known of their size.
const FIRST: usize = 1_000;
/// What an event takes in addition to its payload, about.
const OVERHEAD: usize = 250;

/// One reader of the log.
#[derive(Debug)]
pub(crate) struct Pages {
    store: Arc<dyn EventStore>,
    filter: EventFilter,
    cache: Mutex<Cache>,
    /// How many events are read at once, so that a page has about [`READ`] bytes.
    limit: AtomicUsize,
    /// Counts reads that began.
    n_begun: AtomicU64,
    news: watch::Sender<u64>,
}

/// A page that processors share. Some of them may replay its events while others do not: its events are as the first who
/// asked for it wanted them, and for the others there are copies, made once.
#[derive(Debug)]
pub(crate) struct SharedPage {
    /// It has what comes behind this position.
    after: Position,
    page: Page,
    replay: bool,
    copies: OnceLock<Vec<RecordedEvent>>,
}

impl SharedPage {
    pub(in crate::processor) fn new(after: Position, mut page: Page, replay: bool) -> Self {
        page.events.iter_mut().for_each(|event| event.replay = replay);
        Self { after, page, replay, copies: OnceLock::new() }
    }

    /// Where to continue in it behind a position; `None` if it does not tell what comes next there.
    pub(in crate::processor) fn behind(&self, position: Position) -> Option<usize> {
        let done = self.page.events.partition_point(|event| event.place() <= position);
        (position >= self.after && done < self.page.events.len()).then_some(done)
    }

    /// The events of the page, as they are delivered in a replay or outside of one.
    pub(crate) fn events(&self, replay: bool) -> &[RecordedEvent] {
        if replay == self.replay {
            return &self.page.events;
        }
        let mark = |event: &RecordedEvent| RecordedEvent { replay, ..event.clone() };
        self.copies.get_or_init(|| self.page.events.iter().map(mark).collect())
    }
}

impl Deref for SharedPage {
    type Target = Page;
    fn deref(&self) -> &Page {
        &self.page
    }
}

/// A page, and which read it comes from.
#[derive(Clone, Debug)]
struct Read {
    number: u64,
    page: Arc<SharedPage>,
}

#[derive(Debug, Default)]
struct Cache {
    /// The history that all of it was read in, as the store counts them.
    history: u64,
    pages: HashMap<Position, Arc<OnceCell<Read>>>,
    /// Those that were read, oldest first, with their sizes.
    read: VecDeque<(Position, usize)>,
    bytes: usize,
}

impl Pages {
    pub(crate) fn new(store: Arc<dyn EventStore>, filter: EventFilter) -> Arc<Self> {
        let wake = store.watch();
        let pages = Arc::new(Self {
            store,
            filter,
            cache: Mutex::default(),
            limit: AtomicUsize::new(FIRST),
            n_begun: AtomicU64::new(0),
            news: watch::Sender::new(0),
        });
        drop(tokio::spawn(look_out(Arc::downgrade(&pages), wake)));
        pages
    }

    /// Changes when there may be more to read.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub(crate) const fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// The matching events after a position, for one who replays them or not.
    pub(crate) async fn after(
        self: &Arc<Self>,
        position: Position,
        replay: bool,
    ) -> Result<Arc<SharedPage>, StoreError> {
        let n_begun = self.n_begun.load(Ordering::SeqCst);
        let page = loop {
            let Read { number, page } = self.read(position, replay).await?;
            // That there is nothing is only said by a read that began after it was asked for.
            if !page.events.is_empty() || number >= n_begun {
                break page;
            }
        };
        if page.more {
            // By the time it is asked for, it is there. No caller waits for this task: the one that asks reads a page.
            let (ahead, next) = (self.clone(), page.through);
            drop(tokio::spawn(async move { drop(ahead.read(next, replay).await) }));
        }
        Ok(page)
    }

    async fn read(&self, position: Position, replay: bool) -> Result<Read, StoreError> {
        let history = self.store.history();
        let cell = self.cache.lock().unwrap_or_else(PoisonError::into_inner).cell(position, history);
        let read = || async {
            let number = self.n_begun.fetch_add(1, Ordering::SeqCst);
            let limit = self.limit.load(Ordering::Relaxed);
            let page = self.store.read(&self.filter, position, limit).await?;
            if self.store.history() != history {
                // Nobody knows whether there is anything behind this position there.
                let lost = std::io::Error::other("meanwhile the store has got another history");
                return Err(StoreError::transient("reading the log", lost));
            }
            let size = size(&page.events);
            if !page.events.is_empty() {
                let fitting = READ / (size / page.events.len()).max(1);
                // Not more than twice as many: the next events may be larger.
                self.limit.store(fitting.clamp(1, (2 * limit).min(MAX_PAGE)), Ordering::Relaxed);
            }
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).keep(position, &page, size);
            Ok(Read { number, page: Arc::new(SharedPage::new(position, page, replay)) })
        };
        // After a failure the cell stays, for those that wait for it, and for the next that asks.
        cell.get_or_try_init(read).await.cloned()
    }
}

/// Says that there may be more to read: when the store does, and when a look at the head each second finds another one than
/// was said last. What was read meanwhile is no measure: one of the processors may have come upon it, and the others wait. A
/// store that does not answer is news as well: each processor finds out for itself.
async fn look_out(pages: Weak<Pages>, mut wake: watch::Receiver<Position>) {
    let mut said = None;
    loop {
        let woken = tokio::time::timeout(POLL, wake.changed()).await;
        let Some(pages) = pages.upgrade() else { return };
        let found = match woken {
            Ok(Ok(())) => Some(*wake.borrow_and_update()),
            // A store that is gone wakes no reader: then only time passes.
            Ok(Err(_)) => {
                tokio::time::sleep(POLL).await;
                None
            }
            Err(_) => pages.store.head().await.ok(),
        };
        let found = found.map(|head| (pages.store.history(), head));
        let is_known = woken.is_err() && found.is_some() && found == said;
        said = found;
        if !is_known {
            pages.news.send_modify(|n| *n += 1);
        }
    }
}

impl Cache {
    /// What was read in another history is forgotten.
    fn cell(&mut self, position: Position, history: u64) -> Arc<OnceCell<Read>> {
        if self.history != history {
            *self = Self { history, ..Self::default() };
        }
        self.pages.entry(position).or_default().clone()
    }

    /// A page without events says nothing that will be true for the next one who asks.
    fn keep(&mut self, position: Position, page: &Page, size: usize) {
        if page.events.is_empty() {
            self.pages.remove(&position);
            return;
        }
        self.read.push_back((position, size));
        self.bytes += size;
        while self.bytes > KEPT && self.read.len() > 1 {
            let (oldest, size) = self.read.pop_front().expect("there is more than one");
            self.pages.remove(&oldest);
            self.bytes -= size;
        }
    }
}

fn size(events: &[RecordedEvent]) -> usize {
    events.iter().map(|event| event.size() + event.stream.as_str().len() + OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fails_over::between;

    async fn ids(pages: &Arc<Pages>, after: u64) -> Vec<u128> {
        let page = pages.after(Position(after), false).await.expect("a page");
        page.events(false).iter().map(|event| event.id.as_u128()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_in_another_history_is_given_to_nobody() {
        let logs =
            [vec![1, 2, 3], vec![1, 4]].map(|log| log.into_iter().map(uuid::Uuid::from_u128).collect());
        let store = between(logs, true).await;
        let pages = Pages::new(store.clone(), EventFilter::all());
        assert_eq!(ids(&pages, 0).await, [1, 2, 3]);
        assert_eq!(ids(&pages, 1).await, [2, 3]);
        let mut news = pages.news();
        store.has.store(true, Ordering::SeqCst);
        assert_eq!(ids(&pages, 0).await, [1, 4]);
        assert_eq!(ids(&pages, 1).await, [4]);
        // Whoever waits at the end of the longer log hears of it.
        news.changed().await.expect("it looks at the head");
    }

    #[test]
    fn pages_are_let_go_by_all_that_is_large_in_them() {
        let user = [("note".to_owned(), "x".repeat(60_000))].into();
        let event = crate::store::NewEvent {
            id: uuid::Uuid::max(),
            name: "done".into(),
            schema: 1,
            codec: "json".into(),
            data: "{}".into(),
            tags: Vec::new(),
            metadata: Arc::new(crate::event::Metadata { user, ..Default::default() }),
        };
        let stream = crate::store::StreamId::new("a").expect("a name");
        let now = crate::clock::Timestamp::UNIX_EPOCH;
        let event = event.into_recorded(stream, crate::store::Version(1), Some(Position(1)), now);
        let page = Page { events: vec![event; 70], through: Position(70), more: true };
        let (mut cache, size) = (Cache::default(), size(&page.events));
        for after in 0..50 {
            cache.keep(Position(after), &page, size);
        }
        assert!(cache.read.len() <= 5, "{} pages of {size} bytes", cache.read.len());
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_comes_upon_is_news_to_the_others() {
        let store = between([Vec::new(), vec![uuid::Uuid::from_u128(1)]], true).await;
        let pages = Pages::new(store.clone(), EventFilter::all());
        let mut waits = pages.news();
        store.has.store(true, Ordering::SeqCst);
        waits.changed().await.expect("it looks at the head");
        // No wake-up comes with it.
        store.add(uuid::Uuid::from_u128(2)).await;
        assert_eq!(ids(&pages, 1).await, [2]);
        waits.changed().await.expect("it looks at the head");
        let quiet = tokio::time::timeout(POLL * 10, waits.changed()).await;
        assert!(quiet.is_err(), "there is nothing new");
    }
}

//! Messages from other services, each taken once.
//!
//! An [`Inbox`] has a name and a [`Consumer`]. What the consumer does with a message is committed together with the fact
//! that the message was taken: a message that comes again, however late, changes nothing.
//!
//! | there is | for |
//! | --- | --- |
//! | [`Inbox::take`], [`Outcome`], [`InboxError`] | a message |
//! | [`Inbox::answer`], [`Answer`] | the same for HTTP: a body in, a status out |
//! | [`Consumer`], [`Busy`] | what is done with it |
//! | [`Log`], [`Searching`], `HttpLog` (feature `http`) | messages that were missed |
//! | [`Inbox::parked`], [`show`](Inbox::show), [`retry`](Inbox::retry), [`discard`](Inbox::discard), [`discard_all`](Inbox::discard_all), [`operations`](Inbox::operations) | operators |
//!
//! A message with a `relay` is one of a **lane**: source, relay and key. Its `sequence` is compared with a mark, which
//! stays for ever, so there is no time after which a repetition would be taken again. One that is not next is a [`Gap`]:
//! it is not taken, and what is missing is asked of the [`Log`], if there is one. A new source (a restored store has
//! another) begins new lanes.
//!
//! Any other message has no order. It is known by source and id, for [some time](Inbox::retention); other content under
//! the same name is refused.
//!
//! A message that fails **parks** its lane: it is kept, with the error, and acknowledged. What comes after it in the lane
//! waits behind it, in order; other lanes continue. An operator has it retried or discarded.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use es_core::memory::{MemoryBackend, Tx};
//! use es_core::BoxError;
//! use sagas::message::Envelope;
//! use sagas::message::inbox::{Consumer, Inbox, Outcome};
//!
//! struct Payments;
//!
//! impl Consumer<Tx> for Payments {
//!     async fn take(&self, message: &Envelope, tx: &mut Tx) -> Result<(), BoxError> {
//!         // Usually: app.send(&id, Charge { .. }).metadata(message.metadata()).within(tx).await?;
//!         tx.put("charges", &message.id, message.data.to_string());
//!         Ok(())
//!     }
//! }
//!
//! let inbox = Inbox::new(MemoryBackend::new(), "payments", Payments)?;
//! let message = Envelope::new("7", "/shop", "order.placed", serde_json::json!({"total": 12}));
//! assert_eq!(inbox.take(&message).await?, Outcome::Taken);
//! assert_eq!(inbox.take(&message).await?, Outcome::Duplicate);
//! # Ok::<(), BoxError>(())
//! # })?;
//! # Ok::<(), es_core::BoxError>(())
//! ```

mod answer;
mod audit;
mod check;
mod consumer;
mod error;
#[cfg(feature = "http")]
mod http_log;
mod lane;
mod log;
mod operate;
mod order;
mod park;
mod retention;
mod rows;
mod show;
mod take;
mod tries;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use es_core::limits::{LimitError, stored_name};

use crate::message::Sequence;

pub use self::answer::Answer;
pub use self::check::{MAX_ATTRIBUTE, MAX_MESSAGE};
pub use self::consumer::{Busy, Consumer};
pub use self::error::InboxError;
#[cfg(feature = "http")]
pub use self::http_log::HttpLog;
pub use self::lane::Lane;
pub use self::log::{Log, Searching};
pub use self::operate::{OperateError, Verb};
pub use self::order::Gap;
pub use self::rows::{Operation, Waiting};
pub use self::show::{Parked, Shown, Unreadable};
pub use self::take::Outcome;

/// Takes messages for one consumer. Any number of programs may have one under the same name on the same store.
pub struct Inbox<B, C> {
    backend: B,
    consumer: C,
    tables: rows::Tables,
    options: Options,
    log: Option<Arc<dyn Log>>,
    /// By what is before a gap that the log does not fill.
    unfilled: tries::Tries<Option<Sequence>>,
    /// By the id of a message that is for a newer program.
    newer: tries::Tries<String>,
    /// By the id of a message that fails, or the store does.
    suspected: tries::Tries<String>,
    room: park::Room,
    /// Messages without an order that were taken, for clean-up.
    taken: AtomicU64,
}

#[derive(Clone, Debug)]
struct Options {
    tries: u32,
    wait: Duration,
    limit: Duration,
    retention: Duration,
    starts_anywhere: bool,
    parked: usize,
    waiting: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tries: 3,
            wait: Duration::from_millis(50),
            limit: Duration::from_secs(8),
            retention: Duration::from_hours(30 * 24),
            starts_anywhere: false,
            parked: 1_000,
            waiting: 1_000,
        }
    }
}

impl<B, C> Inbox<B, C> {
    /// An inbox on a backend: the one whose transactions the consumer writes in. The name is stored: what was taken under
    /// another one is not known.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if the name is empty or too long, or has other characters than `[A-Za-z0-9_.:-]`.
    pub fn new(backend: B, name: &str, consumer: C) -> Result<Self, LimitError> {
        stored_name("inbox", name)?;
        let tables = rows::Tables::of(name)?;
        let (options, log) = (Options::default(), None);
        let (unfilled, newer) = (tries::Tries::default(), tries::Tries::default());
        let (suspected, room, taken) = (tries::Tries::default(), park::Room::default(), AtomicU64::new(0));
        Ok(Self { backend, consumer, tables, options, log, unfilled, newer, suspected, room, taken })
    }

    /// How often a message is tried before it is parked, at least once, and how long the first pause between two tries is;
    /// each further one is twice as long. By default three times and 50 ms. It is tried less often if that takes longer than
    /// half of the [limit](Self::limit).
    #[must_use]
    pub fn tries(mut self, tries: u32, first_wait: Duration) -> Self {
        (self.options.tries, self.options.wait) = (tries.max(1), first_wait);
        self
    }

    /// How long the consumer may take for a message, all tries together. A longer call has failed, and is not tried again.
    /// By default 8 seconds: less than senders wait for an answer. What is missing before the message is taken within the same
    /// time: it is begun in the first half of it, and what has been begun has the rest.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.options.limit = limit;
        self
    }

    /// How long a message without an order is known after it was taken; by default 30 days. One that comes again after
    /// that is taken again.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.options.retention = retention;
        self
    }

    /// Of a lane that is new, what was sent before the first message that comes is not missed.
    #[must_use]
    pub fn starts_anywhere(mut self) -> Self {
        self.options.starts_anywhere = true;
        self
    }

    /// Where messages are asked for that were missed. While it does not give them, the sender is told to come again, about
    /// ten times; then that there is a [gap](Outcome::Gap). So it is at once if some of them were taken, and half of the
    /// [limit](Self::limit) has passed: a lane that has much to catch up holds up no other.
    #[must_use]
    pub fn log(mut self, log: impl Log) -> Self {
        self.log = Some(Arc::new(log));
        self
    }

    /// How many lanes may be parked, about, and how many messages may wait in each; by default 1,000 and 1,000. What does
    /// not fit is not acknowledged: [`InboxError::Full`].
    #[must_use]
    pub fn room(mut self, lanes: usize, messages: u64) -> Self {
        (self.options.parked, self.options.waiting) = (lanes, messages);
        self
    }
}

impl<B, C> fmt::Debug for Inbox<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("marks", &self.tables.marks).field("options", &self.options).finish()
    }
}

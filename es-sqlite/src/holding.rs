//! Who has a user's transaction open, and who would wait for it in vain.
//!
//! A future that holds a `Tx` and awaits another write of the store waits for itself. From outside it looks like two
//! futures that are joined in one task, of which one holds a `Tx` and the other one writes: that goes well as soon as the
//! first one has ended its `Tx`. What tells them apart is that the first one goes on. So a caller waits for the holder of
//! its own task as for any other, and is refused when that has done nothing with its transaction for [`PATIENCE`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use es_core::store::StoreError;
use sqlx::SqliteConnection;

/// How often those who wait look at the holder.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// How long a holder may do nothing with its transaction while something of its own task waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// A statement that runs counts as doing something: SQLite says so each time that it has done so many of its instructions.
const INSTRUCTIONS: i32 = 10_000;

/// A task, or the thread of a `block_on`, which is no task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(Option<tokio::task::Id>, ThreadId);

impl Caller {
    pub(crate) fn current() -> Self {
        Self(tokio::task::try_id(), std::thread::current().id())
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        // A task moves between threads; without a task, the thread is who we are.
        self.0 == other.0 && (self.0.is_some() || self.1 == other.1)
    }
}

/// The holder of the store's one user's transaction.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    holder: Mutex<Option<Caller>>,
    /// Goes up with what is done in transactions.
    done: AtomicU64,
}

impl Holding {
    /// The current caller has it, and does something with it.
    pub(crate) fn hold(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(Caller::current());
    }

    pub(crate) fn let_go(&self) {
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Hears of statements that run long.
    pub(crate) async fn install(self: &Arc<Self>, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let holding = self.clone();
        conn.lock_handle().await?.set_progress_handler(INSTRUCTIONS, move || {
            holding.done.fetch_add(1, Ordering::Relaxed);
            true
        });
        Ok(())
    }
}

/// What one who waits has seen of the holder.
#[derive(Debug, Default)]
pub(crate) struct Stuck(Option<(u64, Instant)>);

impl Stuck {
    /// The holder, if nothing was done for too long. To be asked every [`TICK`].
    pub(crate) fn holder(&mut self, holding: &Holding) -> Option<Caller> {
        let (holder, done) = {
            let holder = holding.holder.lock().unwrap_or_else(PoisonError::into_inner);
            (*holder, holding.done.load(Ordering::Relaxed))
        };
        let now = Instant::now();
        match (holder, self.0) {
            (Some(holder), Some((seen, since))) if seen == done => {
                (now.duration_since(since) >= PATIENCE).then_some(holder)
            }
            _ => {
                self.0 = Some((done, now));
                None
            }
        }
    }
}

pub(crate) fn would_wait_for_itself() -> StoreError {
    let what = "this task holds an open `Tx` of the store and would wait for itself: \
                write through the `Tx` (`app.send(..).within(&mut tx)`), or end it first";
    StoreError::misuse(what)
}

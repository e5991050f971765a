//! Witnesses of attempts without events are forgotten once nobody can ask for them.
//!
//! A process that leaves witnesses removes those that are too old, now and then, in short statements. Nothing happens in
//! a store that nobody writes. Each round begins where the last one ended: index entries of what has gone stay while
//! another session holds a snapshot, and are not walked over again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Row as _;

use crate::readers::Readers;

/// The shortest time between two rounds.
const EACH: Duration = Duration::from_secs(60);
/// How many one statement removes, and how many statements a round has at most.
const MOST: i32 = 2_000;
const STATEMENTS: usize = 200;

#[derive(Clone, Debug)]
pub(crate) struct Witnesses {
    readers: Arc<Readers>,
    /// When the last round began.
    last: Arc<Mutex<Instant>>,
    /// Up to where they have gone: microseconds since 1970.
    gone: Arc<AtomicI64>,
}

impl Witnesses {
    pub(crate) fn new(readers: Arc<Readers>) -> Self {
        Self { readers, last: Arc::new(Mutex::new(Instant::now())), gone: Arc::default() }
    }

    /// This process has left some: if the last round is a while ago, another one begins, in the background.
    pub(crate) fn left(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < EACH {
            return;
        }
        *last = Instant::now();
        let witnesses = self.clone();
        drop(tokio::spawn(async move { witnesses.forget().await }));
    }

    /// One round.
    pub(crate) async fn forget(&self) {
        for _ in 0..STATEMENTS {
            let after = self.gone.load(Ordering::Relaxed);
            let query =
                || sqlx::query("select forgotten, last from forget_witnesses($1, $2)").bind(after).bind(MOST);
            let found = match self.readers.rows("forgetting witnesses", query).await {
                Ok(found) => found,
                Err(error) => {
                    // They stay until the next round.
                    tracing::debug!(error = &error as &dyn std::error::Error, "witnesses were not forgotten");
                    return;
                }
            };
            let Some(row) = found.first() else { return };
            self.gone.fetch_max(row.get_unchecked(1), Ordering::Relaxed);
            if row.get_unchecked::<i64, _>(0) < i64::from(MOST) {
                return;
            }
        }
    }
}

//! What backends show of their writes, through the crate `metrics`.
//!
//! | metric | labels | what it is |
//! | --- | --- | --- |
//! | `es_commits_total` | `outcome` | commits that were answered, by what the answer was: see [`outcome`] |
//! | `es_commits_resolved_total` | `found` | commits that were asked about: `applied`, `never`, or `nothing` if the store did not say |
//! | `es_write_waiting`, `es_write_waiting_bytes` | `queue` | what waits to be written in this process, as of its last batch |
//! | `es_write_wait_seconds` | `queue` | for how long a commit waited for its batch |
//! | `es_write_turn_seconds` | `queue` | for how long a batch waited for its turn among the writers of the store: on PostgreSQL for the gate, for those that need it |
//! | `es_write_batch_commits`, `es_write_batch_events` | `queue` | how large a batch was |
//! | `es_write_flush_seconds` | `queue` | how long a batch was on its way, until the store had answered; on PostgreSQL with its wait for its turn |
//! | `es_write_retries_total` | `queue`, `why` | batches, or parts of one, that were sent again, by the code of the error |

use std::time::Duration;

use super::{CommitError, Committed, Resolution, StoreError};

/// The writes of one queue of a process.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    queue: &'static str,
}

impl Writes {
    /// Of a queue by this name.
    #[must_use]
    pub const fn of(queue: &'static str) -> Self {
        Self { queue }
    }

    /// So much waits now.
    pub fn waiting(self, requests: usize, bytes: usize) {
        metrics::gauge!("es_write_waiting", "queue" => self.queue).set(shown(requests));
        metrics::gauge!("es_write_waiting_bytes", "queue" => self.queue).set(shown(bytes));
    }

    /// A batch begins: for how long each of its commits has waited, and how many events they have.
    pub fn batch(self, waited: impl ExactSizeIterator<Item = Duration>, events: usize) {
        metrics::histogram!("es_write_batch_commits", "queue" => self.queue).record(shown(waited.len()));
        metrics::histogram!("es_write_batch_events", "queue" => self.queue).record(shown(events));
        let each = metrics::histogram!("es_write_wait_seconds", "queue" => self.queue);
        waited.for_each(|waited| each.record(waited));
    }

    /// A batch had its turn among the writers of the store after so long.
    pub fn turn(self, waited: Duration) {
        metrics::histogram!("es_write_turn_seconds", "queue" => self.queue).record(waited);
    }

    /// A batch was answered after so long.
    pub fn flushed(self, took: Duration) {
        metrics::histogram!("es_write_flush_seconds", "queue" => self.queue).record(took);
    }

    /// A batch, or a part of it, is sent again, for what the database said: its code.
    pub fn again(self, why: String) {
        metrics::counter!("es_write_retries_total", "queue" => self.queue, "why" => why).increment(1);
    }
}

/// A commit was answered.
pub fn outcome(outcome: &Result<Committed, CommitError>) {
    let answer = match outcome {
        Ok(_) => "written",
        Err(error) => reason(error),
    };
    metrics::counter!("es_commits_total", "outcome" => answer).increment(1);
}

/// A commit was asked about.
pub fn resolved(resolution: &Result<Resolution, StoreError>) {
    let found = match resolution {
        Ok(Resolution::Applied(_)) => "applied",
        Ok(Resolution::Never) => "never",
        Err(_) => "nothing",
    };
    metrics::counter!("es_commits_resolved_total", "found" => found).increment(1);
}

/// Why a commit was not written, in a word.
pub(crate) fn reason(error: &CommitError) -> &'static str {
    match error {
        CommitError::Conflict { .. } => "conflict",
        CommitError::ConditionFailed { .. } => "condition",
        CommitError::BehindHead { .. } | CommitError::OtherHistory => "other_history",
        CommitError::Repeated { .. } => "repeated",
        CommitError::KeyReused { .. } => "key_reused",
        CommitError::EventIdReused { .. } => "event_id_reused",
        CommitError::Fenced { .. } => "row_moved",
        CommitError::Inline { .. } => "inline",
        CommitError::Projection { .. } => "projection",
        CommitError::Unknown(_) => "unknown",
        CommitError::Overflow { .. } => "overflow",
        CommitError::Store(error) => store_reason(error),
    }
}

/// The same of an error of the store.
pub(crate) fn store_reason(error: &StoreError) -> &'static str {
    match error {
        StoreError::Transient { .. } if error.is_busy() => "busy",
        StoreError::Transient { .. } => "transient",
        StoreError::Unknown { .. } => "unknown",
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::Misuse { .. } => "misuse",
        StoreError::Blocked { .. } => "blocked",
        StoreError::Limit(_) => "limit",
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
const fn shown(n: usize) -> f64 {
    n as f64
}

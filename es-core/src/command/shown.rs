//! What a command shows of itself: spans, at the level `debug`, and metrics. Where nobody listens they cost next to nothing.
//!
//! Spans, and their fields:
//! - `es.command`, around a command from `send` to its answer: `command`, `stream`, `id` (of the command), `correlation`; once
//!   it is answered `attempts`, `outcome` (`done`, `repeated`, or why not), `version`, `events`.
//! - `es.load`, around a read of an aggregate: `aggregate`, `stream`, `from` (`start`, `snapshot`, or `kept` where what is in
//!   memory is brought up to date); then `version`, `events` (how many were read).
//! - `es.commit`, around a commit of a command or a decision: `streams`, `events`, `rows`, `keys` (how many it has of each);
//!   then `outcome` (`written`, or why not) and `position`. A command [within](crate::Sending::within) a transaction has
//!   none: its transaction is committed by whoever began it.
//!
//! Metrics: `es_command_seconds` (`command`, `outcome`), `es_command_retries_total` (`command`, `after`: `conflict` or
//! `store`), `es_states_total` (`found`: `kept` in memory, `supposed` to be new, or `read`).

use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tracing::{Instrument as _, Level, Span, debug_span, enabled, field};

use super::CommandError;
use super::call::{Call, Outcomes};
use crate::Command;
use crate::store::measure::{reason, store_reason};
use crate::store::{Commit, CommitError, Committed, EventStore};

/// A command that was sent and has no answer yet.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) span: Option<Span>,
    began: Instant,
}

impl Shown {
    pub(super) fn begin<C: Command>(call: &Call<'_>) -> Self {
        let span = enabled!(Level::DEBUG).then(|| {
            debug_span!(
                "es.command",
                command = C::NAME,
                stream = %call.stream,
                id = %call.id,
                correlation = call.metadata.correlation.map(field::display),
                attempts = field::Empty,
                outcome = field::Empty,
                version = field::Empty,
                events = field::Empty,
            )
        });
        Self { span, began: Instant::now() }
    }

    pub(super) fn end<C: Command>(self, call: &Call<'_>, outcome: &Outcomes<C>) {
        let word = match outcome {
            Ok(done) if done.repeated => "repeated",
            Ok(_) => "done",
            Err(error) => why(error),
        };
        metrics::histogram!("es_command_seconds", "command" => C::NAME, "outcome" => word)
            .record(self.began.elapsed());
        let Some(span) = self.span else { return };
        span.record("attempts", call.attempts.load(Ordering::Relaxed)).record("outcome", word);
        if let Ok(done) = outcome {
            span.record("version", done.version.0).record("events", done.events.len());
        }
    }
}

/// Counts an attempt of a command.
pub(super) fn attempt(attempts: &AtomicU32) {
    attempts.fetch_add(1, Ordering::Relaxed);
}

/// A command is tried again.
pub(super) fn again<C: Command, E>(error: &CommandError<E>) {
    let after = if matches!(error, CommandError::Conflict { .. }) { "conflict" } else { "store" };
    metrics::counter!("es_command_retries_total", "command" => C::NAME, "after" => after).increment(1);
}

/// Commits, within a span of its own.
pub(crate) fn commit(
    store: &dyn EventStore,
    commit: Commit,
) -> BoxFuture<'_, Result<Committed, CommitError>> {
    if !enabled!(Level::DEBUG) {
        return store.commit(commit);
    }
    let events: usize = commit.appends.iter().map(|append| append.events.len()).sum();
    let span = debug_span!(
        "es.commit",
        streams = commit.appends.len(),
        events,
        rows = commit.rows.len(),
        keys = commit.outcomes.len(),
        outcome = field::Empty,
        position = field::Empty,
    );
    let writing = store.commit(commit).instrument(span.clone());
    Box::pin(async move {
        let outcome = writing.await;
        match &outcome {
            Ok(committed) => span.record("outcome", "written").record("position", committed.position.0),
            Err(error) => span.record("outcome", reason(error)),
        };
        outcome
    })
}

/// Why a command did not do what was asked, in a word.
fn why<E>(error: &CommandError<E>) -> &'static str {
    match error {
        CommandError::Refused(_) => "refused",
        CommandError::NotFound { .. } => "not_found",
        CommandError::AlreadyExists { .. } => "already_exists",
        CommandError::Ended { .. } => "ended",
        CommandError::Conflict { .. } => "conflict",
        CommandError::Unknown { .. } => "unknown",
        CommandError::Service(_) => "service",
        CommandError::Intercepted(_) => "intercepted",
        CommandError::InterceptedAfter(_) => "intercepted_after",
        CommandError::Panicked { .. } => "panicked",
        CommandError::ShuttingDown => "shutting_down",
        CommandError::KeyReused { .. } => "key_reused",
        CommandError::Missing(_) => "missing",
        CommandError::Limit(_) => "limit",
        CommandError::Decode(_) => "decode",
        CommandError::Encode(_) => "encode",
        CommandError::Codec { .. } => "codec",
        CommandError::Store(error) => store_reason(error),
        CommandError::Commit(error) => reason(error),
    }
}

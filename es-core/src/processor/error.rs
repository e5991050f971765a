//! What can go wrong with a processor, by what the caller does about it.

use std::time::Duration;

use uuid::Uuid;

use super::Build;
use crate::ErrorKind;
use crate::store::{Generation, Position, StoreError};

/// A processor could not do what was asked of it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// This app does not run it: wire it, or ask an app that does.
    #[error("this app does not run {processor}: add `.projection(..)` or `.view::<..>()` to it")]
    NotRunHere {
        /// Which processor.
        processor: String,
    },
    /// It is inline or live, so it is never behind.
    #[error(
        "{processor} is inline or live here: it is never behind, and has no processor to ask, reset or rebuild"
    )]
    NeverBehind {
        /// Which one.
        processor: String,
    },
    /// Nothing is parked under this key, or not any more.
    #[error("{key:?} is not parked in {build}")]
    NotParked {
        /// Where.
        build: Build,
        /// Which key.
        key: String,
    },
    /// Its sequence was discarded while it was waited for its retry: [`skipped`](super::Processor::skipped) says why.
    #[error("{key:?} of {build} was discarded while it was waited for its retry: `skipped` says why")]
    Discarded {
        /// Where.
        build: Build,
        /// Which key.
        key: String,
    },
    /// The key is parked: retry or discard it first.
    #[error("{key:?} is parked in {build}: retry or discard it, then there is nothing to rebuild")]
    Parked {
        /// Where.
        build: Build,
        /// Which key.
        key: String,
    },
    /// The same was asked for already, and is not done yet: wait until it is.
    #[error("{key:?} of {build} was asked for already: wait until that is done")]
    Asked {
        /// Where.
        build: Build,
        /// Which key.
        key: String,
    },
    /// Another node works on it: pause it (from any node), or stop that node, or rebuild online.
    #[error(
        "node {node} works on a part of {processor}: pause it or stop that node first, or rebuild online"
    )]
    HeldBy {
        /// Which processor.
        processor: String,
        /// Which node.
        node: Uuid,
    },
    /// It is paused, and another node has not given its part back: ask again once it has finished what it handles.
    #[error("node {node} is finishing what it handles of {processor}: ask again in a while")]
    Finishing {
        /// Which processor.
        processor: String,
        /// Which node.
        node: Uuid,
    },
    /// The build is not far enough: wait until it has caught up.
    #[error("{build} is at {done} of {total}{why}: wait until it has caught up")]
    NotCaughtUp {
        /// Which build.
        build: Build,
        /// How far it is.
        done: Position,
        /// How far the log is.
        total: Position,
        /// What is in the way, in parentheses; empty if it is at work.
        why: String,
    },
    /// Queries cannot rely on it yet: wait until it is ready.
    #[error("{processor} is not ready: {why}")]
    NotReady {
        /// Which processor.
        processor: String,
        /// What it does.
        why: &'static str,
    },
    /// A live node runs this version of the projection, or this reactor: stop it first.
    #[error("node {node} runs {version}: stop it first")]
    RunBy {
        /// Which version, as `name/version`.
        version: String,
        /// Which node.
        node: Uuid,
    },
    /// The version has the plain names of the projection's tables, and they cannot be taken from it: see to what is in the way.
    #[error("{version} has the plain names of its tables, and they cannot be taken from it: {why}")]
    NamesHeld {
        /// Which version, as `name/version`.
        version: String,
        /// What is in the way.
        why: String,
    },
    /// It is halted at an event: fix its handler, then resume it.
    #[error("{build} is halted at {position}: {error}")]
    Halted {
        /// Which build.
        build: Build,
        /// Where.
        position: Position,
        /// Why.
        error: String,
    },
    /// An older build is kept to go back to: drop it first.
    #[error("generation {generation} of {processor} is kept to go back to: drop it first (`drop_previous`)")]
    OlderKept {
        /// Which processor.
        processor: String,
        /// Which generation.
        generation: Generation,
    },
    /// A rebuild has begun that does not do what is asked: abort it first, or watch that one
    /// ([`rebuilding`](super::Processor::rebuilding)).
    #[error(
        "{build} is being built with other options: abort it (`rebuilding`, then `abort`), and begin again"
    )]
    OtherOptions {
        /// Which build is under way.
        build: Build,
    },
    /// There is no older build to go back to.
    #[error("{processor} has no older build to go back to")]
    NoOlder {
        /// Which processor.
        processor: String,
    },
    /// No rebuild is under way: begin one.
    #[error("no rebuild of {processor} is under way")]
    NoRebuild {
        /// Which processor.
        processor: String,
    },
    /// The build was dropped: begin another rebuild.
    #[error("{build} was dropped: begin another rebuild")]
    Dropped {
        /// Which build.
        build: Build,
    },
    /// The build is the one that queries read: switch queries to another one first.
    #[error("{build} is the one that queries read")]
    InUse {
        /// Which build.
        build: Build,
    },
    /// The build is made by an older program than the one that queries read: begin another rebuild where the newest runs.
    #[error(
        "{build} is made by an older program than the one that queries read: begin another rebuild with the newest"
    )]
    OlderCode {
        /// Which build.
        build: Build,
    },
    /// Its builds are held by a switch or a [report](super::Rebuild::report) at this moment: wait until that is done.
    #[error("builds of {processor} are held by a switch or a report: try again when that is done")]
    Switching {
        /// Which processor.
        processor: String,
    },
    /// Queries were switched to another build while it was waited for what was asked of this one: look at what is parked
    /// there, and ask again.
    #[error(
        "queries do not read {build} any more, of which it was asked: look at what is parked now, and ask again"
    )]
    Switched {
        /// Of which build it was asked.
        build: Build,
    },
    /// It was set back while it was waited for what was asked of it, or is being set back: what was parked is handled again
    /// from the log. Look at what is parked then.
    #[error("{build} was set back: look at what is parked once it has caught up, and ask again")]
    SetBack {
        /// Of which build it was asked.
        build: Build,
    },
    /// The store has failed over, or was restored, while it was waited for: nobody knows whether it was done.
    #[error(
        "the store has another history than when that was asked of {build}: look at what is there, and ask again"
    )]
    OtherHistory {
        /// Of which build it was asked.
        build: Build,
    },
    /// Every commit writes it: it cannot be rebuilt or reset while it is inline.
    #[error(
        "{processor} is inline: every commit writes it, so nothing else may; start an app with \
         `.retire_inline({processor:?})`, rebuild it there, then make it inline again"
    )]
    Inline {
        /// Which processor.
        processor: String,
    },
    /// It keeps nothing that could be rebuilt or set back like this.
    #[error("{processor} {why}")]
    NotRebuildable {
        /// Which processor.
        processor: String,
        /// Why not, and what can be done instead.
        why: &'static str,
    },
    /// A row could not be rebuilt, and is as it was: fix the handler, or skip the event.
    #[error("row {key:?} of {build} is as it was: {error}")]
    RowFailed {
        /// Where.
        build: Build,
        /// Which row.
        key: String,
        /// What the handler said.
        error: String,
    },
    /// Events are left out for good: say why.
    #[error("events are left out for good: say why")]
    NoReason,
    /// It was not done in time. The request stands, and is done later: once what is in the way is away.
    #[error("{what} was not done within {limit:?}{why}; the request stands")]
    TimedOut {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        limit: Duration,
        /// What is in the way, in parentheses; empty if it is at work.
        why: String,
    },
    /// The app was shut down.
    #[error("{processor} is stopped: start the app again")]
    Stopped {
        /// Which processor.
        processor: String,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ProcessorError {
    /// Only what the store says: a refusal is an answer.
    pub(crate) fn in_store(self) -> Result<(), StoreError> {
        match self {
            Self::Store(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotParked { .. }
            | Self::Discarded { .. }
            | Self::Asked { .. }
            | Self::NoOlder { .. }
            | Self::NoRebuild { .. }
            | Self::Dropped { .. }
            | Self::Switched { .. }
            | Self::SetBack { .. }
            | Self::OtherHistory { .. }
            | Self::InUse { .. } => ErrorKind::Conflict,
            Self::NotCaughtUp { .. }
            | Self::NotReady { .. }
            | Self::Switching { .. }
            | Self::Finishing { .. }
            | Self::TimedOut { .. } => ErrorKind::Transient,
            Self::Parked { .. }
            | Self::HeldBy { .. }
            | Self::RunBy { .. }
            | Self::NamesHeld { .. }
            | Self::Halted { .. }
            | Self::OlderCode { .. }
            | Self::OlderKept { .. }
            | Self::OtherOptions { .. }
            | Self::Inline { .. }
            | Self::RowFailed { .. } => ErrorKind::Blocked,
            Self::NotRunHere { .. }
            | Self::NeverBehind { .. }
            | Self::NotRebuildable { .. }
            | Self::NoReason
            | Self::Stopped { .. } => ErrorKind::Misuse,
            Self::Store(error) => error.kind(),
        }
    }
}

//! Messages that were missed.

use std::time::Duration;

use async_trait::async_trait;
use es_core::{Backend, BoxError};
use tokio::time::{Instant, timeout};

use super::Inbox;
use super::check::{Checked, check};
use super::consumer::Consumer;
use super::error::InboxError;
use super::lane::Lane;
use super::order::Gap;
use super::take::{Look, Outcome};
use crate::message::Envelope;
use crate::message::Sequence;

/// Where the messages of a lane can be read again: the sender's own log.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Messages of a lane behind a sequence, or from its first one on, in order: some of them, and none only if there are
    /// no more. It is given up after half of [`Inbox::limit`]: the sender of the message that has come waits meanwhile.
    ///
    /// # Errors
    ///
    /// They cannot be had now. [`Searching`] if none is found yet, and the search has come further: it is asked again at once,
    /// for as long as there is time, and senders are told to come again until there is an end to it.
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError>;
}

/// What a [`Log`] fails with that has found nothing yet, but has come further than before: asked again, it goes on there.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the log is still being searched")]
#[expect(clippy::exhaustive_structs, reason = "it says all")]
pub struct Searching;

impl<B: Backend, C: Consumer<B::Tx>> Inbox<B, C> {
    /// Takes what is missing before a message, in order, and then the message. A gap that the log does not fill stays one,
    /// after a few tries.
    pub(super) async fn fill(
        &self,
        message: &Checked<'_>,
        gap: Gap,
        begun: Instant,
    ) -> Result<Outcome, InboxError> {
        let Some(log) = &self.log else { return Ok(Outcome::Gap(gap)) };
        // What has just been sent may not be in there yet. Counted beforehand: the sender does not wait for ever, and who is
        // not waited for may be dropped.
        self.unfilled.once_more(&message.lane, gap.after);
        let (left, why) = match self.fill_from(&**log, message, gap, begun).await {
            // The log may have more, and the sender's other keys have waited for long enough.
            Ok(Outcome::Gap(left)) if left.after > gap.after && self.first_half(begun).is_none() => {
                return Ok(Outcome::Gap(left));
            }
            Ok(Outcome::Gap(left)) => (left, "the log does not have them".into()),
            Err(InboxError::Log(why)) => (gap, why),
            Err(other) => {
                // It says nothing of the log.
                self.unfilled.undo(&message.lane, &gap.after);
                return Err(other);
            }
            Ok(outcome) => {
                self.unfilled.forget(&message.lane);
                return Ok(outcome);
            }
        };
        let over = self.unfilled.is_over(&message.lane, &gap.after);
        if over { Ok(Outcome::Gap(left)) } else { Err(InboxError::Log(why)) }
    }

    /// Half of the limit is for the log and for what is missing; whatever is begun in it has the other half to end.
    async fn fill_from(
        &self,
        log: &dyn Log,
        message: &Checked<'_>,
        first: Gap,
        begun: Instant,
    ) -> Result<Outcome, InboxError> {
        let (mut gap, mut is_first) = (first, true);
        while let Some(left) = self.first_half(begun) {
            let Ok(missing) = timeout(left, log.behind(&message.lane, gap.after)).await else { break };
            if missing.as_ref().is_err_and(|error| error.is::<Searching>()) {
                self.unfilled.forget(&message.lane);
                continue;
            }
            for missing in &missing.map_err(InboxError::Log)? {
                let missing = check(missing).map_err(of_log)?;
                if missing.lane != message.lane {
                    let why = format!("the log was asked for {}, and gave {}", message.lane, missing.lane);
                    return Err(InboxError::Log(why.into()));
                }
                if missing.order >= message.order || self.first_half(begun).is_none() {
                    break;
                }
                let outcome = self.take_next(&missing, begun, is_first).await.map_err(of_log)?;
                if let Outcome::Gap(inner) = outcome {
                    return Ok(Outcome::Gap(inner));
                }
                is_first &= outcome == Outcome::Duplicate;
            }
            if self.first_half(begun).is_none() {
                break;
            }
            match self.take_next(message, begun, is_first).await? {
                Outcome::Gap(left) if left.after > gap.after => {
                    self.unfilled.forget(&message.lane);
                    gap = left;
                }
                outcome => return Ok(outcome),
            }
        }
        self.too_late(message, first).await
    }

    /// What is left of the first half of the limit.
    fn first_half(&self, begun: Instant) -> Option<Duration> {
        (self.options.limit / 2).checked_sub(begun.elapsed()).filter(|left| !left.is_zero())
    }

    /// Half of the limit has passed: what is told of a message that nothing more is done for.
    async fn too_late(&self, message: &Checked<'_>, first: Gap) -> Result<Outcome, InboxError> {
        match self.look(message).await? {
            Look::Answer(Outcome::Gap(left)) if left.after == first.after => {
                let half = self.options.limit / 2;
                Err(InboxError::Log(format!("the log gave nothing within {half:?}").into()))
            }
            Look::Answer(outcome) => Ok(outcome),
            Look::Next(_) => {
                Err(InboxError::Busy("what was missing is taken: no time is left for the message".into()))
            }
        }
    }
}

/// What is wrong with a message that the log gave is not wrong with the one that came.
fn of_log(error: InboxError) -> InboxError {
    match error {
        InboxError::NoMessage { .. } | InboxError::OtherContent { .. } => InboxError::Log(error.into()),
        other => other,
    }
}

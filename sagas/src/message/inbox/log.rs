//! Messages that were missed.

use async_trait::async_trait;
use es_core::{Backend, BoxError};

use super::Inbox;
use super::check::{Checked, check};
use super::consumer::Consumer;
use super::error::InboxError;
use super::lane::Lane;
use super::order::Gap;
use super::take::Outcome;
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
    /// They cannot be had now.
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError>;
}

impl<B: Backend, C: Consumer<B::Tx>> Inbox<B, C> {
    /// Takes what is missing before a message, in order, and then the message. A gap that the log does not fill stays one,
    /// after a few tries.
    pub(super) async fn fill(&self, message: &Checked<'_>, gap: Gap) -> Result<Outcome, InboxError> {
        let Some(log) = &self.log else { return Ok(Outcome::Gap(gap)) };
        // What has just been sent may not be in there yet. Counted beforehand: the sender does not wait for ever, and who is
        // not waited for may be dropped.
        let once_more = self.unfilled.once_more(&message.lane, gap.after);
        let (left, why) = match self.fill_from(&**log, message, gap).await {
            Ok(Outcome::Gap(left)) => (left, "the log does not have them".into()),
            Err(InboxError::Log(why)) => (gap, why),
            Err(other) => return Err(other),
            Ok(outcome) => {
                self.unfilled.forget(&message.lane);
                return Ok(outcome);
            }
        };
        if once_more { Err(InboxError::Log(why)) } else { Ok(Outcome::Gap(left)) }
    }

    async fn fill_from(
        &self,
        log: &dyn Log,
        message: &Checked<'_>,
        mut gap: Gap,
    ) -> Result<Outcome, InboxError> {
        loop {
            let limit = self.options.limit / 2;
            let missing = tokio::time::timeout(limit, log.behind(&message.lane, gap.after)).await;
            let missing = missing.unwrap_or_else(|_| Err(format!("no answer within {limit:?}").into()));
            let missing = missing.map_err(InboxError::Log)?;
            for missing in &missing {
                let missing = check(missing).map_err(of_log)?;
                if missing.lane != message.lane {
                    let why = format!("the log was asked for {}, and gave {}", message.lane, missing.lane);
                    return Err(InboxError::Log(why.into()));
                }
                if missing.order >= message.order {
                    break;
                }
                if let Outcome::Gap(inner) = self.take_next(&missing).await.map_err(of_log)? {
                    return Ok(Outcome::Gap(inner));
                }
            }
            match self.take_next(message).await? {
                Outcome::Gap(left) if left.after > gap.after => gap = left,
                outcome => return Ok(outcome),
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

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
    /// no more.
    ///
    /// # Errors
    ///
    /// They cannot be had now.
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError>;
}

impl<B: Backend, C: Consumer<B::Tx>> Inbox<B, C> {
    /// Takes what is missing before a message, in order, and then the message. A gap that the log does not fill stays one.
    pub(super) async fn fill(&self, message: &Checked<'_>, mut gap: Gap) -> Result<Outcome, InboxError> {
        let Some(log) = &self.log else { return Ok(Outcome::Gap(gap)) };
        loop {
            let missing = log.behind(&message.lane, gap.after).await.map_err(InboxError::Log)?;
            for missing in &missing {
                let missing = check(missing)?;
                if missing.lane != message.lane {
                    let why = format!("the log was asked for {}, and gave {}", message.lane, missing.lane);
                    return Err(InboxError::Log(why.into()));
                }
                if missing.order >= message.order {
                    break;
                }
                if let Outcome::Gap(inner) = self.take_next(&missing).await? {
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

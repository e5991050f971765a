//! A message: looked up, given to the consumer, and committed with its effect.

use std::time::Duration;

use es_core::store::{CommitError, Row, RowWrite, Transaction as _, Won};
use es_core::{Backend, Timestamp, chain};
use tokio::time::Instant;

use super::check::{Checked, check, fingerprint};
use super::consumer::{Consumer, Fault, Hung, call, fault_of};
use super::error::InboxError;
use super::order::{Gap, Place, place};
use super::rows::{Guard, LaneRow, Mark};
use super::tries::TRIES;
use super::{Busy, Inbox};
use crate::message::Envelope;

/// How often another writer may be faster, before the sender is told to come again.
const ROUNDS: u32 = 16;
/// The pause after the first time, for each time so far.
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes of an error that are stored.
const MAX_ERROR: usize = 2_000;

/// What became of a message. All but a gap acknowledge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "of a gap, nothing was taken"]
pub enum Outcome {
    /// Its effect is stored.
    Taken,
    /// It came before: nothing was done.
    Duplicate,
    /// It failed, or one before it in its lane did: it is kept, and waits for an operator.
    Parked {
        /// How many messages of the lane wait, this one included.
        waiting: u64,
    },
    /// Messages before it have not come: nothing was done. It can be taken after them.
    Gap(Gap),
}

/// A message that is next in its lane, and the row of the lane as it is once that is stored.
pub(super) struct Next<'m> {
    pub(super) message: &'m Checked<'m>,
    pub(super) row: LaneRow,
    pub(super) at: Timestamp,
    /// Behind how many it waits, and those that do not wait any more: 0 if the lane is not parked.
    pub(super) kept: u64,
}

pub(super) enum Look<'m> {
    Next(Next<'m>),
    Answer(Outcome),
}

/// What became of a try.
pub(super) enum Tried {
    Stored,
    /// Another writer was faster, or the request was lost.
    Lost,
    /// The message did, and whether it may be tried again.
    Failed(String, bool),
    /// The message did, or the store.
    Suspected(String),
}

impl<B: Backend, C: Consumer<B::Tx>> Inbox<B, C> {
    /// Takes a message. When this returns [`Outcome::Taken`], its effect is stored.
    ///
    /// Dropping the future leaves the outcome unknown, as a crash does: the message may be taken. Take it again, and it is
    /// known.
    ///
    /// # Errors
    ///
    /// [`InboxError`]: it was not acknowledged. By its [kind](InboxError::kind) the sender sends it again, or is broken.
    pub async fn take(&self, message: &Envelope) -> Result<Outcome, InboxError> {
        let (begun, checked) = (Instant::now(), check(message)?);
        let outcome = match self.take_next(&checked, begun, true).await? {
            Outcome::Gap(gap) => self.fill(&checked, gap, begun).await?,
            outcome => outcome,
        };
        if checked.order.is_none() && outcome == Outcome::Taken {
            self.tidy().await;
        }
        Ok(outcome)
    }

    /// Of the limit, which has run since `begun`, something may be used up already. One that is not the first in it, and does
    /// not end within the rest, is none that hangs: it will be the first one next time.
    pub(super) async fn take_next(
        &self,
        checked: &Checked<'_>,
        begun: Instant,
        is_first: bool,
    ) -> Result<Outcome, InboxError> {
        let left = self.options.limit.saturating_sub(begun.elapsed());
        let (mut lost, mut failed) = (0, 0);
        while lost < ROUNDS {
            let next = match self.look(checked).await? {
                Look::Next(next) => next,
                Look::Answer(outcome) => return Ok(outcome),
            };
            let outcome = if next.kept > 0 {
                self.queue(&next).await?
            } else {
                let pause = self.options.wait.saturating_mul(1 << failed.min(10));
                // What has failed already is tried again also if the store has become slow: in the end it is parked.
                let least = if failed == 0 { left / 2 } else { self.options.limit / 8 };
                let rows = self.tables.put_lane(&next.row, 0)?;
                let acted = self.act(checked.message, rows, (begun, least)).await;
                match acted.map_err(|error| self.perhaps_later(checked, error))? {
                    Tried::Stored => return Ok(Outcome::Taken),
                    Tried::Lost => None,
                    // The sender waits for the answer.
                    Tried::Failed(_, true)
                        if failed + 1 < self.options.tries
                            && begun.elapsed().saturating_add(pause) < self.options.limit / 2 =>
                    {
                        tokio::time::sleep(pause).await;
                        failed += 1;
                        continue;
                    }
                    Tried::Failed(error, false) if !is_first => return Err(InboxError::Busy(error.into())),
                    Tried::Failed(error, _) => self.park(&next, error, failed + 1).await?,
                    Tried::Suspected(error) => {
                        if self.suspected.once_more(&checked.lane, checked.message.id.clone()) {
                            return Err(InboxError::Busy(error.into()));
                        }
                        self.park(&next, error, TRIES).await?
                    }
                }
            };
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
            lost = lose(lost).await;
        }
        Err(InboxError::Busy(Busy::new("other writers were faster, every time").into()))
    }

    /// What is for a newer program may be taken by one that runs beside this one.
    fn perhaps_later(&self, of: &Checked<'_>, error: InboxError) -> InboxError {
        match error {
            InboxError::Newer(why) if self.newer.once_more(&of.lane, of.message.id.clone()) => {
                InboxError::Busy(why)
            }
            error => error,
        }
    }

    /// Where a message stands, by the row of its lane.
    pub(super) async fn look<'m>(&self, message: &'m Checked<'m>) -> Result<Look<'m>, InboxError> {
        let (lane, id) = (message.lane.clone(), &message.message.id);
        let key = lane.row_key()?;
        let (at, known) = tokio::try_join!(self.backend.now(), self.tables.lane(&self.backend, &lane))?;
        let Some((sequence, previous)) = message.order else {
            let fingerprint = fingerprint(message.message);
            if let Some(LaneRow::Guard(known)) = known {
                if known.value.fingerprint != fingerprint {
                    return Err(InboxError::OtherContent { lane, sequence: None });
                }
                return Ok(Look::Answer(Outcome::Duplicate));
            }
            let row = LaneRow::Guard(Row::new(key, Guard { lane, fingerprint, at, parked: false }));
            return Ok(Look::Next(Next { message, row, at, kept: 0 }));
        };
        let mark = match known {
            Some(LaneRow::Mark(row)) => Some(row),
            _ => None,
        };
        match place(mark.as_ref().map(|row| &row.value), id, sequence, previous, self.options.starts_anywhere)
        {
            Place::Next => {}
            Place::Before => return Ok(Look::Answer(Outcome::Duplicate)),
            Place::Behind(gap) => return Ok(Look::Answer(Outcome::Gap(gap))),
            Place::Other => return Err(InboxError::OtherContent { lane, sequence: Some(sequence) }),
        }
        let (kept, rev) = mark.map_or((0, 0), |row| (row.value.kept, row.rev));
        let value = Mark { lane, sequence, id: id.clone(), at, kept };
        Ok(Look::Next(Next { message, row: LaneRow::Mark(Row { key, rev, value }), at, kept }))
    }

    /// Calls the consumer once, and commits what it did together with these rows. It has what is left of the limit, which
    /// has run since it was begun; if that is less than the least, it is not called.
    pub(super) async fn act(
        &self,
        message: &Envelope,
        rows: Vec<RowWrite>,
        (begun, least): (Instant, Duration),
    ) -> Result<Tried, InboxError> {
        let mut tx = self.backend.begin().await?;
        let left = self.options.limit.saturating_sub(begun.elapsed());
        if left < least {
            drop(tx.rollback().await);
            return Err(InboxError::Busy("the store was slow: no time is left for the consumer".into()));
        }
        if let Err(error) = call(left, self.consumer.take(message, &mut tx)).await {
            // What cannot be rolled back is not committed either.
            drop(tx.rollback().await);
            return match fault_of(&self.backend, &*error) {
                Fault::Newer => Err(InboxError::Newer(error)),
                Fault::Busy => Err(InboxError::Busy(error)),
                Fault::Suspected => Ok(Tried::Suspected(cut(chain(&*error)))),
                // A race that the consumer itself has lost may be one that it loses each time: a version that has passed.
                Fault::Race | Fault::Message => Ok(Tried::Failed(cut(chain(&*error)), !error.is::<Hung>())),
            };
        }
        tx.staged().rows.extend(rows);
        let outcome = tx.commit().await;
        match Won::after(&self.backend, outcome).await {
            Ok(Some(Won::Yes(_))) => Ok(Tried::Stored),
            Ok(Some(Won::No(_)) | None) => Ok(Tried::Lost),
            Err(error) => self.not_committed(error),
        }
    }

    fn not_committed(&self, error: CommitError) -> Result<Tried, InboxError> {
        match fault_of(&self.backend, &error) {
            Fault::Race => Ok(Tried::Lost),
            Fault::Busy | Fault::Newer => Err(InboxError::of_commit(error)),
            Fault::Suspected => Ok(Tried::Suspected(cut(chain(&error)))),
            Fault::Message => Ok(Tried::Failed(cut(chain(&error)), true)),
        }
    }
}

/// Another writer was faster, once more: a pause, and how often that was.
pub(super) async fn lose(lost: u32) -> u32 {
    tokio::time::sleep(PAUSE * (lost + 1)).await;
    lost + 1
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_ERROR));
    text
}

//! Rows that an operator asked to be rebuilt.
//!
//! They are rebuilt in rounds, each of them in one commit: of as many keys as fit into memory together. The range goes on
//! between two rounds.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::context::{BuildContext, Role};
use super::discards::parks_left_out;
use super::failure::StepError;
use super::fold::{Fits, Stretch, fold_between};
use super::run::{Overdue, Worker};
use super::undecoded;
use crate::blame::NotTheEvent;
use crate::processor::kinds::admission::{Admission, Failure};
use crate::processor::kinds::runner::Rebuildable;
use crate::processor::parked::{self, Parked};
use crate::state::{Afresh, afresh};
use crate::store::{Position, Row, RowWrite, StoreError};

/// Events that are read together, at most.
const PAGE: usize = 5_000;
/// What is shown of a round that has to wait.
const REBUILDING: &str = "rebuilding rows";
/// Keys of a round, at most.
const KEYS: usize = 100;

/// How a range goes through the rows that it was asked to rebuild.
#[derive(Debug)]
pub(super) struct Rounds {
    /// How many keys are rebuilt together; fewer once their rows were too large.
    keys: usize,
    /// Whether there is another round right now.
    pub(super) more: bool,
    /// Since when its failures look like those of the store, which takes writes all the same.
    suspected: Option<Instant>,
    /// They are rebuilt later: what one waits for is away, and the range goes on meanwhile.
    pub(super) again: Option<Overdue>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { keys: KEYS, more: false, suspected: None, again: None }
    }
}

/// What a round came to.
enum Round {
    /// The rows are durable, and nothing of it is asked any more.
    Done,
    /// The rows stay as they are: the event of this key fails, or one that may belong to any of them.
    Fails { key: String, why: String },
    /// The rows do not fit into memory together.
    TooLarge,
    /// The worker is stopped: nothing is durable yet, and the next owner begins again.
    Stopped,
    /// Nobody is to blame for what failed: the rows stay as they are until that is over.
    Later,
}

impl Worker {
    /// Rebuilds some of the rows that an operator asked for: from the log up to where the range is.
    pub(super) async fn rebuild_keys(&mut self) -> Result<(), StepError> {
        if self.rounds.again.is_some_and(|later| later.again > Instant::now()) {
            return Ok(());
        }
        let mut asked = self.asked_afresh().await?;
        asked.retain(|row| row.value.without.is_empty());
        if asked.is_empty() {
            self.rounds = Rounds::default();
            return Ok(());
        }
        self.flush_folded().await?;
        // It may have been parked since an operator asked. Where nobody can retry it, its row is rebuilt as far as it goes.
        let is_read = !matches!(self.context.role, Role::Building { .. });
        let (parked, asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|row| is_read && self.open().parked.contains_key(&row.key));
        self.refuse(&parked, "it is parked: retry or discard it, then there is nothing to rebuild").await?;
        let mut round = &asked[..asked.len().min(self.rounds.keys)];
        if !is_read && parks_left_out(&self.context, &self.open().parked, round).await? {
            return self.begin_again().await;
        }
        let outcome = loop {
            match self.round(round).await? {
                Round::TooLarge => {
                    self.rounds.keys = round.len() / 2;
                    round = &round[..self.rounds.keys];
                }
                outcome => break outcome,
            }
        };
        self.rounds.more = match outcome {
            Round::Fails { key, why } => {
                let blamed = round.iter().position(|row| row.key == key);
                let failed = blamed.map_or(round, |i| &round[i..=i]);
                self.refuse(failed, &why).await?;
                self.rounds.again = None;
                failed.len() < asked.len()
            }
            Round::Later => false,
            _ => {
                self.rounds.again = None;
                round.len() < asked.len()
            }
        };
        Ok(())
    }

    /// What is asked of this range, and was not answered.
    pub(super) async fn asked_afresh(&mut self) -> Result<Vec<Row<Afresh>>, StepError> {
        let (table, slices) = (afresh(&self.context.build), self.share.slices);
        let stored = table.stored(self.context.backend()).await?.into_iter();
        let own = self.readable(&table, stored.filter(|row| slices.has(&row.key))).into_iter();
        Ok(own.filter(|row| row.value.failed.is_none()).collect())
    }

    /// Answers that these rows stay as they are.
    async fn refuse(&mut self, asked: &[Row<Afresh>], why: &str) -> Result<(), StepError> {
        let table = afresh(&self.context.build);
        let refuse = |row: &Row<Afresh>| {
            let value = Afresh { failed: Some(why.to_owned()), ..Afresh::default() };
            table.put(&Row { value, ..row.clone() })
        };
        let refused = asked.iter().map(refuse).collect::<Result<Vec<_>, _>>()?;
        if refused.is_empty() { Ok(()) } else { self.flush_with(refused).await }
    }

    /// Rebuilds the rows of some keys in one commit.
    async fn round(&mut self, asked: &[Row<Afresh>]) -> Result<Round, StepError> {
        if asked.is_empty() {
            return Ok(Round::Done);
        }
        let keys = up_to_what_waits(&self.context, &self.open().parked, asked).await?;
        let folded = self.fold_keys(&keys).await?;
        if !matches!(folded, Round::Done) {
            return Ok(folded);
        }
        let table = afresh(&self.context.build);
        let answers: Vec<RowWrite> = asked.iter().map(|row| table.delete(row)).collect();
        let Err(error) = self.flush_with(answers).await else {
            self.rounds.suspected = None;
            return Ok(Round::Done);
        };
        match (error, self.session().failed().map(str::to_owned)) {
            (StepError::Commit(error), Some(key)) => {
                self.renew();
                Ok(Round::Fails { key, why: parked::cut(&crate::chain(&error)) })
            }
            (error, _) => Err(error),
        }
    }

    /// Folds some keys from the beginning, in memory.
    async fn fold_keys(&mut self, keys: &BTreeMap<String, Position>) -> Result<Round, StepError> {
        let context = self.context.clone();
        let all: Vec<String> = keys.keys().cloned().collect();
        // Rows that it has kept are none of this round.
        self.renew();
        let Some(rows) = self.session().rebuildable() else {
            let why = "this kind of processor cannot rebuild rows".to_owned();
            return Ok(Round::Fails { key: String::new(), why });
        };
        if let Err(unread) = forget(rows, &all).await? {
            self.renew();
            return Ok(unread);
        }
        let mut skips = parked::skips(context.backend(), &context.build).await?;
        leave_out_untaken(&context, keys, &mut skips).await?;
        let (mut after, end) = (Position(0), self.share.progress.position);
        let mut fits = Fits::default();
        while after < end {
            if self.stop.is_cancelled() {
                self.open = None;
                return Ok(Round::Stopped);
            }
            let page = fits.0.min(PAGE);
            let stretch = Stretch { filter: context.filter(), after, end, page, replay: end };
            let mut admission = Admission::of_keys(keys, &skips);
            let before = self.session().bytes();
            match fold_between(context.backend(), self.session(), stretch, &mut admission).await? {
                Ok(folded) => {
                    after = folded.through;
                    let bytes = self.session().bytes();
                    if folded.events > 0 {
                        fits.learn(folded.events, bytes.saturating_sub(before), context.options.bytes);
                    }
                    if bytes > context.options.bytes && keys.len() > 1 {
                        self.renew();
                        return Ok(Round::TooLarge);
                    }
                }
                Err(failure) => return self.round_failed(failure).await,
            }
        }
        Ok(Round::Done)
    }

    /// What a round comes to of which an event fails: while what it needs is away, the others of the range go on.
    async fn round_failed(&mut self, failure: Failure) -> Result<Round, StepError> {
        let mut suspected = self.rounds.suspected;
        let blames = self.blames(&failure, &mut suspected).await;
        self.rounds.suspected = suspected;
        let is_away = failure.source.is::<NotTheEvent>() || suspected.is_some();
        if !blames && !is_away {
            return Err(not_now(REBUILDING, &failure));
        }
        self.renew();
        if !blames {
            self.rounds.again = Some(self.postponed(self.rounds.again, REBUILDING, &failure));
            return Ok(Round::Later);
        }
        let why = parked::cut(&crate::chain(&failure));
        Ok(Round::Fails { key: failure.key, why })
    }
}

/// Empties rows in memory. One that cannot be read stays as it is, and is in the way of no other.
async fn forget(rows: &mut dyn Rebuildable, keys: &[String]) -> Result<Result<(), Round>, StoreError> {
    match rows.forget(keys).await {
        Err(StoreError::Corrupt { .. }) => {}
        forgotten => return forgotten.map(Ok),
    }
    for key in keys {
        match rows.forget(std::slice::from_ref(key)).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                let (key, why) = (key.clone(), parked::cut(&crate::chain(&error)));
                return Ok(Err(Round::Fails { key, why }));
            }
            forgotten => forgotten?,
        }
    }
    Ok(Ok(()))
}

/// What could not be decoded is taken in by itself, once it can be: for the keys of the slices that have not done so yet.
async fn leave_out_untaken(
    context: &BuildContext,
    keys: &BTreeMap<String, Position>,
    skips: &mut parked::Skips,
) -> Result<(), StoreError> {
    let passed = undecoded::all(context.backend(), &context.build).await?;
    for (position, row) in &passed {
        let untaken = keys.keys().filter(|key| row.value.slices().has(key));
        skips.extend(untaken.map(|key| ((*position, key.clone()), String::new())));
    }
    // What none of them has taken in need not be decoded. What one has must be: its row would lack it.
    for (position, _) in passed {
        if keys.keys().all(|key| skips.contains_key(&(position, key.clone()))) {
            skips.insert((position, parked::ANY_KEY.to_owned()), String::new());
        }
    }
    Ok(())
}

/// Up to where each key is folded: what is parked would be handled twice, now, and when it is retried.
async fn up_to_what_waits(
    context: &BuildContext,
    all: &BTreeMap<String, Parked>,
    asked: &[Row<Afresh>],
) -> Result<BTreeMap<String, Position>, StoreError> {
    let mut keys = BTreeMap::new();
    for Row { key, .. } in asked {
        let mut waits = Position(u64::MAX);
        if let Some(sequence) = all.get(key) {
            let of = parked::positions(context.backend(), &context.build, sequence, Position(0), 1);
            waits = of.await?.pop().map_or(sequence.value.first, |(_, position)| position);
        }
        keys.insert(key.clone(), waits);
    }
    Ok(keys)
}

/// The store takes no writes: it is asked again until it does.
fn not_now(what: &'static str, error: &(dyn std::error::Error + 'static)) -> StepError {
    StoreError::transient(what, std::io::Error::other(crate::chain(error))).into()
}

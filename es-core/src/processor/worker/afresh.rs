//! Rows that an operator asked to be rebuilt.
//!
//! They are rebuilt in rounds, each of them in one commit: of as many keys as fit into memory together. The range goes on
//! between two rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::context::{BuildContext, Role};
use super::discards::parks_left_out;
use super::failure::StepError;
use super::fold::{Fits, Stretch, fold_between};
use super::rest::Rest;
use super::retry::Suspicion;
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

/// How a range goes through the rows that it was asked to rebuild: in passes, each key once.
#[derive(Debug)]
pub(super) struct Rounds {
    /// How many keys are rebuilt together: fewer once their rows were too large, and once one of them had to wait.
    fit: usize,
    keys: usize,
    /// Whether there is another round right now; or before when there is none.
    pub(super) more: bool,
    pub(super) rest: Option<Rest>,
    /// How often something had been asked when it was last looked up in a rest of all of it.
    pub(super) asked: Option<u64>,
    /// What some keys wait for is away: when the next pass begins. The others, and the range, go on meanwhile.
    pub(super) again: Option<Overdue>,
    /// Passes in a row after which some had to wait.
    passes: u32,
    /// Whether all that was asked when this pass began was tried: what is asked meanwhile does not put the next one off.
    pauses: bool,
    /// Whether it was shown in this pass that something waits.
    told: bool,
    waiting: BTreeMap<String, Waiting>,
}

/// A key that waits for something.
#[derive(Debug)]
struct Waiting {
    /// Whether it was tried in this pass.
    aside: bool,
    /// The event that fails as if the store did.
    suspected: Option<(Position, Suspicion)>,
}

impl Default for Rounds {
    fn default() -> Self {
        let (rest, asked, again, waiting) = (None, None, None, BTreeMap::new());
        let (passes, pauses, told) = (0, false, false);
        Self { fit: KEYS, keys: KEYS, more: false, rest, asked, again, passes, pauses, told, waiting }
    }
}

impl Rounds {
    fn is_aside(&self, key: &str) -> bool {
        self.waiting.get(key).is_some_and(|waiting| waiting.aside)
    }

    /// Takes those out that wait, until each of the others was tried and a pause is over. Whether any are left.
    fn take_turns(&mut self, asked: &mut Vec<Row<Afresh>>) -> bool {
        let keys: BTreeSet<&str> = asked.iter().map(|row| &*row.key).collect();
        self.waiting.retain(|key, _| keys.contains(&**key));
        if asked.iter().all(|row| self.is_aside(&row.key)) {
            if let Some(Overdue { again, .. }) = self.again.filter(|again| again.again > Instant::now()) {
                (self.rest, self.pauses) = (Some(Rest::all_wait(again)), true);
                return false;
            }
            self.passes = self.passes.saturating_add(1);
            (self.pauses, self.told) = (false, false);
            self.waiting.values_mut().for_each(|waiting| waiting.aside = false);
        }
        asked.retain(|row| !self.is_aside(&row.key));
        true
    }

    /// How far the same event of a key is suspected.
    fn suspected(&self, of: &[Row<Afresh>], position: Position) -> Option<Suspicion> {
        let (at, suspicion) = self.waiting.get(&of.first()?.key)?.suspected?;
        (at == position).then_some(suspicion)
    }

    /// These wait for something that is away, which took so long to find out. The pause is one of the pass, not of each key.
    fn wait(
        &mut self,
        of: &[Row<Afresh>],
        suspected: Option<(Position, Suspicion)>,
        again: Overdue,
        took: Duration,
    ) {
        let waiting = |row: &Row<Afresh>| (row.key.clone(), Waiting { aside: true, suspected });
        self.waiting.extend(of.iter().map(waiting));
        let rest = Rest::fair(took);
        let Overdue { attempts, again } = self.again.filter(|_| self.pauses).unwrap_or(again);
        self.again = Some(Overdue { attempts, again: again.max(rest.until) });
        self.rest = Some(rest);
    }

    fn answered(&mut self, rows: &[Row<Afresh>]) {
        self.forget(rows);
        self.keys = (self.keys * 2).min(KEYS);
        if self.waiting.is_empty() {
            (self.again, self.passes, self.pauses, self.told) = (None, 0, false, false);
        }
    }

    fn forget(&mut self, rows: &[Row<Afresh>]) {
        let keys: BTreeSet<&str> = rows.iter().map(|row| &*row.key).collect();
        self.waiting.retain(|key, _| !keys.contains(&**key));
    }
}

/// What a round came to.
enum Round {
    /// The rows are durable, and nothing of it is asked any more.
    Done,
    /// The rows stay as they are: the event of this key fails, or one that may belong to any of them.
    Fails { key: String, why: String },
    /// The same, and whose fault that is has to be found out.
    Failed(Failure),
    /// The rows do not fit into memory together.
    TooLarge,
    /// The worker is stopped: nothing is durable yet, and the next owner begins again.
    Stopped,
}

impl Worker {
    /// Rebuilds some of the rows that an operator asked for: from the log up to where the range is.
    pub(super) async fn rebuild_keys(&mut self) -> Result<(), StepError> {
        if self.rounds.rest.is_some_and(|rest| rest.is_on()) {
            return Ok(());
        }
        (self.rounds.more, self.rounds.rest) = (false, None);
        let began = Instant::now();
        let mut asked = self.asked_afresh().await?;
        asked.retain(|row| row.value.without.is_empty());
        if asked.is_empty() {
            self.rounds = Rounds::default();
            return Ok(());
        }
        if !self.rounds.take_turns(&mut asked) {
            return Ok(());
        }
        self.flush_folded().await?;
        // It may have been parked since an operator asked. Where nobody can retry it, its row is rebuilt as far as it goes.
        let is_read = !matches!(self.context.role, Role::Building { .. });
        let (parked, asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|row| is_read && self.open().parked.contains_key(&row.key));
        self.refuse(&parked, "it is parked: retry or discard it, then there is nothing to rebuild").await?;
        let mut round = &asked[..asked.len().min(self.rounds.keys).min(self.rounds.fit)];
        if !is_read && parks_left_out(&self.context, &self.open().parked, round).await? {
            return self.begin_again().await;
        }
        let outcome = loop {
            match self.round(round).await? {
                Round::TooLarge => {
                    self.rounds.fit = round.len() / 2;
                    round = &round[..self.rounds.fit];
                }
                outcome => break outcome,
            }
        };
        let of_key = |key: &str| round.iter().position(|row| row.key == key).map_or(round, |i| &round[i..=i]);
        let answered = match outcome {
            Round::Fails { key, why } => {
                let failed = of_key(&key);
                self.refuse(failed, &why).await?;
                failed
            }
            Round::Failed(failure) => {
                let failed = of_key(&failure.key);
                if self.waits(failed, &failure, began).await? {
                    self.rounds.keys = (round.len() / 2).max(1);
                    return Ok(());
                }
                self.refuse(failed, &parked::cut(&crate::chain(&failure))).await?;
                failed
            }
            _ => round,
        };
        self.rounds.answered(answered);
        self.rounds.more = answered.len() < asked.len() || !self.rounds.waiting.is_empty();
        Ok(())
    }

    /// Whether rows of which an event fails wait until what it needs is there, and the others of the range go on.
    async fn waits(
        &mut self,
        failed: &[Row<Afresh>],
        failure: &Failure,
        began: Instant,
    ) -> Result<bool, StepError> {
        let mut suspected = self.rounds.suspected(failed, failure.position);
        if self.blames(failure, &mut suspected).await {
            return Ok(false);
        }
        if !failure.source.is::<NotTheEvent>() && suspected.is_none() {
            // While the store is away, nothing is learned of any of them.
            self.rounds.waiting.values_mut().for_each(|waiting| waiting.suspected = None);
            self.rounds.forget(failed);
            return Err(not_now(REBUILDING, failure));
        }
        let again = self.overdue_after(self.rounds.passes.saturating_add(1));
        if !std::mem::replace(&mut self.rounds.told, true) {
            self.show_failing(REBUILDING, &parked::cut(&crate::chain(failure)), again.attempts);
        }
        let suspected = suspected.map(|suspicion| (failure.position, suspicion));
        self.rounds.wait(failed, suspected, again, began.elapsed());
        Ok(true)
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
        let Err(error) = self.flush_with(answers).await else { return Ok(Round::Done) };
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
                Err(failure) => {
                    self.renew();
                    return Ok(Round::Failed(failure));
                }
            }
        }
        Ok(Round::Done)
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

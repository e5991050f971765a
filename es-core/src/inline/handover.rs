//! From a processor to the commits, and back: how a projection becomes inline, and how it ends.
//!
//! Before, its build is a range with a checkpoint, as for any processor; the one who makes it inline claims all of it, and
//! folds up to the head. The last events, the checkpoint's end and the new set of inline projections are one commit, under
//! the condition that no further event came in between: from that commit on, events are written only by those who also
//! write the projection. The way back is one commit under a condition as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::build::Build;
use super::engine::Ground;
use super::generations::{Generations, prepare};
use super::node::{self, Node};
use super::range::{self, Range};
use super::rows;
use super::runner::{Runner, Session};
use super::work::{Failure, Work};
use crate::retry::RetryPolicy;
use crate::store::inline_set::Set;
use crate::store::{AppendCondition, Commit, CommitError, EventFilter, Position, RecordedEvent, StoreError};

/// How often events that came in between may refuse the last commit before writers are shut out for its sake.
const PATIENCE: u32 = 16;

/// What one try led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Done,
    /// Somebody was faster, or an answer was lost: what is stored is looked at again.
    Again,
}

/// Whether a commit went through; `false` if what is stored has to be looked at again.
fn went_through<T>(outcome: Result<T, CommitError>) -> Result<bool, StoreError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(CommitError::Fenced { .. } | CommitError::ConditionFailed { .. } | CommitError::Unknown(_)) => {
            Ok(false)
        }
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("changing the inline projections", other)),
    }
}

/// Tries until it is done.
async fn until_done<F: Future<Output = Result<Tried, StoreError>>>(
    ground: &Ground,
    mut attempt: impl FnMut(u32) -> F,
) -> Result<(), StoreError> {
    let policy = RetryPolicy::default().with_attempts(u32::MAX);
    for tried in 1.. {
        if attempt(tried).await? == Tried::Done {
            break;
        }
        tokio::time::sleep(policy.wait_after(tried, &ground.ids).unwrap_or_default()).await;
    }
    Ok(())
}

/// Keeps the node alive for others while something is done before its processors run.
pub(crate) async fn alive_during<T>(ground: &Ground, work: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let nobody_looks = watch::Sender::new(0);
    let node = Node::new(ground.clone(), BTreeSet::new(), watch::Sender::new(None), nobody_looks.subscribe());
    let running = tokio::spawn(node.run(stop));
    let done = work.await;
    drop(guard);
    // A panic of the task is in the log; the lease runs out.
    drop(running.await);
    done
}

/// The table of the rows of a view that queries read.
///
/// # Errors
///
/// [`StoreError`] if the store cannot be read.
pub(crate) async fn current_rows(ground: &Ground, runner: &dyn Runner) -> Result<Arc<str>, StoreError> {
    let name = runner.name();
    let generations = Generations::read(&*ground.backend, &name).await?.unwrap_or_default();
    Ok(runner.tables().map_or(name, |tables| tables.rows(generations.current)).into())
}

/// Makes a projection inline.
///
/// # Errors
///
/// [`StoreError::Misuse`] if another node works on it, something of it is parked, another build of it is kept, or its
/// handlers fail.
pub(crate) async fn make_inline(ground: &Ground, runner: &Arc<dyn Runner>) -> Result<(), StoreError> {
    let name = runner.name();
    let pulses = Mutex::default();
    until_done(ground, |_| async {
        let set = Set::read(&*ground.backend).await?;
        if set.names.contains(&name) {
            return Ok(Tried::Done);
        }
        HandOver { ground, runner, name: &name, pulses: &pulses }.attempt(set).await
    })
    .await
}

/// Ends that a projection is inline: a processor goes on with it from the head. Harmless if it is none.
///
/// # Errors
///
/// [`StoreError`] if the store cannot be read or written.
pub(crate) async fn retire(ground: &Ground, name: &str) -> Result<(), StoreError> {
    until_done(ground, |tried| async move {
        let backend = &*ground.backend;
        let set = Set::read(backend).await?;
        if !set.names.contains(name) {
            return Ok(Tried::Done);
        }
        let generations = Generations::read(backend, name).await?.unwrap_or_default();
        let head = backend.head().await?;
        let range =
            Range::new(generations.build(name, generations.current), head, head).placed(backend).await?;
        // The row counts on; so does the epoch that it shows.
        let range = Range { epoch: range.rev, ..range };
        let condition = AppendCondition { fail_if_events_match: EventFilter::all(), after: head };
        let rows = vec![set.without(name).write(), range.write()];
        let commit = Commit { rows, condition: Some(condition), ..Commit::default() };
        match backend.commit(commit).await {
            Err(CommitError::ConditionFailed { .. }) => {
                if tried == PATIENCE {
                    shut_out(ground, &set).await?;
                }
                Ok(Tried::Again)
            }
            outcome => Ok(if went_through(outcome)? { Tried::Done } else { Tried::Again }),
        }
    })
    .await
}

/// The next generation with the same projections: whoever writes must start again, as after the change that is to come.
async fn shut_out(ground: &Ground, set: &Set) -> Result<bool, StoreError> {
    tracing::warn!(
        generation = set.rev + 1,
        "writers of other wirings are refused from now on: events come faster than the inline projections can change"
    );
    let commit = Commit { rows: vec![set.write()], ..Commit::default() };
    went_through(ground.backend.commit(commit).await)
}

struct HandOver<'a> {
    ground: &'a Ground,
    runner: &'a Arc<dyn Runner>,
    name: &'a str,
    /// Nodes that run it, and the pulse that each had when it was seen first.
    pulses: &'a Mutex<BTreeMap<Uuid, u64>>,
}

impl HandOver<'_> {
    async fn attempt(&self, set: Set) -> Result<Tried, StoreError> {
        let backend = &*self.ground.backend;
        prepare(backend, &**self.runner).await?;
        let generations = Generations::read(backend, self.name).await?.unwrap_or_default();
        self.only_one_build(&generations)?;
        let build = generations.build(self.name, generations.current);
        let Some(ranges) = self.claim(&build).await? else { return Ok(Tried::Again) };
        let parked = rows::whole(backend, &build.parked()).await?.len();
        if parked > 0 {
            return Err(StoreError::misuse(format!(
                "{parked} sequences of {} are parked, so its rows are not complete: run it by a processor, and retry or \
                 discard them first",
                self.name
            )));
        }
        let Some(range) = self.level(ranges).await? else { return Ok(Tried::Again) };
        self.finish(range, &generations, set).await
    }

    fn only_one_build(&self, generations: &Generations) -> Result<(), StoreError> {
        let what = match generations {
            Generations { building: Some(building), .. } => {
                format!("generation {} is being built: switch to it or abort it", building.generation)
            }
            Generations { previous: Some(previous), .. } => {
                format!("generation {previous} is kept to go back to: drop it (`drop_previous`)")
            }
            _ => return Ok(()),
        };
        Err(StoreError::misuse(format!(
            "an inline projection has one build, and of {} {what} first",
            self.name
        )))
    }

    /// All ranges of the build, for this node; `None` if that has to be tried again.
    async fn claim(&self, build: &Build) -> Result<Option<Vec<Range>>, StoreError> {
        let (backend, me) = (&*self.ground.backend, self.ground.node);
        let alive = node::alive(backend, backend.now().await?.as_microsecond()).await?;
        let runs_it = |(node, runs): &(&Uuid, &BTreeSet<String>)| **node != me && runs.contains(self.name);
        if let Some((node, _)) = alive.iter().find(runs_it) {
            let pulse = node::pulse(backend, *node).await?;
            let first =
                *self.pulses.lock().unwrap_or_else(PoisonError::into_inner).entry(*node).or_insert(pulse);
            if first == pulse {
                // It may be gone without a word: then its lease runs out.
                return Ok(None);
            }
            return Err(StoreError::misuse(format!(
                "node {node} runs {} by a processor: stop it first, then start this app again",
                self.name
            )));
        }
        let ranges = range::of(backend, build).await?;
        // One that is alive and does not run it makes it inline as well: whoever is first does it.
        let busy = |range: &Range| range.owner.is_some_and(|owner| owner != me && alive.contains_key(&owner));
        if ranges.is_empty() || ranges.iter().any(busy) {
            return Ok(None);
        }
        let claimed: Vec<Range> = ranges.iter().map(|range| range.owned_by(Some(me))).collect();
        let commit = Commit { rows: claimed.iter().map(Range::write).collect(), ..Commit::default() };
        let done = went_through(backend.commit(commit).await)?;
        Ok(done.then(|| claimed.into_iter().map(Range::written).collect()))
    }

    /// Folds every range up to one position, and makes one range of them.
    async fn level(&self, ranges: Vec<Range>) -> Result<Option<Range>, StoreError> {
        let backend = &*self.ground.backend;
        let head = backend.head().await?;
        let mut there = Vec::with_capacity(ranges.len());
        for range in ranges {
            let Some(range) = self.fold_to(head, range).await? else { return Ok(None) };
            there.push(range);
        }
        let [first, rest @ ..] = &there[..] else { return Ok(None) };
        if rest.is_empty() {
            return Ok(Some(first.clone()));
        }
        let epoch = there.iter().map(|range| range.epoch).max().unwrap_or_default() + 1;
        let whole = Range { slices: Slices::ALL, epoch, ..first.clone() };
        let rows = std::iter::once(whole.write()).chain(rest.iter().map(Range::forget)).collect();
        let done = went_through(backend.commit(Commit { rows, ..Commit::default() }).await)?;
        Ok(done.then(|| whole.written()))
    }

    async fn fold_to(&self, head: Position, mut range: Range) -> Result<Option<Range>, StoreError> {
        let mut session = self.open(&range);
        while range.position < head {
            let (mut events, through, _) = self.page(&range).await?;
            events.retain(|event| event.place() <= head);
            self.fold(&mut *session, &range, &events).await?;
            let next = range.at(through.min(head));
            if !went_through(session.flush(vec![next.write()]).await)? {
                return Ok(None);
            }
            range = next.written();
        }
        Ok(Some(range))
    }

    /// The last events and the new set, in one commit.
    async fn finish(
        &self,
        mut range: Range,
        generations: &Generations,
        mut set: Set,
    ) -> Result<Tried, StoreError> {
        let mut session = self.open(&range);
        let (mut refused, mut flush) = (0, false);
        loop {
            let (events, through, more) = self.page(&range).await?;
            self.fold(&mut *session, &range, &events).await?;
            if more || flush {
                let next = range.at(through);
                if !went_through(session.flush(vec![next.write()]).await)? {
                    return Ok(Tried::Again);
                }
                (range, flush) = (next.written(), false);
                continue;
            }
            // The row of the builds is written too: a rebuild that is just being begun finds it changed.
            let rows =
                vec![range.at(through).forget(), generations.write(self.name), set.with(self.name).write()];
            let condition = AppendCondition { fail_if_events_match: self.runner.filter(), after: through };
            let last = Commit { rows, condition: Some(condition), ..Commit::default() };
            match session.flush_with(last).await {
                Err(CommitError::ConditionFailed { .. }) => {}
                outcome => return Ok(if went_through(outcome)? { Tried::Done } else { Tried::Again }),
            }
            // What was folded is gone with the session. The events are flushed by themselves, so the next last commit is
            // about those that came since.
            (session, flush) = (self.open(&range), true);
            refused += 1;
            if refused == PATIENCE {
                if !shut_out(self.ground, &set).await? {
                    return Ok(Tried::Again);
                }
                set.rev += 1;
            }
        }
    }

    fn open(&self, range: &Range) -> Box<dyn Session> {
        let idle: Duration = self.ground.settings.lease.mul_f64(0.75);
        self.runner.open(range.build.generation, &self.ground.services, idle)
    }

    /// What comes after a range, marked as far as it is a replay.
    async fn page(&self, range: &Range) -> Result<(Vec<RecordedEvent>, Position, bool), StoreError> {
        let (filter, limit) = (self.runner.filter(), self.runner.traits().page);
        let mut page = self.ground.backend.read(&filter, range.position, limit).await?;
        page.events.iter_mut().for_each(|event| event.replay = event.place() <= range.replay);
        Ok((page.events, page.through, page.more))
    }

    async fn fold(
        &self,
        session: &mut dyn Session,
        range: &Range,
        events: &[RecordedEvent],
    ) -> Result<(), StoreError> {
        let (nothing_parked, nothing_skipped) = (BTreeMap::new(), BTreeMap::new());
        let events: Vec<&RecordedEvent> = events.iter().collect();
        let mut work = Work::of_range(range.slices, &nothing_parked, &nothing_skipped);
        session.fold(&events, &mut work).await.map_err(|failure| self.stopped(&failure))
    }

    fn stopped(&self, failure: &Failure) -> StoreError {
        let why = format!("building {} up to the head: {}", self.name, crate::chain(failure));
        if self.ground.backend.is_transient(&*failure.source) {
            return StoreError::transient("an inline projection", std::io::Error::other(why));
        }
        StoreError::misuse(format!("{why}; mend its handler, or run it by a processor"))
    }
}

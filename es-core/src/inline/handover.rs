//! From a processor to the commits, and back: how a projection becomes inline, and how it ends.
//!
//! Before, its build is a range with a checkpoint, as for any processor; the one who makes it inline claims all of it, and
//! folds up to the head. The last events, the checkpoint's end and the new set of inline projections are one commit, under
//! the condition that no further event came in between: from that commit on, events are written only by those who also
//! write the projection. The way back is one commit under a condition as well.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use uuid::Uuid;

use super::code;
use super::start::Starting;
use crate::ErrorKind;
use crate::cluster::{self, Alive, Share, Shares};
use crate::event::is_of_a_newer_program;
use crate::id::Ids;
use crate::processor::{
    self, Admission, BY_ITSELF, Backfill, Build, Failure, Fits, Folded, Keeps, NodeContext, ProcessorError,
    ProcessorOptions, Runner, Session, Standing, Stretch, TakeOver, Wired, finish_set_back, fold_between,
    give_names, made_by, noted, prepare, remove_build, standing, take_over_all,
};
use crate::retry::RetryPolicy;
use crate::slices::Slices;
use crate::state::{Checkpoint, Freeze, Generations, InlineSet, NodeRecord, Versions, generations, versions};
use crate::store::{
    AppendCondition, Commit, CommitError, Committed, EventFilter, Position, Row, RowWrite, StoreError, Won,
};

/// Up to how many parked sequences are counted.
const COUNTED: usize = 100;
/// How often events that came in between may refuse the last commit before writers are shut out for its sake.
pub(super) const PATIENCE: u32 = 16;

/// Whether a commit went through; `false` if what is stored has to be looked at again.
pub(super) async fn went_through(
    node: &NodeContext,
    outcome: Result<Committed, CommitError>,
) -> Result<bool, StoreError> {
    match Won::after(&*node.backend, outcome).await {
        Ok(won) => Ok(won.is_some_and(|won| won.is_yes())),
        Err(CommitError::ConditionFailed { .. } | CommitError::Unknown(_)) => Ok(false),
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("changing the inline projections", other)),
    }
}

/// Why a try has no outcome.
enum Wrong {
    /// It is in the way, a line each.
    Lines(Vec<String>),
    Store(StoreError),
}

impl From<Vec<String>> for Wrong {
    fn from(lines: Vec<String>) -> Self {
        Self::Lines(lines)
    }
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Tries until there is an outcome: without one, another node was faster, or a request was lost. A store that does not
/// answer is asked again, but not for ever: unless something was `done` in between.
async fn until_done<T, F: Future<Output = Result<Option<T>, Wrong>>>(
    ids: &Ids,
    name: &str,
    done: impl Fn() -> u64,
    mut attempt: impl FnMut(u32) -> F,
) -> Result<T, Vec<String>> {
    let policy = RetryPolicy::default().with_attempts(u32::MAX);
    let (mut failed, mut before) = (0, done());
    for tried in 1.. {
        let outcome = attempt(tried).await;
        let now = done();
        if std::mem::replace(&mut before, now) != now {
            failed = 0;
        }
        match outcome {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => failed = 0,
            Err(Wrong::Lines(lines)) => return Err(lines),
            Err(Wrong::Store(error)) => {
                failed += 1;
                if error.kind() != ErrorKind::Transient || failed >= PATIENCE {
                    return Err(vec![format!("{name}: {}", crate::chain(&error))]);
                }
            }
        }
        tokio::time::sleep(policy.wait_after(tried, ids).unwrap_or_default()).await;
    }
    unreachable!("it tries until it is done")
}

/// What has one build is not rebuilt by itself.
fn obstacle(wrong: &[String]) -> StoreError {
    let by_a_processor = "or run it by a processor until it has been rebuilt by itself (`Backfill::Online`), and make it inline then";
    StoreError::misuse(wrong.join("\n").replace(BY_ITSELF, by_a_processor))
}

/// The builds of a projection, and the revision of their row.
async fn builds(node: &NodeContext, name: &str) -> Result<Row<Generations>, StoreError> {
    let known = Generations::read(&*node.backend, name).await?;
    Ok(known.unwrap_or_else(|| Row::new(name, Generations::default())))
}

/// The table of the rows of a view that queries read.
///
/// # Errors
///
/// [`StoreError`] if the store cannot be read.
pub(super) async fn current_rows(node: &NodeContext, runner: &dyn Runner) -> Result<Arc<str>, StoreError> {
    let name = runner.name();
    let current = builds(node, &name).await?.value.current;
    Ok(runner.keeps().tables().map_or(name, |tables| tables.rows(current)).into())
}

/// Whether what is not inline yet may become so, as far as that can be said before it is done. Nothing is changed.
///
/// # Errors
///
/// A line for each that may not: another node works on it, something of it is parked, another build of it is kept, or a newer
/// program runs it.
pub(super) async fn judge(starting: &Starting<'_>, stored: &InlineSet) -> Result<(), Vec<String>> {
    let mut wrong = Vec::new();
    for wired in starting.incoming(stored) {
        let becoming = &Becoming::new(starting, wired);
        let judged = until_done(
            &starting.node.ids,
            &becoming.name,
            || 0,
            |_| async move { Ok(becoming.judge().await?) },
        );
        wrong.extend(judged.await.err().into_iter().flatten());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Builds what becomes inline up to the head, for this node: others wait until it is inline, or until this node has gone.
///
/// # Errors
///
/// As for [`judge`], or its handlers fail.
pub(super) async fn build<'a>(
    starting: &'a Starting<'a>,
    wired: &'a Wired,
) -> Result<Becoming<'a>, Vec<String>> {
    let mut becoming = Becoming::new(starting, wired);
    let this = &becoming;
    let built = until_done(
        &starting.node.ids,
        &this.name,
        || this.flushes(),
        |_| async move {
            if starting.known().await?.names.contains(&this.name) {
                return Ok(Some(None));
            }
            Ok(this.build().await?.map(Some))
        },
    );
    becoming.built = built.await?;
    Ok(becoming)
}

/// Makes a projection inline that has been built.
///
/// # Errors
///
/// As for [`build`], or for [`code::take_over`].
pub(super) async fn make_inline(mut becoming: Becoming<'_>) -> Result<(), Vec<String>> {
    let mut built = becoming.built.take();
    let (starting, becoming) = (becoming.starting, &becoming);
    until_done(
        &starting.node.ids,
        &becoming.name,
        || becoming.flushes(),
        |_| {
            let built = built.take();
            async move {
                // With each try: if another program has changed the set, or writes what is in it, this one may not fit any more,
                // and must not shut that one out.
                let set = code::take_over(starting).await?;
                if set.names.contains(&becoming.name) {
                    return Ok(Some(()));
                }
                Ok(becoming.attempt(built, set).await?)
            }
        },
    )
    .await
}

/// Ends that a projection is inline: a processor continues with it from the head. Harmless if it is none.
///
/// # Errors
///
/// What is in the way of that processor, or the store cannot be read or written.
pub(super) async fn retire(starting: &Starting<'_>, name: &str) -> Result<(), Vec<String>> {
    let successors: Vec<Wired> =
        starting.successors.iter().filter(|(runner, _)| runner.name() == name).cloned().collect();
    let successors = &successors;
    until_done(
        &starting.node.ids,
        name,
        || 0,
        |tried| async move {
            let set = code::take_over(starting).await?;
            if !set.names.contains(name) {
                return Ok(Some(()));
            }
            let head = starting.node.backend.head().await?;
            // Up to there at least; and no further event may come before it is retired.
            processor::judge(starting.node, successors, starting.looked).await??;
            Ok(leave(starting.node, &set, name, head, tried).await?)
        },
    )
    .await
}

/// A share at the head, and the set without the projection.
async fn leave(
    node: &NodeContext,
    set: &InlineSet,
    name: &str,
    head: Position,
    tried: u32,
) -> Result<Option<()>, StoreError> {
    let backend = &*node.backend;
    let (current, shares) = (builds(node, name).await?.value, Shares::checkpoints());
    let group = current.build(name, current.current).to_string();
    let share = shares.placed(backend, Share::whole(group, Checkpoint::new(head, head))).await?;
    // The row counts on; so does the epoch that it shows.
    let share = Share { epoch: share.rev, ..share };
    let condition = AppendCondition { fail_if_events_match: EventFilter::all(), after: head };
    let rows = vec![set.without(name).write()?, shares.put(&share)?];
    let commit = Commit { rows, condition: Some(condition), ..Commit::default() };
    match backend.commit(commit).await {
        Err(CommitError::ConditionFailed { .. }) => {
            if tried.is_multiple_of(PATIENCE) {
                shut_out(node, set).await?;
            }
            Ok(None)
        }
        outcome => Ok(went_through(node, outcome).await?.then_some(())),
    }
}

/// The next generation with the same projections: writers must start again, as after the change that is to come.
pub(super) async fn shut_out(node: &NodeContext, set: &InlineSet) -> Result<bool, StoreError> {
    tracing::warn!(
        generation = set.rev + 1,
        "writers of other wirings are refused from now on: events come faster than the inline projections can change"
    );
    let commit = Commit { rows: vec![set.write()?], ..Commit::default() };
    went_through(node, node.backend.commit(commit).await).await
}

/// A projection that is to become inline.
pub(crate) struct Becoming<'a> {
    starting: &'a Starting<'a>,
    node: &'a NodeContext,
    runner: &'a Arc<dyn Runner>,
    /// The same, with what is done if it has missed events. What is inline has one build: it is not rebuilt by itself.
    wired: [Wired; 1],
    name: String,
    /// What it has been built to, before it is made inline.
    built: Option<Built>,
    shares: Shares<Checkpoint>,
    /// Nodes that run it, and the pulse that each had when it was seen first.
    pulses: Mutex<BTreeMap<Uuid, u64>>,
    /// Since when another node that makes it inline as well has had it.
    busy: Mutex<Option<Instant>>,
    /// How often something was made durable.
    flushes: AtomicU64,
}

/// What is up to the head, in one share of this node.
struct Built {
    build: Build,
    known: Row<Generations>,
    share: Share<Checkpoint>,
}

impl<'a> Becoming<'a> {
    fn new(starting: &'a Starting<'a>, (runner, backfill): &'a Wired) -> Self {
        let backfill = if *backfill == Backfill::Skip { Backfill::Skip } else { Backfill::Refuse };
        Self {
            starting,
            node: starting.node,
            runner,
            wired: [(runner.clone(), backfill)],
            name: runner.name(),
            built: None,
            shares: Shares::checkpoints(),
            pulses: Mutex::default(),
            busy: Mutex::default(),
            flushes: AtomicU64::new(0),
        }
    }

    fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Whether it may become inline; not known as long as a node that runs it may have gone. Nothing is changed.
    async fn judge(&self) -> Result<Option<()>, StoreError> {
        let backend = &*self.node.backend;
        if let Err(wrong) = processor::judge(self.node, &self.wired, self.starting.looked).await? {
            return Err(obstacle(&wrong));
        }
        let known = builds(self.node, &self.name).await?.value;
        if known.gone().is_none() {
            self.only_one_build(&known)?;
        }
        let build = known.build(&self.name, known.current);
        self.standing(&build).await?;
        if !self.is_left_alone(&cluster::alive(backend).await?).await? {
            return Ok(None);
        }
        self.nothing_parked(&build).await.map(Some)
    }

    /// Makes it inline, from where it has been built to.
    async fn attempt(&self, built: Option<Built>, set: InlineSet) -> Result<Option<()>, StoreError> {
        let built = match built {
            Some(built) => built,
            None => match self.build().await? {
                Some(built) => built,
                None => return Ok(None),
            },
        };
        let names = self.plain_names().await?;
        self.finish(built, &names, set).await
    }

    /// Builds it up to the head; `None` if that has to be tried again.
    async fn build(&self) -> Result<Option<Built>, StoreError> {
        let backend = &*self.node.backend;
        prepare(backend, &**self.runner).await?;
        let wrong = take_over_all(self.node, &self.wired, self.starting.looked, self.starting.taken).await?;
        if !wrong.is_empty() {
            return Err(obstacle(&wrong));
        }
        let mut known = builds(self.node, &self.name).await?;
        if let Some(gone) = known.value.gone() {
            // Whoever was to remove it has ended before that.
            remove_build(self.node, &**self.runner, gone).await.or_else(ProcessorError::in_store)?;
            return Ok(None);
        }
        if let (Some(to), Some(tables)) = (known.value.set_back.first(), self.runner.keeps().tables()) {
            let build = known.value.build(&self.name, to.generation);
            finish_set_back(backend, &tables, &build, None).await?;
            return Ok(None);
        }
        self.only_one_build(&known.value)?;
        // Of a switch to a build that has gone: with one build, it comes to nothing.
        known.value.freeze = Freeze::default();
        let build = known.value.build(&self.name, known.value.current);
        self.take_back(&build).await?;
        let Some(shares) = self.claim(&build).await? else { return Ok(None) };
        self.nothing_parked(&build).await?;
        let share = self.level(&build, shares).await?;
        Ok(share.map(|share| Built { build, known, share }))
    }

    async fn nothing_parked(&self, build: &Build) -> Result<(), StoreError> {
        let parked = build.parked().stored_page(&*self.node.backend, None, COUNTED).await?.len();
        if parked == 0 {
            return Ok(());
        }
        let more = if parked == COUNTED { " or more" } else { "" };
        Err(StoreError::misuse(format!(
            "{parked}{more} sequences of {} are parked, so its rows are not complete: run it by a processor, and retry or discard \
             them first",
            self.name
        )))
    }

    /// What this program's code is to the build, which no newer program must run.
    async fn standing(&self, build: &Build) -> Result<(Standing, TakeOver), StoreError> {
        let (backend, code) = (&*self.node.backend, self.runner.code());
        let (stored, now) = (made_by(backend, build).await?.value, backend.now().await?.as_microsecond());
        let before = stored.known();
        match standing(before, &code, &self.name, &cluster::alive(backend).await?, now) {
            Standing::StandsBy if !before.is_some_and(|before| before.is_like(&code)) => {
                Err(StoreError::misuse("a newer program runs it: stop that one first"))
            }
            Standing::IsLeft if self.wired[0].1 != Backfill::Skip => {
                let of_build = self.shares.of(backend, &build.to_string()).await?;
                let furthest = of_build.iter().map(|share| share.progress.position).max().unwrap_or_default();
                let looked = self.starting.looked;
                match looked.find(backend, &**self.runner, build, before, furthest).await? {
                    Some(why) => Err(StoreError::misuse(why)),
                    None => Ok((Standing::IsLeft, TakeOver::from(before))),
                }
            }
            standing => Ok((standing, TakeOver::from(before))),
        }
    }

    /// Takes the build back from a newer program, if that is not run any more.
    async fn take_back(&self, build: &Build) -> Result<(), StoreError> {
        let (Standing::IsNewer | Standing::IsLeft, over) = self.standing(build).await? else { return Ok(()) };
        let over = if self.wired[0].1 == Backfill::Skip { over.skipping() } else { over };
        let taken = over.take(&*self.node.backend, &**self.runner, build, self.node.settings.lease).await?;
        if let Some(before) = taken.map_err(StoreError::misuse)? {
            self.starting.taken.from(before);
        }
        Ok(())
    }

    /// Commits write it by its plain names. Gives the row that says that it has them: as long as it is as it was read, no
    /// other version gets them.
    async fn plain_names(&self) -> Result<Row<Versions>, StoreError> {
        let backend = &*self.node.backend;
        let Some(tables) = self.runner.keeps().tables() else {
            let what = format!("{} cannot become inline: it does not only write rows", self.name);
            return Err(StoreError::misuse(what));
        };
        loop {
            let noted = noted(backend, tables.name).await?;
            if noted.value.published == tables.version {
                return Ok(noted);
            }
            // Another node may have been as fast.
            give_names(backend, &tables, noted).await?;
        }
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

    /// Whether no node runs it by a processor; not known for as long as one that did may have gone without a word: then its
    /// lease runs out.
    async fn is_left_alone(&self, alive: &Alive) -> Result<bool, StoreError> {
        let runs = |(node, record): &(&Uuid, &NodeRecord)| {
            **node != self.node.node && record.runs.contains(&self.name)
        };
        let Some((node, _)) = alive.iter().find(runs) else { return Ok(true) };
        let pulse = cluster::pulse(&*self.node.backend, *node).await?;
        let first = *self.pulses.lock().unwrap_or_else(PoisonError::into_inner).entry(*node).or_insert(pulse);
        if first == pulse {
            return Ok(false);
        }
        Err(StoreError::misuse(format!(
            "node {node} runs {} by a processor: stop it first, then start this app again",
            self.name
        )))
    }

    /// All shares of the build, for this node; `None` if that has to be tried again.
    async fn claim(&self, build: &Build) -> Result<Option<Vec<Share<Checkpoint>>>, StoreError> {
        let (backend, me) = (&*self.node.backend, self.node.node);
        let alive = cluster::alive(backend).await?;
        if !self.is_left_alone(&alive).await? {
            return Ok(None);
        }
        let shares = self.shares.of(backend, &build.to_string()).await?;
        // One that is alive and does not run it makes it inline as well: the first of them does it.
        let others = || shares.iter().filter_map(|share| share.owner.filter(|owner| *owner != me));
        let is_busy = others().any(|owner| alive.contains_key(&owner));
        if shares.is_empty() || is_busy && !self.takes_turn(others().all(|owner| me < owner)) {
            return Ok(None);
        }
        let claimed: Vec<_> = shares.iter().map(|share| share.owned_by(Some(me))).collect();
        let rows = claimed.iter().map(|share| self.shares.put(share)).collect::<Result<_, _>>()?;
        self.starting.taken.changed(build);
        let done = self.write(rows).await?;
        Ok(done.then(|| claimed.into_iter().map(Share::written).collect()))
    }

    /// Whether it is not left any longer to another node that makes it inline as well. That one may wait for what this node has
    /// got: after a while the first of them takes all.
    fn takes_turn(&self, is_first: bool) -> bool {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        is_first && busy.get_or_insert_with(Instant::now).elapsed() >= self.node.settings.lease
    }

    async fn write(&self, rows: Vec<RowWrite>) -> Result<bool, StoreError> {
        let commit = Commit { rows, ..Commit::default() };
        went_through(self.node, self.node.backend.commit(commit).await).await
    }

    /// Folds every share up to one position, and makes one share of them.
    async fn level(
        &self,
        build: &Build,
        shares: Vec<Share<Checkpoint>>,
    ) -> Result<Option<Share<Checkpoint>>, StoreError> {
        let head = self.node.backend.head().await?;
        let mut there = Vec::with_capacity(shares.len());
        for share in shares {
            let Some(share) = self.fold_to(build, head, share).await? else { return Ok(None) };
            there.push(share);
        }
        let [first, rest @ ..] = &there[..] else { return Ok(None) };
        if rest.is_empty() {
            return Ok(Some(first.clone()));
        }
        let epoch = there.iter().map(|share| share.epoch).max().unwrap_or_default() + 1;
        let whole = Share { slices: Slices::ALL, epoch, ..first.clone() };
        let mut rows = vec![self.shares.put(&whole)?];
        for share in rest {
            rows.push(self.shares.retire(share)?);
        }
        Ok(self.write(rows).await?.then(|| whole.written()))
    }

    async fn fold_to(
        &self,
        build: &Build,
        head: Position,
        mut share: Share<Checkpoint>,
    ) -> Result<Option<Share<Checkpoint>>, StoreError> {
        let (mut session, mut fits) = (self.open(build, &share), Fits::default());
        while share.progress.position < head {
            let Folded { through, .. } = self.fold(&mut *session, &share, head, &mut fits).await?;
            match self.flush(&mut *session, &share, through).await? {
                Some(next) => share = next,
                None => return Ok(None),
            }
        }
        Ok(Some(share))
    }

    /// The last events and the new set, in one commit.
    async fn finish(
        &self,
        Built { build, known, mut share }: Built,
        names: &Row<Versions>,
        mut set: InlineSet,
    ) -> Result<Option<()>, StoreError> {
        let (build, known) = (&build, &known);
        let (mut session, mut fits) = (self.open(build, &share), Fits::default());
        let (mut refused, mut flush) = (0, false);
        loop {
            let end = Position(u64::MAX);
            let Folded { through, more, .. } = self.fold(&mut *session, &share, end, &mut fits).await?;
            if more || flush {
                match self.flush(&mut *session, &share, through).await? {
                    Some(next) => (share, flush) = (next, false),
                    None => return Ok(None),
                }
                continue;
            }
            match self.last_commit(&mut *session, &share, through, (known, names), &set).await {
                Err(CommitError::ConditionFailed { .. }) => {}
                outcome => return Ok(went_through(self.node, outcome).await?.then_some(())),
            }
            // What was folded is gone with the session. The events are flushed by themselves, so the next last commit is
            // about those that came since.
            (session, flush) = (self.open(build, &share), true);
            refused += 1;
            if refused == PATIENCE {
                if !shut_out(self.node, &set).await? {
                    return Ok(None);
                }
                set.rev += 1;
            }
        }
    }

    async fn last_commit(
        &self,
        session: &mut dyn Session,
        share: &Share<Checkpoint>,
        through: Position,
        (known, names): (&Row<Generations>, &Row<Versions>),
        set: &InlineSet,
    ) -> Result<Committed, CommitError> {
        let Some(session) = session.rebuildable() else {
            let what = format!("{} cannot become inline: it does not only write rows", self.name);
            return Err(StoreError::misuse(what).into());
        };
        let rows = vec![
            self.shares.retire(&share.with(share.progress.at(through, Vec::new())))?,
            // The row of the builds is written too: a rebuild that is just being begun finds it changed.
            generations().put(known)?,
            versions().put(names)?,
            set.with(&self.name).write()?,
        ];
        let condition = AppendCondition { fail_if_events_match: self.runner.filter(), after: through };
        session.flush_with(Commit { rows, condition: Some(condition), ..Commit::default() }).await?;
        Ok(Committed::default())
    }

    fn open(&self, build: &Build, share: &Share<Checkpoint>) -> Box<dyn Session> {
        self.node.open(
            &**self.runner,
            &ProcessorOptions::default(),
            build,
            share.slices,
            &Arc::default(),
            &Arc::default(),
        )
    }

    async fn flush(
        &self,
        session: &mut dyn Session,
        share: &Share<Checkpoint>,
        through: Position,
    ) -> Result<Option<Share<Checkpoint>>, StoreError> {
        let next = share.with(share.progress.at(through, Vec::new()));
        let flushed = session.flush(vec![self.shares.put(&next)?]).await;
        let done = went_through(self.node, flushed.map(|()| Committed::default())).await?;
        self.flushes.fetch_add(u64::from(done), Ordering::Relaxed);
        Ok(done.then(|| next.written()))
    }

    /// Folds the next page behind a share, marked as far as it is a replay.
    async fn fold(
        &self,
        session: &mut dyn Session,
        share: &Share<Checkpoint>,
        end: Position,
        fits: &mut Fits,
    ) -> Result<Folded, StoreError> {
        let (nothing_parked, nothing_skipped) = (BTreeMap::new(), BTreeMap::new());
        let mut admission = Admission::of_range(share.slices, &nothing_parked, &nothing_skipped);
        let Checkpoint { position: after, replay, .. } = share.progress;
        let filter = &self.runner.filter();
        let page = match self.runner.keeps() {
            Keeps::Rows(_) => self.runner.execution().page.min(fits.0),
            _ => self.runner.execution().page,
        };
        let (stretch, before) = (Stretch { filter, after, end, page, replay }, session.bytes());
        let folded = fold_between(&*self.node.backend, session, stretch, &mut admission).await?;
        let folded = folded.map_err(|failure| self.stopped(&failure))?;
        let brought = session.bytes().saturating_sub(before);
        fits.learn(folded.events, brought, ProcessorOptions::default().bytes);
        Ok(folded)
    }

    fn stopped(&self, failure: &Failure) -> StoreError {
        let why = format!("building {} up to the head: {}", self.name, crate::chain(failure));
        if is_of_a_newer_program(&*failure.source) {
            return StoreError::misuse(format!(
                "{why}; a newer program has written that: start the newer one"
            ));
        }
        if self.node.backend.is_transient(&*failure.source) {
            return StoreError::transient("an inline projection", std::io::Error::other(why));
        }
        StoreError::misuse(format!("{why}; fix its handler, or run it by a processor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hiccup() -> Wrong {
        StoreError::transient("a read", std::io::Error::other("the line is down")).into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_gives_up_only_what_has_failed_often_in_a_row() {
        let (ids, nothing, many) = (Ids::default(), || 0, 10 * PATIENCE);
        let waits = until_done(&ids, "p/1", nothing, |tried| async move {
            match tried {
                tried if tried > many => Ok(Some(())),
                tried if tried.is_multiple_of(3) => Err(hiccup()),
                _ => Ok(None),
            }
        });
        assert_eq!(waits.await, Ok(()), "it has waited for another node");
        let flushes = AtomicU64::new(0);
        let (flushed, flushes) = (|| flushes.load(Ordering::Relaxed), &flushes);
        let gets_on = until_done(&ids, "p/1", flushed, |tried| async move {
            flushes.fetch_add(1, Ordering::Relaxed);
            if tried > many { Ok(Some(())) } else { Err(hiccup()) }
        });
        assert_eq!(gets_on.await, Ok(()), "each time it has come further");
        let stands = until_done(&ids, "p/1", nothing, |_| async { Err::<Option<()>, _>(hiccup()) }).await;
        let said = stands.expect_err("the store never answers");
        assert!(said[0].starts_with("p/1: a read"), "{said:?}");
    }
}

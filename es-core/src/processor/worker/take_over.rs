//! A build changes from one code to another: written by nodes that have the newer one, at their start and while they run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::codes::{after, is_older};
use super::taken::Taken;
use crate::cluster::{self, Share, Shares};
use crate::processor::kinds::runner::Runner;
use crate::processor::parked;
use crate::processor::rebuild::{
    Backfill, Change, backfill_obstacle, begin_backfill, is_of_its_kind, one_share,
};
use crate::processor::{AnyBackend, NodeContext};
use crate::projection::Code;
use crate::projection::code::ALL;
use crate::slices::Slices;
use crate::state::{Build, Checkpoint, CodeRecord, Generations, InlineSet, SetBack, codes, generations};
use crate::store::{EventFilter, Position, Row, RowStore, RowWrite, StoreError, write_rows};

/// How often it is tried to take a build over whose shares are written all the time.
pub(crate) const TRIES: u32 = 500;
/// What helps where events were missed.
pub(super) const RAISE: &str = "raise its `version`, and it is built from the beginning; or let it be rebuilt by itself \
                                (`Backfill::Online`)";

/// What helps where the keys of what cannot be rebuilt have changed.
const REKEYED: &str = "or give it another name, by which it begins at the head of the log; or let it go on from here \
                       (`Backfill::Skip`): then what was not handled yet may be left out, or come twice";

/// Of that, what is no help to what has one build only.
pub(crate) const BY_ITSELF: &str = "or let it be rebuilt by itself (`Backfill::Online`)";

/// Which code makes a build.
pub(crate) async fn made_by(rows: &dyn RowStore, build: &Build) -> Result<Row<CodeRecord>, StoreError> {
    let key = build.to_string();
    let stored = codes().get(rows, &key).await?;
    Ok(stored.unwrap_or_else(|| Row::new(key, CodeRecord::default())))
}

/// What the code of a build does not handle was not handled from a position on: the row that says so, if that is news.
pub(crate) async fn unhandled_from(
    rows: &dyn RowStore,
    build: &Build,
    from: Position,
) -> Result<Option<RowWrite>, StoreError> {
    let mut row = made_by(rows, build).await?;
    let before = row.value.unhandled.clone();
    row.value.unhandled.values_mut().for_each(|since| *since = (*since).min(from));
    (row.value.unhandled != before).then(|| codes().put(&row)).transpose()
}

/// Until when a node that changes a code now is believed to be alive, though it is not seen.
pub(super) async fn believed_until(backend: &dyn AnyBackend, lease: Duration) -> Result<i64, StoreError> {
    let lease = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
    Ok(backend.now().await?.as_microsecond().saturating_add(lease))
}

/// What this program's codes have missed of builds, by build: what one try has looked at, the next does not look at again.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<BTreeMap<String, Missed>>);

impl Looked {
    fn at(&self, build: &Build) -> Missed {
        let looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looked.get(&build.to_string()).cloned().unwrap_or_default()
    }

    /// As [`Missed::find`], of a build.
    pub(crate) async fn find(
        &self,
        backend: &dyn AnyBackend,
        runner: &dyn Runner,
        build: &Build,
        before: Option<&CodeRecord>,
        furthest: Position,
    ) -> Result<Option<String>, StoreError> {
        let mut missed = self.at(build);
        let found = missed.find(backend, runner, before, furthest).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(build.to_string(), missed);
        Ok(found)
    }
}

/// What a code has missed of a build, as far as the log was looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missed {
    /// The code that made the build then.
    of: CodeRecord,
    looked: Position,
}

impl Missed {
    /// The first event that the code handles and the build has passed without it, in words. The build has come to `furthest`.
    pub(crate) async fn find(
        &mut self,
        backend: &dyn AnyBackend,
        runner: &dyn Runner,
        before: Option<&CodeRecord>,
        furthest: Position,
    ) -> Result<Option<String>, StoreError> {
        let Some(before) = before else { return Ok(None) };
        let handles = |code: &CodeRecord| (code.handles.clone(), code.keys.clone(), code.unhandled.clone());
        if handles(&self.of) != handles(before) {
            *self = Self { of: before.clone(), looked: Position(0) };
        }
        // What keeps nothing that could be rebuilt begins with what is new to it: then it has missed only what it handled
        // before, and an older program passed.
        let all = runner.keeps().tables().is_some();
        let code = runner.code();
        if all && let Some(what) = self.find_rekeyed(backend, before, &code, furthest).await? {
            return Ok(Some(what));
        }
        let mut new = BTreeMap::<Position, Vec<&str>>::new();
        let is_all = before.handles.contains_key(ALL);
        for name in code.handles().keys().filter(|name| !is_all && !before.handles.contains_key(*name)) {
            let since = before.unhandled.get(name).or_else(|| before.unhandled.get(ALL)).copied();
            if all || since.is_some() {
                new.entry(since.unwrap_or_default().max(self.looked)).or_default().push(name);
            }
        }
        for (since, names) in new {
            let is_new = |name: &str| !before.handles.contains_key(name);
            if let Some((found, at)) = passed(backend, &names, is_new, since, furthest).await? {
                let what = format!(
                    "it handles {found} now, and such events were passed without it, the first at {at}"
                );
                return Ok(Some(what));
            }
        }
        self.looked = furthest;
        Ok(None)
    }

    /// The first event that the build has handled under another key, in words.
    async fn find_rekeyed(
        &self,
        backend: &dyn AnyBackend,
        before: &CodeRecord,
        code: &Code,
        furthest: Position,
    ) -> Result<Option<String>, StoreError> {
        let names: Vec<&str> = before.rekeyed(code).into_iter().collect();
        if names.is_empty() {
            return Ok(None);
        }
        let found = passed(backend, &names, |_| true, self.looked, furthest).await?;
        Ok(found.map(|(found, at)| {
            format!("it finds the rows of {found} by other keys now, and such events have rows under the keys of before, the first at {at}")
        }))
    }
}

/// The events that what goes by keys, and cannot be rebuilt, finds by other keys than the code before it.
pub(super) fn rekeyed<'c>(
    runner: &dyn Runner,
    before: Option<&'c CodeRecord>,
    code: &'c Code,
) -> BTreeSet<&'c str> {
    let goes_by_key = runner.execution().splits && !runner.keeps().is_fenced();
    before.filter(|_| goes_by_key).map(|before| before.rekeyed_knowingly(code)).unwrap_or_default()
}

/// Why a code cannot continue with other keys what several ranges work on by their keys, in words; `None` if it can. An event
/// that lies behind one range and before another would be left out, or handled twice, once it belongs to the other one. What
/// can be rebuilt has its rows [elsewhere](Missed::find) instead.
pub(crate) async fn rekeyed_obstacle(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    build: &Build,
    before: Option<&CodeRecord>,
    shares: &[Share<Checkpoint>],
) -> Result<Option<String>, StoreError> {
    let code = runner.code();
    let names: Vec<&str> = rekeyed(runner, before, &code).into_iter().collect();
    if names.is_empty() {
        return Ok(None);
    }
    let alive = cluster::alive(backend).await?;
    let because =
        |what: String| Ok(Some(format!("it goes by other keys than before, and {what}: {REKEYED}")));
    if shares.iter().filter_map(|share| share.owner).any(|owner| alive.contains_key(&owner)) {
        return because("a program with the keys of before is at work: stop it first".to_owned());
    }
    let positions = || shares.iter().map(|share| share.progress.position);
    let (first, last) = (positions().min().unwrap_or_default(), positions().max().unwrap_or_default());
    let between = passed(backend, &names, |_| true, first, last).await?;
    // What was done beside an event that failed. Behind the place of a range it is of sequences that are parked.
    let done = |share: &Share<Checkpoint>| {
        let place = share.progress.position;
        share.progress.ahead.iter().copied().find(|at| *at > place)
    };
    if let Some(at) = between.map(|(_, at)| at).or_else(|| shares.iter().find_map(done)) {
        return because(format!(
            "not every range has come as far as the others, the event at {at} lies between them: run the program of before \
             until it has caught up"
        ));
    }
    if parked::count(backend, build, &BTreeSet::new()).await? > 0 {
        return because(
            "sequences are parked under the keys of before: retry or discard them first".to_owned(),
        );
    }
    Ok(None)
}

pub(super) fn furthest(shares: &[Share<Checkpoint>]) -> Position {
    shares.iter().map(|share| share.progress.position).max().unwrap_or_default()
}

/// Whether there is an event up to a position, and after another one, that a code handles and the one that makes the build
/// has passed.
pub(crate) async fn is_passed(
    backend: &dyn AnyBackend,
    by: &CodeRecord,
    code: &Code,
    after: Position,
    through: Position,
) -> Result<bool, StoreError> {
    for name in by.passes(code) {
        // Before that, another code has handled them.
        let since = by.unhandled.get(name).or_else(|| by.unhandled.get(ALL)).copied().unwrap_or_default();
        let counts = |name: &str| !by.handles.contains_key(name);
        if passed(backend, &[name], counts, since.max(after), through).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first event of some types, or of any, that lies between two positions and whose type counts.
async fn passed(
    backend: &dyn AnyBackend,
    names: &[&str],
    counts: impl Fn(&str) -> bool,
    mut after: Position,
    furthest: Position,
) -> Result<Option<(String, Position)>, StoreError> {
    // Of given types the first will do; of any, those that were handled come too.
    let (filter, limit) = match names.contains(&ALL) {
        true => (EventFilter::all(), 100),
        false => (EventFilter::types(names.iter().map(ToString::to_string)), 1),
    };
    while after < furthest {
        let page = backend.read(&filter, after, limit).await?;
        let mut found = page.events.iter().take_while(|event| event.place() <= furthest);
        if let Some(event) = found.find(|event| counts(&event.name)) {
            return Ok(Some((event.name.to_string(), event.place())));
        }
        if !page.more {
            break;
        }
        after = page.through;
    }
    Ok(None)
}

/// A processor or an inline projection of an app, and what is to be done if it has missed events.
pub(crate) type Wired = (Arc<dyn Runner>, Backfill);

/// What an app's start is to do with the builds of its processors.
#[derive(Default)]
pub(crate) struct Judged<'r> {
    /// Builds to take over; with what is left out, in words.
    older: Vec<(Older<'r>, Option<String>)>,
    /// Projections to rebuild.
    incomplete: Vec<Older<'r>>,
}

/// A build that an older program makes.
struct Older<'r> {
    runner: &'r Arc<dyn Runner>,
    build: Build,
    /// Whether queries read it.
    is_read: bool,
    over: TakeOver,
    /// Events that it has passed without this program, in words.
    missed: Option<String>,
    /// Why it cannot be continued with other keys, in words.
    rekeyed: Option<String>,
}

/// What is to be done with the builds that older programs make, or what is in the way, a line each. Nothing is changed.
///
/// A build that is under way is left to those who have begun it, and one of a newer code to the coordinator, which looks for
/// others with it.
pub(crate) async fn judge<'r>(
    node: &NodeContext,
    runners: &'r [Wired],
    looked: &Looked,
) -> Result<Result<Judged<'r>, Vec<String>>, StoreError> {
    let (mut judged, mut wrong) = (Judged::default(), Vec::new());
    for (runner, backfill) in runners {
        let found = match older_builds(&*node.backend, runner, looked).await {
            Ok(found) => found,
            // Its coordinator says so, for as long as it cannot be read; the others start.
            Err(StoreError::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        for mut older in found {
            if let Some(why) = older.rekeyed.take() {
                if *backfill != Backfill::Skip {
                    wrong.push(format!("{}: {why}", older.build));
                    continue;
                }
                tracing::warn!(build = %older.build, why, "goes on from here with other keys");
                older.over = older.over.with_other_keys();
            }
            match (older.missed.take(), backfill) {
                (None, _) => judged.older.push((older, None)),
                (Some(why), Backfill::Refuse) => wrong.push(format!("{}: {why}: {RAISE}", older.build)),
                (Some(why), backfill) if *backfill == Backfill::Skip || runner.keeps().tables().is_none() => {
                    older.over = older.over.skipping();
                    judged.older.push((older, Some(why)));
                }
                (Some(why), _) if older.is_read => {
                    wrong.extend(backfill_obstacle(node, runner).await?.map(|obstacle| {
                        format!("{}: {why}, so it is to be rebuilt; but {obstacle}", older.build)
                    }));
                    older.missed = Some(why);
                    judged.incomplete.push(older);
                }
                (Some(_), _) => {}
            }
        }
    }
    Ok(if wrong.is_empty() { Ok(judged) } else { Err(wrong) })
}

/// Takes over all builds of these that older programs make; if something is in the way of one, none of them, unless it
/// came about meanwhile. Gives what is in the way, a line each. Where events were missed, what was chosen for that is done.
pub(crate) async fn take_over_all(
    node: &NodeContext,
    runners: &[Wired],
    looked: &Looked,
    taken: &Taken,
) -> Result<Vec<String>, StoreError> {
    for _ in 0..TRIES {
        let done = match judge(node, runners, looked).await? {
            Ok(judged) => judged.take(node, taken).await,
            Err(wrong) => Err(wrong),
        };
        match done {
            Ok(true) => return Ok(Vec::new()),
            // Another program was faster, or events came: what is there now is judged.
            Ok(false) => {}
            Err(wrong) => return Ok(wrong),
        }
    }
    let moving = std::io::Error::other("other programs take them over all the time");
    Err(StoreError::transient("taking builds over", moving))
}

impl Judged<'_> {
    /// Does it; `false` if what it was decided on has changed.
    async fn take(self, node: &NodeContext, taken: &Taken) -> Result<bool, Vec<String>> {
        let line = |build: &Build, error: StoreError| vec![format!("{build}: {}", crate::chain(&error))];
        let (backend, lease) = (&*node.backend, node.settings.lease);
        for (Older { runner, build, over, .. }, left_out) in self.older {
            if let Some(why) = left_out {
                tracing::warn!(%build, why, "goes on without the events that were passed");
            }
            match over.take(backend, &**runner, &build, lease).await.map_err(|e| line(&build, e))? {
                Ok(Some(before)) => taken.from(before),
                Ok(None) | Err(_) => return Ok(false),
            }
        }
        for Older { runner, build, missed, .. } in self.incomplete {
            let why = missed.unwrap_or_default();
            tracing::warn!(%build, why, "is rebuilt by itself");
            let begun = begin_backfill(node, runner).await.map_err(|e| line(&build, e))?;
            begun.map_err(|obstacle| {
                vec![format!("{build}: {why}, so it is to be rebuilt; but {obstacle}")]
            })?;
        }
        Ok(true)
    }
}

/// The builds that queries read or have read and that older programs make.
async fn older_builds<'r>(
    backend: &dyn AnyBackend,
    runner: &'r Arc<dyn Runner>,
    looked: &Looked,
) -> Result<Vec<Older<'r>>, StoreError> {
    let (name, own) = (runner.name(), CodeRecord::of(&runner.code()));
    let shares = Shares::<Checkpoint>::checkpoints();
    let known = Generations::read(backend, &name).await?.map(|row| row.value).unwrap_or_default();
    is_of_its_kind(&**runner, &known)?;
    let mut older = Vec::new();
    for generation in [Some(known.current), known.previous].into_iter().flatten() {
        let (build, is_read) = (known.build(&name, generation), generation == known.current);
        let stored = made_by(backend, &build).await?.value;
        let before = stored.known();
        let leaves = |before: &CodeRecord| before.code == own.code || is_older(&own, before);
        if stored.renamed.is_some() || before.is_some_and(leaves) {
            continue;
        }
        // What is inline has no shares: every commit has brought it to the head.
        let of_build = shares.of(backend, &build.to_string()).await?;
        let furthest = match InlineSet::read(backend).await?.names.contains(&name) {
            true => backend.head().await?,
            false => furthest(&of_build),
        };
        let missed = looked.find(backend, &**runner, &build, before, furthest).await?;
        let rekeyed = rekeyed_obstacle(backend, &**runner, &build, before, &of_build).await?;
        let over = TakeOver { missed: looked.at(&build), ..TakeOver::from(before) };
        older.push(Older { runner, build, is_read, over, missed, rekeyed });
    }
    Ok(older)
}

/// Taking a build over from the code that it was decided on. If another one makes it by now, it is not taken over: that is
/// to be decided again.
#[derive(Debug, Default)]
pub(crate) struct TakeOver {
    from: Option<String>,
    missed: Missed,
    /// Whether what was missed is left out.
    skips: bool,
    /// Whether it goes on by other keys, whatever is in the way of that.
    rekeys: bool,
    /// Whether that is for a while only.
    incomplete: bool,
    /// The share that must be as its worker knows it.
    held: Option<(Slices, u64)>,
}

impl From<Option<&CodeRecord>> for TakeOver {
    fn from(before: Option<&CodeRecord>) -> Self {
        Self { from: before.map(|before| before.code.clone()), ..Self::default() }
    }
}

impl TakeOver {
    fn is_from(&self, before: Option<&CodeRecord>) -> bool {
        before.map(|before| &before.code) == self.from.as_ref()
    }

    /// Whatever was missed is left out.
    pub(crate) fn skipping(self) -> Self {
        Self { skips: true, ..self }
    }

    /// It goes on from here by other keys.
    pub(crate) fn with_other_keys(self) -> Self {
        Self { rekeys: true, ..self }
    }

    /// The same, until the build is replaced by one that has it.
    pub(crate) fn incomplete(self) -> Self {
        Self { skips: true, incomplete: true, ..self }
    }

    /// Of a build that is made by this code, as long as a worker has this share of it.
    pub(super) fn of_worker(code: &Code, share: &Share<Checkpoint>) -> Self {
        let held = Some((share.slices, share.rev));
        Self { from: Some(code.fingerprint()), held, ..Self::default() }
    }

    /// From now on the build is made by this program's code. Gives the row of the code of before, `None` if another one makes
    /// the build than it was decided on; or what is in the way, in words: events that the code handles and that the build has
    /// passed without it.
    pub(crate) async fn take(
        mut self,
        backend: &dyn AnyBackend,
        runner: &dyn Runner,
        build: &Build,
        lease: Duration,
    ) -> Result<Result<Option<Row<CodeRecord>>, String>, StoreError> {
        let (code, shares) = (runner.code(), Shares::<Checkpoint>::checkpoints());
        for tried in 1..=TRIES {
            let stored = made_by(backend, build).await?;
            let before = stored.value.known();
            if !self.is_from(before) {
                return Ok(Ok(None));
            }
            // Over their revisions as they were read before the log: what a worker of before passes after that is refused.
            let of_build = shares.of(backend, &build.to_string()).await?;
            if !self.skips
                && let Some(missed) = self.missed.find(backend, runner, before, furthest(&of_build)).await?
            {
                return Ok(Err(missed));
            }
            if !self.rekeys
                && let Some(why) = rekeyed_obstacle(backend, runner, build, before, &of_build).await?
            {
                return Ok(Err(why));
            }
            let from = of_build.iter().map(|share| share.progress.position).min().unwrap_or_default();
            let mut rows = vec![self.record(backend, &stored, &code, from, lease).await?];
            // An effect that is under way would be repeated: its worker gives the share back after it, by itself. But it
            // may pass what only the new code handles, or what is another range's by the new keys.
            let is_fenced = |before: &CodeRecord| {
                let is_passed = !before.handles_all_of(&code) || !before.rekeyed_knowingly(&code).is_empty();
                runner.keeps().is_fenced() || is_passed
            };
            if before.is_some_and(is_fenced) {
                for share in &of_build {
                    rows.push(shares.put(&share.owned_by(None))?);
                }
            }
            if write_rows(backend, rows).await?.is_yes() {
                if let Some(before) = before {
                    let code = code.fingerprint();
                    tracing::info!(%build, code, before = before.code, "is made by another code from here on");
                }
                return Ok(Ok(Some(stored)));
            }
            if tried == 1 {
                // Their workers write all the time. Ended one by one, they begin again only with their nodes' next look.
                for share in of_build {
                    shares.interrupt(backend, share).await?;
                }
            }
        }
        let moving = std::io::Error::other("its shares are written all the time");
        Err(StoreError::transient("taking a build over", moving))
    }

    /// A build that is under way begins again with this code: its rows come from one code.
    pub(crate) async fn begin_again(
        self,
        backend: &dyn AnyBackend,
        runner: &dyn Runner,
        build: &Build,
        lease: Duration,
        why: &str,
    ) -> Result<(), StoreError> {
        let (shares, stored) = (Shares::<Checkpoint>::checkpoints(), made_by(backend, build).await?);
        let Some(known) = Generations::read(backend, &build.processor).await? else { return Ok(()) };
        let under_way = known.value.building.as_ref().is_some_and(|b| b.generation == build.generation);
        if !self.is_from(stored.value.known()) || !under_way || known.value.freeze.until.is_some() {
            return Ok(());
        }
        let all = shares.of(backend, &build.to_string()).await?;
        if self.held.is_some_and(|held| !all.iter().any(|share| (share.slices, share.rev) == held)) {
            return Ok(());
        }
        let begin = Checkpoint::new(Position(0), backend.head().await?);
        let mut rows = one_share(build, &all, begin, None)?;
        // The row of the builds is written too: a switch to this one, or the end of it, finds it changed.
        let to_start = SetBack { generation: build.generation, to: None };
        let Ok(value) = known.value.apply(Change::SetBack(to_start)) else { return Ok(()) };
        rows.push(generations().put(&Row { value, ..known })?);
        rows.push(self.record(backend, &stored, &runner.code(), Position(0), lease).await?);
        tracing::warn!(%build, why, "a build begins again");
        // Another node may have been as fast. What it is by then is seen with the next look, and done.
        write_rows(backend, rows).await.map(drop)
    }

    /// The row that says which code makes a build, for a node that is alive and may not be seen for a moment.
    pub(crate) async fn record(
        &self,
        backend: &dyn AnyBackend,
        stored: &Row<CodeRecord>,
        code: &Code,
        from: Position,
        lease: Duration,
    ) -> Result<RowWrite, StoreError> {
        let until = believed_until(backend, lease).await?;
        // What is built from the beginning lacks nothing.
        let whole = match from {
            Position(0) if !self.incomplete => None,
            _ => stored.value.whole_for(&CodeRecord::of(code), self.incomplete),
        };
        let (incomplete, whole) = (whole.is_some(), whole.unwrap_or_default());
        let value = CodeRecord { until, incomplete, whole, ..after(stored.value.known(), code, from) };
        codes().put(&Row { value, ..stored.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;
    use crate::memory::MemoryBackend;
    use crate::processor::kinds::runner::{Keeps, Opening, Session};
    use crate::state::Building;
    use crate::store::{RecordedEvent, Tables};

    /// Handles some types.
    struct Handles(&'static [&'static str]);

    #[async_trait::async_trait]
    impl Runner for Handles {
        fn name(&self) -> String {
            "p/1".to_owned()
        }
        fn filter(&self) -> EventFilter {
            EventFilter::types(self.0.iter().copied())
        }
        fn keeps(&self) -> Keeps {
            Keeps::Tables(Tables { name: "p", version: 1, schema: "" })
        }
        fn keys(&self, _: &RecordedEvent) -> Result<Vec<String>, BoxError> {
            Ok(Vec::new())
        }
        fn open(&self, _: Opening<'_>) -> Box<dyn Session> {
            unreachable!("nothing is handled")
        }
    }

    #[test]
    fn what_helps_names_the_rebuild_by_itself() {
        assert!(RAISE.ends_with(BY_ITSELF));
    }

    #[tokio::test]
    async fn a_build_begins_again_only_for_the_worker_that_has_it() {
        let (backend, shares) = (MemoryBackend::new(), Shares::<Checkpoint>::checkpoints());
        let build = Build { generation: 2, ..Build::first("p/1") };
        let (older, newer) = (Handles(&["x"]), Handles(&["x", "y"]));
        let code = CodeRecord::of(&older.code());
        let building = Some(Building::new(Position(0), crate::Timestamp::UNIX_EPOCH));
        let building = building.map(|building| Building { generation: 2, ..building });
        let both = Generations { building, last: 2, ..Generations::default() };
        let whole = Share::whole(build.to_string(), Checkpoint::new(Position(7), Position(7)));
        let rows = vec![
            shares.put(&whole).unwrap(),
            codes().insert(build.to_string(), code.clone()).unwrap(),
            generations().insert("p/1", both.clone()).unwrap(),
        ];
        assert!(write_rows(&backend, rows).await.unwrap().is_yes());
        let share = shares.read(&backend, &build.to_string(), 0).await.unwrap().unwrap();
        let lease = Duration::from_secs(5);
        let begin = async |runner: &Handles, share: &Share<Checkpoint>| {
            let over = TakeOver::of_worker(&runner.code(), share);
            over.begin_again(&backend, runner, &build, lease, "of a test").await.unwrap();
            Generations::read(&backend, "p/1").await.unwrap().unwrap().value
        };
        // Another program makes it by now, or another worker has the range.
        assert_eq!(begin(&newer, &share).await, both);
        assert_eq!(begin(&older, &Share { rev: share.rev - 1, ..share.clone() }).await, both);
        assert_eq!(made_by(&backend, &build).await.unwrap().value, code);
        assert!(begin(&older, &share).await.is_set_back(2).is_some());
        // The other range of it comes too late.
        let begun = generations().get(&backend, "p/1").await.unwrap();
        begin(&older, &share).await;
        assert_eq!(generations().get(&backend, "p/1").await.unwrap(), begun);
    }
}

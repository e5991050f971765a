//! A build changes from one code to another: written by nodes that have the newer one, at their start and while they run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::codes::{after, is_older};
use crate::cluster::{Share, Shares};
use crate::processor::kinds::runner::Runner;
use crate::processor::rebuild::{Backfill, backfill_obstacle, begin_backfill};
use crate::processor::{AnyBackend, NodeContext};
use crate::projection::Code;
use crate::projection::code::ALL;
use crate::state::{Build, Checkpoint, CodeRecord, Generations, codes, generations};
use crate::store::{Commit, EventFilter, Position, Row, RowStore, RowWrite, StoreError, Won, write_rows};

/// How often it is tried to take a build over whose shares are written all the time.
pub(crate) const TRIES: usize = 500;
/// What helps where events were missed.
pub(super) const RAISE: &str = "raise its `version`, and it is built from the beginning; or let it be rebuilt by itself \
                                (`Backfill::Online`)";
/// For how many leases a node that takes a build over is believed to be starting.
pub(super) const STARTS: u32 = 4;

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

/// What a code has missed of a build, as far as the log was looked at.
#[derive(Debug, Default)]
pub(crate) struct Missed {
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

/// What a program's code has missed of a build that another one makes, in words.
pub(super) async fn missed_of(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    build: &Build,
) -> Result<Option<String>, StoreError> {
    let made_by = made_by(backend, build).await?.value;
    let of_build = Shares::<Checkpoint>::checkpoints().of(backend, &build.to_string()).await?;
    Missed::default().find(backend, runner, made_by.known(), furthest(&of_build)).await
}

fn furthest(shares: &[Share<Checkpoint>]) -> Position {
    shares.iter().map(|share| share.progress.position).max().unwrap_or_default()
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

/// Takes over all builds of these that older programs make; if something is in the way of one, none of them, unless it
/// came about meanwhile. Gives what is in the way, a line each. Where events were missed, what was chosen for that is done.
///
/// A build that is under way is left to those who have begun it, and one of a newer code to the coordinator, which looks for
/// others with it.
pub(crate) async fn take_over_all(
    node: &NodeContext,
    runners: &[(Arc<dyn Runner>, Backfill)],
) -> Result<Vec<String>, StoreError> {
    let backend = &*node.backend;
    let (mut older, mut incomplete, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (runner, backfill) in runners {
        let found = match older_builds(backend, &**runner).await {
            Ok(found) => found,
            // Its coordinator says so, for as long as it cannot be read; the others start.
            Err(StoreError::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        for Older { build, is_read, over, missed } in found {
            match (missed, backfill) {
                (None, _) => older.push((runner, build, over)),
                (Some(why), Backfill::Refuse) => wrong.push(format!("{build}: {why}: {RAISE}")),
                (Some(why), backfill) if *backfill == Backfill::Skip || runner.keeps().tables().is_none() => {
                    tracing::warn!(%build, why, "goes on without the events that were passed");
                    older.push((runner, build, over.skipping()));
                }
                (Some(why), _) if is_read => {
                    tracing::warn!(%build, why, "is rebuilt by itself");
                    incomplete.push((runner, build, why));
                }
                (Some(_), _) => {}
            }
        }
    }
    if !wrong.is_empty() {
        return Ok(wrong);
    }
    // What is in the way of one is known before any of them is begun: a start that is refused leaves nothing behind.
    let but = |build: &Build, why: &str, obstacle: String| {
        format!("{build}: {why}, so it is to be rebuilt; but {obstacle}")
    };
    for (runner, build, why) in &incomplete {
        wrong.extend(backfill_obstacle(node, runner).await?.map(|obstacle| but(build, why, obstacle)));
    }
    if wrong.is_empty() {
        wrong = take_all(node, older).await?;
    }
    if wrong.is_empty() {
        for (runner, build, why) in incomplete {
            wrong.extend(
                begin_backfill(node, runner).await?.err().map(|obstacle| but(&build, &why, obstacle)),
            );
        }
    }
    Ok(wrong)
}

/// Takes over builds, or none of them.
async fn take_all(
    node: &NodeContext,
    older: Vec<(&Arc<dyn Runner>, Build, TakeOver)>,
) -> Result<Vec<String>, StoreError> {
    let (backend, lease) = (&*node.backend, node.settings.lease);
    let (mut taken, mut wrong) = (Vec::new(), Vec::new());
    for (runner, build, over) in older {
        match over.take(backend, &**runner, &build, lease).await {
            Ok(Ok(())) => taken.push(build),
            Ok(Err(why)) => wrong.push(format!("{build}: {why}: {RAISE}")),
            Err(error) => wrong.push(format!("{build}: {}", crate::chain(&error))),
        }
        if !wrong.is_empty() {
            // This program does not start: the others go on with them soon, not only when it could have been up.
            for build in taken {
                let mut row = made_by(backend, &build).await?;
                row.value.until = 0;
                let _won = write_rows(backend, vec![codes().put(&row)?]).await?;
            }
            break;
        }
    }
    Ok(wrong)
}

/// A build that an older program makes.
struct Older {
    build: Build,
    /// Whether queries read it.
    is_read: bool,
    over: TakeOver,
    /// Events that it has passed without this program, in words.
    missed: Option<String>,
}

/// The builds that queries read or have read and that older programs make.
async fn older_builds(backend: &dyn AnyBackend, runner: &dyn Runner) -> Result<Vec<Older>, StoreError> {
    let (name, own) = (runner.name(), CodeRecord::of(&runner.code()));
    let shares = Shares::<Checkpoint>::checkpoints();
    let known = Generations::read(backend, &name).await?.map(|row| row.value).unwrap_or_default();
    let mut older = Vec::new();
    for generation in [Some(known.current), known.previous].into_iter().flatten() {
        let (build, is_read) = (known.build(&name, generation), generation == known.current);
        let stored = made_by(backend, &build).await?.value;
        let before = stored.known();
        let leaves = |before: &CodeRecord| before.code == own.code || is_older(&own, before);
        if stored.renamed.is_some() || before.is_some_and(leaves) {
            continue;
        }
        let mut over = TakeOver::from(before);
        let of_build = shares.of(backend, &build.to_string()).await?;
        let missed = over.missed.find(backend, runner, before, furthest(&of_build)).await?;
        older.push(Older { build, is_read, over, missed });
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
    /// Whether that is for a while only.
    incomplete: bool,
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

    /// The same, until the build is replaced by one that has it.
    pub(crate) fn incomplete(self) -> Self {
        Self { skips: true, incomplete: true, ..self }
    }

    /// From now on the build is made by this program's code. Gives what is in the way, in words: events that the code
    /// handles and that the build has passed without it.
    pub(crate) async fn take(
        mut self,
        backend: &dyn AnyBackend,
        runner: &dyn Runner,
        build: &Build,
        lease: Duration,
    ) -> Result<Result<(), String>, StoreError> {
        let (code, shares) = (runner.code(), Shares::<Checkpoint>::checkpoints());
        for tried in 1..=TRIES {
            let stored = made_by(backend, build).await?;
            let before = stored.value.known();
            if !self.is_from(before) {
                return Ok(Ok(()));
            }
            // Over their revisions as they were read before the log: what a worker of before passes after that is refused.
            let of_build = shares.of(backend, &build.to_string()).await?;
            if !self.skips
                && let Some(missed) = self.missed.find(backend, runner, before, furthest(&of_build)).await?
            {
                return Ok(Err(missed));
            }
            let from = of_build.iter().map(|share| share.progress.position).min().unwrap_or_default();
            let mut rows = vec![self.record(backend, &stored, &code, from, lease).await?];
            // An effect that is under way would be repeated: its worker gives the share back after it, by itself. But it
            // may pass what only the new code handles.
            let is_fenced = |before: &CodeRecord| runner.keeps().is_fenced() || !before.handles_all_of(&code);
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
                return Ok(Ok(()));
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
        let Some(tables) = runner.keeps().tables() else { return Ok(()) };
        let (shares, stored) = (Shares::<Checkpoint>::checkpoints(), made_by(backend, build).await?);
        let Some(known) = Generations::read(backend, &build.processor).await? else { return Ok(()) };
        let under_way = known.value.building.as_ref().is_some_and(|b| b.generation == build.generation);
        if !self.is_from(stored.value.known()) || !under_way || known.value.freeze.until.is_some() {
            return Ok(());
        }
        let all = shares.of(backend, &build.to_string()).await?;
        // The row of the builds is written too: a switch to this one, or the end of it, finds it changed.
        let mut rows = vec![generations().put(&known)?];
        rows.push(self.record(backend, &stored, &runner.code(), Position(0), lease).await?);
        let whole = Share {
            rev: all.first().map_or(0, |share| share.rev),
            epoch: all.iter().map(|share| share.epoch).max().unwrap_or_default() + 1,
            ..Share::whole(build.to_string(), Checkpoint::new(Position(0), backend.head().await?))
        };
        rows.push(shares.put(&whole)?);
        for share in all.iter().skip(1) {
            rows.push(shares.retire(share)?);
        }
        tracing::warn!(%build, why, "a build begins again");
        let outcome = backend.clear(&tables, build.generation, Commit { rows, ..Commit::default() }).await;
        // Another node may have been as fast; what is there then is seen with the next look.
        Won::or_store_error("beginning a build again", backend, outcome).await.map(drop)
    }

    /// The row that says which code makes a build, for a node that is starting or has just begun.
    pub(crate) async fn record(
        &self,
        backend: &dyn AnyBackend,
        stored: &Row<CodeRecord>,
        code: &Code,
        from: Position,
        lease: Duration,
    ) -> Result<RowWrite, StoreError> {
        let starts = i64::try_from((lease * STARTS).as_micros()).unwrap_or(i64::MAX);
        let until = backend.now().await?.as_microsecond().saturating_add(starts);
        // What is built from the beginning lacks nothing; what an older program continues, nothing that it handles.
        let before = stored.value.known().filter(|before| before.incomplete && from > Position(0));
        let incomplete =
            self.incomplete || before.is_some_and(|before| !is_older(&CodeRecord::of(code), before));
        let value = CodeRecord { until, incomplete, ..after(stored.value.known(), code, from) };
        codes().put(&Row { value, ..stored.clone() })
    }
}

//! Which code makes a build: of two programs with different code, the newer one.
//!
//! A build names the code that makes it, and those that made it before. A code that handles more than another is newer; of two
//! that handle the same, or each something else, the one is newer that the build has not met yet. A node with newer code takes
//! the build over, in one commit that fences the workers of before. A node with older code stands by for as long as a node with
//! the newer one is alive, and takes the build back when none has been for a whole lease. So at any time one code moves the
//! checkpoints of a build.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{Alive, Share, Shares};
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::{Keeps, Runner};
use crate::projection::Code;
use crate::projection::code::ALL;
use crate::state::{Build, Checkpoint, CodeRecord, codes};
use crate::store::{Commit, EventFilter, Position, Row, RowWrite, StoreError, Won, write_rows};

/// How often it is tried to take a build over whose workers write all the time.
const TRIES: usize = 500;
/// For how many leases a node that takes a build over is believed to be starting.
const STARTS: u32 = 4;

/// What a node is to a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has the code that makes it.
    Makes,
    /// Its code is newer than that one.
    IsNewer,
    /// Its code is older, and nobody who has the newer one is seen.
    IsLeft,
    /// Its code is older, and it leaves the build to those who have the newer one.
    StandsBy,
}

/// The record of a build whose code is known.
fn known(stored: Option<&CodeRecord>) -> Option<&CodeRecord> {
    stored.filter(|stored| !stored.code.is_empty())
}

/// Whether a node with the code of a build is alive, or on its way, at a time of the store's clock.
pub(crate) fn lives(stored: &CodeRecord, processor: &str, alive: &Alive, now: i64) -> bool {
    stored.until > now || alive.values().any(|node| node.codes.get(processor) == Some(&stored.code))
}

/// What a node with a code is to a build of a processor, at a time of the store's clock.
pub(crate) fn standing(
    stored: Option<&CodeRecord>,
    own: &Code,
    processor: &str,
    alive: &Alive,
    now: i64,
) -> Standing {
    let Some(stored) = known(stored) else { return Standing::IsNewer };
    if stored.code == own.fingerprint() {
        return Standing::Makes;
    }
    match (is_older(own, stored), lives(stored, processor, alive, now)) {
        (false, _) => Standing::IsNewer,
        (true, true) => Standing::StandsBy,
        (true, false) => Standing::IsLeft,
    }
}

/// Whether a code is older than the one that makes a build: it handles less, or made the build before.
pub(crate) fn is_older(own: &Code, stored: &CodeRecord) -> bool {
    match compare(own.handles(), &stored.handles) {
        Some(Ordering::Less) => true,
        Some(Ordering::Greater) => false,
        _ => stored.former.contains(&own.fingerprint()),
    }
}

/// Whether one code handles more than another: further types of events, or newer shapes of them.
fn compare(own: &BTreeMap<String, u32>, other: &BTreeMap<String, u32>) -> Option<Ordering> {
    let covers = |some: &BTreeMap<String, u32>, others: &BTreeMap<String, u32>| {
        let all = some.contains_key(ALL);
        // A shape of 0 is not known.
        others.iter().all(|(name, schema)| match some.get(name) {
            Some(known) => known >= schema || *known == 0,
            None => all,
        })
    };
    match (covers(own, other), covers(other, own)) {
        (true, true) => Some(Ordering::Equal),
        (true, false) => Some(Ordering::Greater),
        (false, true) => Some(Ordering::Less),
        (false, false) => None,
    }
}

/// The record of a build that a code makes from a position on; before that, another one did.
pub(crate) fn after(before: Option<&CodeRecord>, code: &Code, from: Position) -> CodeRecord {
    let (print, handles) = (code.fingerprint(), code.handles().clone());
    let before = known(before).cloned().unwrap_or_default();
    let mut unhandled = before.unhandled;
    for name in before.handles.keys() {
        unhandled.insert(name.clone(), from);
    }
    unhandled.values_mut().for_each(|since| *since = (*since).min(from));
    unhandled.retain(|name, _| !handles.contains_key(name) && !handles.contains_key(ALL));
    let former = before.former.into_iter().chain([before.code]);
    let former = former.filter(|former| *former != print && !former.is_empty()).collect();
    CodeRecord { code: print, handles, unhandled, until: 0, former }
}

/// What a code has missed of a build, as far as the log was looked at.
#[derive(Debug, Default)]
struct Missed {
    looked: Position,
}

impl Missed {
    /// The first event that the code handles and the build has passed without it, in words.
    async fn find(
        &mut self,
        backend: &dyn AnyBackend,
        before: &CodeRecord,
        code: &Code,
        shares: &[Share<Checkpoint>],
    ) -> Result<Option<String>, StoreError> {
        let furthest = shares.iter().map(|share| share.progress.position).max().unwrap_or_default();
        if before.handles.contains_key(ALL) {
            return Ok(None);
        }
        for name in code.handles().keys().filter(|name| !before.handles.contains_key(*name)) {
            let since = before.unhandled.get(name).copied().unwrap_or_default().max(self.looked);
            if let Some((found, at)) = passed(backend, before, name, since, furthest).await? {
                return Ok(Some(format!(
                    "it handles {found} now, and such events were passed without it, the first at {at}: raise its \
                     `version`, and it is built from the beginning"
                )));
            }
        }
        self.looked = furthest;
        Ok(None)
    }
}

/// The first event of a type, or of any, that lies between two positions and that a build did not handle.
async fn passed(
    backend: &dyn AnyBackend,
    before: &CodeRecord,
    name: &str,
    mut after: Position,
    furthest: Position,
) -> Result<Option<(String, Position)>, StoreError> {
    let filter = if name == ALL { EventFilter::all() } else { EventFilter::types([name.to_owned()]) };
    while after < furthest {
        let page = backend.read(&filter, after, 1_000).await?;
        let mut found = page.events.iter().take_while(|event| event.place() <= furthest);
        if let Some(event) = found.find(|event| !before.handles.contains_key(&*event.name)) {
            return Ok(Some((event.name.to_string(), event.place())));
        }
        if !page.more {
            break;
        }
        after = page.through;
    }
    Ok(None)
}

/// What is in the way of taking a build over, in words: events that the code handles and that the build has passed without it.
pub(crate) async fn in_the_way(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    build: &Build,
    stored: Option<&CodeRecord>,
) -> Result<Option<String>, StoreError> {
    let (Some(before), Keeps::Rows(_) | Keeps::Tables(_)) = (known(stored), runner.keeps()) else {
        return Ok(None);
    };
    let shares = Shares::<Checkpoint>::checkpoints().of(backend, &build.to_string()).await?;
    Missed::default().find(backend, before, &runner.code(), &shares).await
}

/// From now on a build is made by this code. Gives what is [in the way](in_the_way).
pub(crate) async fn take_over(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    build: &Build,
    lease: Duration,
) -> Result<Result<(), String>, StoreError> {
    let (code, shares) = (runner.code(), Shares::<Checkpoint>::checkpoints());
    let mut missed = Missed::default();
    for _ in 0..TRIES {
        let stored = codes().get(backend, &build.to_string()).await?;
        let before = known(stored.as_ref().map(|row| &row.value));
        if before.is_some_and(|before| before.code == code.fingerprint()) {
            return Ok(Ok(()));
        }
        // Over their revisions as they were read before the log: what a worker of before passes after that is refused.
        let of_build = shares.of(backend, &build.to_string()).await?;
        if let (Some(before), Keeps::Rows(_) | Keeps::Tables(_)) = (before, runner.keeps())
            && let Some(missed) = missed.find(backend, before, &code, &of_build).await?
        {
            return Ok(Err(missed));
        }
        let from = of_build.iter().map(|share| share.progress.position).min().unwrap_or_default();
        let mut rows = vec![record(backend, build, stored.as_ref(), before, &code, from, lease).await?];
        if let Some(before) = before {
            for share in &of_build {
                rows.push(shares.put(&share.owned_by(None))?);
            }
            let code = code.fingerprint();
            tracing::info!(%build, code, before = before.code, "is made by another code from here on");
        }
        if write_rows(backend, rows).await?.is_yes() {
            return Ok(Ok(()));
        }
    }
    let moving = std::io::Error::other("its workers write all the time");
    Err(StoreError::transient("taking a build over", moving))
}

/// The row that says so, for a node that is starting or has just begun.
async fn record(
    backend: &dyn AnyBackend,
    build: &Build,
    stored: Option<&Row<CodeRecord>>,
    before: Option<&CodeRecord>,
    code: &Code,
    from: Position,
    lease: Duration,
) -> Result<RowWrite, StoreError> {
    let starts = i64::try_from((lease * STARTS).as_micros()).unwrap_or(i64::MAX);
    let until = backend.now().await?.as_microsecond().saturating_add(starts);
    let value = CodeRecord { until, ..after(before, code, from) };
    codes().put(&Row { key: build.to_string(), rev: stored.map_or(0, |row| row.rev), value })
}

/// A build that is under way begins again with this code, for nobody has the one that began it: its rows come from one code.
pub(crate) async fn begin_again(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    build: &Build,
    lease: Duration,
) -> Result<(), StoreError> {
    let Some(tables) = runner.keeps().tables() else { return Ok(()) };
    let (shares, stored) =
        (Shares::<Checkpoint>::checkpoints(), codes().get(backend, &build.to_string()).await?);
    let all = shares.of(backend, &build.to_string()).await?;
    let before = known(stored.as_ref().map(|row| &row.value));
    let mut rows =
        vec![record(backend, build, stored.as_ref(), before, &runner.code(), Position(0), lease).await?];
    let whole = Share {
        rev: all.first().map_or(0, |share| share.rev),
        epoch: all.iter().map(|share| share.epoch).max().unwrap_or_default() + 1,
        ..Share::whole(build.to_string(), Checkpoint::new(Position(0), backend.head().await?))
    };
    rows.push(shares.put(&whole)?);
    for share in all.iter().skip(1) {
        rows.push(shares.retire(share)?);
    }
    tracing::warn!(%build, "begins again: no program is alive with the code that began it");
    let outcome = backend.clear(&tables, build.generation, Commit { rows, ..Commit::default() }).await;
    // Another node may have been as fast; what is there then is seen with the next look.
    Won::or_store_error("beginning a build again", backend, outcome).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NodeRecord;

    fn alive(codes: &[&Code]) -> Alive {
        let node = |(i, code): (usize, &&Code)| {
            let codes = BTreeMap::from([("p/1".to_owned(), code.fingerprint())]);
            let (runs, whole, stands_by) = (["p/1".to_owned()].into(), [].into(), [].into());
            (uuid::Uuid::from_u128(i as u128 + 1), NodeRecord { until: 1, runs, whole, codes, stands_by })
        };
        codes.iter().enumerate().map(node).collect()
    }

    fn stands(stored: &CodeRecord, own: &Code, nodes: &[&Code]) -> Standing {
        standing(Some(stored), own, "p/1", &alive(nodes), 5)
    }

    fn handling(text: u64, types: &[&str]) -> Code {
        types.iter().fold(Code::new(text), |code, name| code.with(name, 1))
    }

    #[test]
    fn the_newer_code_makes_a_build_for_as_long_as_somebody_has_it() {
        let [a, b, c] = [1, 2, 3].map(|text| handling(text, &["x"]));
        assert_eq!(standing(None, &a, "p/1", &alive(&[]), 5), Standing::IsNewer, "it has no code yet");
        assert_eq!(stands(&CodeRecord::default(), &a, &[]), Standing::IsNewer, "or none that is known");
        let old = after(None, &a, Position(0));
        assert_eq!(stands(&old, &a, &[&a]), Standing::Makes);
        assert_eq!(stands(&old, &b, &[&a, &b]), Standing::IsNewer, "b is new to it");
        let new = after(Some(&old), &b, Position(7));
        assert_eq!(stands(&new, &a, &[&a, &b]), Standing::StandsBy, "also if it starts again");
        assert_eq!(stands(&new, &a, &[&a]), Standing::IsLeft, "rolled back");
        let starting = CodeRecord { until: 6, ..new.clone() };
        assert_eq!(stands(&starting, &a, &[&a]), Standing::StandsBy, "a node with b is on its way");
        let back = after(Some(&new), &a, Position(9));
        assert_eq!(stands(&back, &b, &[&a, &b]), Standing::StandsBy, "until the last of them has gone");
        assert_eq!(stands(&back, &c, &[&a, &b, &c]), Standing::IsNewer);
    }

    #[test]
    fn a_code_that_handles_more_is_newer_whatever_came_first() {
        let (less, more, other) = (handling(1, &["x"]), handling(2, &["x", "y"]), handling(3, &["x", "z"]));
        let made = after(None, &more, Position(0));
        assert_eq!(stands(&made, &less, &[&more]), Standing::StandsBy, "though the build has not met it");
        let back = after(Some(&made), &less, Position(9));
        assert_eq!(stands(&back, &more, &[&less]), Standing::IsNewer, "though it made the build before");
        assert_eq!(stands(&made, &other, &[&more]), Standing::IsNewer, "each handles something else");
        let newer = Code::new(2).with("x", 2);
        assert_eq!(stands(&back, &newer, &[&less]), Standing::IsNewer, "a newer shape");
    }

    #[test]
    fn what_is_not_handled_any_more_is_remembered_from_where_it_was() {
        let (less, more) = (handling(1, &["x"]), handling(2, &["x", "y"]));
        let back = after(Some(&after(None, &more, Position(0))), &less, Position(9));
        assert_eq!(back.unhandled, BTreeMap::from([("y".to_owned(), Position(9))]));
        let again = after(Some(&back), &handling(4, &["x"]), Position(20));
        assert_eq!(again.unhandled, back.unhandled, "from the first place on");
        let anew = after(Some(&again), &handling(5, &["x"]), Position(0));
        assert_eq!(anew.unhandled["y"], Position(0), "a build that begins again has not handled it");
        assert!(after(Some(&again), &more, Position(30)).unhandled.is_empty());
    }
}

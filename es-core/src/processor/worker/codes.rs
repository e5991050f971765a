//! Which code makes a build: of two programs with different code, the newer one.
//!
//! A build names the code that makes it, and those that made it before. A node with a code that is not among them is newer:
//! it takes the build over, in one commit that fences the workers of before. A node with one of those codes is older: it
//! stands by for as long as a node with the newer one is alive, and takes the build back after that. So at any time one code
//! moves the checkpoints, and no event is passed by a program that does not know it.

use std::time::Duration;

use crate::cluster::{Alive, Share, Shares};
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::{Keeps, Runner};
use crate::projection::Code;
use crate::projection::code::ALL;
use crate::state::{Build, Checkpoint, CodeRecord, codes};
use crate::store::{EventFilter, Position, Row, StoreError, write_rows};

/// How often it is tried to take a build over whose workers write all the time.
const TRIES: usize = 500;

/// What a node is to a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has the code that makes it.
    Makes,
    /// It is newer than that code, or nobody has that code any more.
    TakesOver,
    /// It is older than that code, and leaves the build to those who have it.
    StandsBy,
}

/// For how many leases a node that takes a build over is believed to be starting.
const STARTS: u32 = 4;

/// What a node with a code is to a build of a processor, at a time of the store's clock.
pub(crate) fn standing(
    stored: Option<&CodeRecord>,
    own: &str,
    processor: &str,
    alive: &Alive,
    now: i64,
) -> Standing {
    let Some(stored) = stored else { return Standing::TakesOver };
    if stored.code == own {
        return Standing::Makes;
    }
    let starts = stored.until > now;
    let lives = starts || alive.values().any(|node| node.codes.get(processor) == Some(&stored.code));
    if lives && stored.former.iter().any(|former| former == own) {
        Standing::StandsBy
    } else {
        Standing::TakesOver
    }
}

/// The record of a build that a code makes from here on; before it, or in the build that is read so far, another one did.
pub(crate) fn after(before: Option<&CodeRecord>, code: &Code) -> CodeRecord {
    let own = code.fingerprint();
    let before = before.into_iter().flat_map(|before| before.former.iter().chain([&before.code]));
    let former = before.filter(|former| **former != own).cloned().collect();
    CodeRecord { code: own, handles: code.handles().clone(), until: 0, former }
}

/// From now on a build is made by this code. Gives what is in the way, in words: events that the code wants and that the
/// build has passed without them.
pub(crate) async fn take_over(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    build: &Build,
    lease: Duration,
) -> Result<Result<(), String>, StoreError> {
    let code = runner.code();
    let starts = i64::try_from((lease * STARTS).as_micros()).unwrap_or(i64::MAX);
    let shares = Shares::<Checkpoint>::checkpoints();
    for _ in 0..TRIES {
        let stored = codes().get(backend, &build.to_string()).await?;
        if stored.as_ref().is_some_and(|row| row.value.code == code.fingerprint()) {
            return Ok(Ok(()));
        }
        // Over their revisions as they were read before the log: what a worker of before passes after that is refused.
        let of_build = shares.of(backend, &build.to_string()).await?;
        if let (Some(before), Keeps::Rows(_) | Keeps::Tables(_)) = (&stored, runner.keeps())
            && let Some(missed) = missed(backend, &before.value, &code, &of_build).await?
        {
            return Ok(Err(missed));
        }
        let until = backend.now().await?.as_microsecond().saturating_add(starts);
        let next = CodeRecord { until, ..after(stored.as_ref().map(|row| &row.value), &code) };
        let rev = stored.as_ref().map_or(0, |row| row.rev);
        let mut rows = vec![codes().put(&Row { key: build.to_string(), rev, value: next })?];
        if let Some(before) = &stored {
            for share in &of_build {
                rows.push(shares.put(&share.owned_by(None))?);
            }
            let (code, before) = (code.fingerprint(), &before.value.code);
            tracing::info!(%build, code, before, "is made by another code from here on");
        }
        if write_rows(backend, rows).await?.is_yes() {
            return Ok(Ok(()));
        }
    }
    let moving = std::io::Error::other("its workers write all the time");
    Err(StoreError::transient("taking a build over", moving))
}

/// The first event of a type that is new to a build, among those that it has passed.
async fn missed(
    backend: &dyn AnyBackend,
    before: &CodeRecord,
    code: &Code,
    shares: &[Share<Checkpoint>],
) -> Result<Option<String>, StoreError> {
    if before.handles.contains_key(ALL) {
        return Ok(None);
    }
    let new: Vec<String> =
        code.handles().keys().filter(|name| !before.handles.contains_key(*name)).cloned().collect();
    let Some(furthest) = shares.iter().map(|share| share.progress.position).max() else { return Ok(None) };
    if new.is_empty() || furthest == Position(0) {
        return Ok(None);
    }
    let filter =
        if new.iter().any(|name| name == ALL) { EventFilter::all() } else { EventFilter::types(new) };
    let mut after = Position(0);
    loop {
        let page = backend.read(&filter, after, 1_000).await?;
        let behind = |name: &str| !before.handles.contains_key(name);
        let found = page.events.iter().take_while(|event| event.place() <= furthest);
        if let Some(event) = found.into_iter().find(|event| behind(&event.name)) {
            let (name, at) = (&event.name, event.place());
            return Ok(Some(format!(
                "it handles {name} now, and such events were passed without it, the first at {at}: raise its \
                 `version`, and it is built from the beginning"
            )));
        }
        if !page.more || page.through >= furthest {
            return Ok(None);
        }
        after = page.through;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::NodeRecord;

    fn alive(codes: &[&str]) -> Alive {
        let node = |(i, code): (usize, &&str)| {
            let codes = BTreeMap::from([("p/1".to_owned(), (*code).to_owned())]);
            let record = NodeRecord {
                until: 1,
                runs: ["p/1".to_owned()].into(),
                whole: [].into(),
                codes,
                stands_by: [].into(),
            };
            (uuid::Uuid::from_u128(i as u128 + 1), record)
        };
        codes.iter().enumerate().map(node).collect()
    }

    fn made_by(code: &str, former: &[&str]) -> CodeRecord {
        let former = former.iter().map(|code| (*code).to_owned()).collect();
        CodeRecord { code: code.to_owned(), handles: BTreeMap::new(), until: 0, former }
    }

    #[test]
    fn the_newer_code_makes_a_build_for_as_long_as_somebody_has_it() {
        let standing =
            |stored: &CodeRecord, own, nodes: &[&str]| standing(Some(stored), own, "p/1", &alive(nodes), 5);
        let none = super::standing(None, "a", "p/1", &alive(&[]), 5);
        assert_eq!(none, Standing::TakesOver, "it has no code yet");
        let old = made_by("a", &[]);
        assert_eq!(standing(&old, "a", &["a"]), Standing::Makes);
        assert_eq!(standing(&old, "b", &["a", "b"]), Standing::TakesOver, "b is new to it");
        let new = made_by("b", &["a"]);
        assert_eq!(standing(&new, "a", &["a", "b"]), Standing::StandsBy, "also if it starts again");
        assert_eq!(standing(&new, "a", &["a"]), Standing::TakesOver, "rolled back");
        let starting = CodeRecord { until: 6, ..new };
        assert_eq!(standing(&starting, "a", &["a"]), Standing::StandsBy, "a node with b is on its way");
        let back = made_by("a", &["b"]);
        assert_eq!(standing(&back, "b", &["a", "b"]), Standing::StandsBy, "until the last of them has gone");
        assert_eq!(standing(&back, "c", &["a", "b", "c"]), Standing::TakesOver);
    }
}

//! The versions of one projection, next to each other: which one has the plain names of its tables, and when one goes.
//!
//! The newest version that a live node runs gets the plain names as soon as it has caught up; an older one gets them back
//! when no node runs a newer one any more. A version that no node has run for long goes, with its rows and tables.

use std::time::Duration;

use super::sight::Sight;
use crate::cluster::Shares;
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::Runner;
use crate::state::{Checkpoint, Generations, InlineSet, Versions, generations, versions};
use crate::store::{Commit, Row, StoreError, Tables, Won, write_rows};

/// The name of a projection, and its version.
pub(crate) fn versioned(stored_name: &str) -> Option<(&str, u32)> {
    let (name, version) = stored_name.rsplit_once('/')?;
    Some((name, version.parse().ok()?))
}

/// The versions of a projection that are stored and have not gone, in order.
pub(crate) fn versions_of<'s>(
    stored: impl Iterator<Item = &'s str>,
    projection: &'s str,
) -> impl Iterator<Item = u32> {
    stored.filter_map(versioned).filter(move |(name, _)| *name == projection).map(|(_, version)| version)
}

/// What is noted of the versions, if the one that this program runs is to have the plain names.
pub(super) fn is_to_have_names(
    tables: &Tables,
    sight: &Sight,
    lease: Duration,
) -> Result<Option<Row<Versions>>, StoreError> {
    let runs = sight.view.alive.values().flat_map(|node| &node.runs).filter_map(|name| versioned(name));
    let newest = runs.filter(|(name, _)| *name == tables.name).map(|(_, version)| version).max();
    let row = sight.noted(tables.name)?;
    let published = row.value.published;
    if newest.is_some_and(|newest| newest > tables.version) || published == tables.version {
        return Ok(None);
    }
    // One look is not enough to take them from a newer one: all leases run out when the store is away.
    if published > tables.version {
        let is_there = sight.versions(tables.name).any(|version| version == published);
        let unseen = row.value.unseen.get(&published);
        if is_there && !unseen.is_some_and(|since| is_over(*since, lease, sight.view.now)) {
            return Ok(None);
        }
    }
    Ok(Some(row))
}

/// Gives the plain names to the version that this program runs.
pub(super) async fn publish(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    noted: Row<Versions>,
) -> Result<(), StoreError> {
    let Some(tables) = runner.keeps().tables() else { return Ok(()) };
    // Commits write an inline one by its plain names. Read after the row: becoming inline writes that as well.
    let inline = InlineSet::read(backend).await?.names;
    if inline.iter().filter_map(|name| versioned(name)).any(|(name, _)| name == tables.name) {
        return Ok(());
    }
    // Another node may have been as fast.
    if give_names(backend, &tables, noted).await? {
        tracing::info!(version = tables.stored_name(), "has the plain names of its tables from here on");
    }
    Ok(())
}

/// Gives the plain names to a version, over what was noted; `false` if that has changed.
pub(crate) async fn give_names(
    backend: &dyn AnyBackend,
    tables: &Tables,
    mut noted: Row<Versions>,
) -> Result<bool, StoreError> {
    noted.value.published = tables.version;
    let commit = Commit { rows: vec![versions().put(&noted)?], ..Commit::default() };
    let outcome = backend.publish(tables, commit).await;
    Ok(Won::or_store_error("giving a version the plain names", backend, outcome).await?.is_yes())
}

/// What is noted of the versions of a projection.
pub(crate) async fn noted(backend: &dyn AnyBackend, projection: &str) -> Result<Row<Versions>, StoreError> {
    let known = versions().get(backend, projection).await?;
    Ok(known.unwrap_or_else(|| Row::new(projection, Versions::default())))
}

/// Whether a time has passed since then, by the store's clock in microseconds.
fn is_over(since: i64, time: Duration, now: i64) -> bool {
    now.saturating_sub(since) > i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// What is to be noted of other versions, and which one is to go: no live node has run it for so long. None that has the
/// plain names, unless this program's version can take them over.
pub(super) fn unseen(
    tables: &Tables,
    sight: &Sight,
    kept: Duration,
    is_ready: bool,
) -> Result<(Option<Row<Versions>>, Option<(u32, Row<Versions>)>), StoreError> {
    let (row, now) = (sight.noted(tables.name)?, sight.view.now);
    let (mut next, mut gone) = (row.clone(), None);
    // This node runs its own.
    next.value.unseen.remove(&tables.version);
    for version in sight.versions(tables.name).filter(|version| *version != tables.version) {
        let name = format!("{}/{version}", tables.name);
        if sight.view.alive.values().any(|node| node.runs.contains(&name)) {
            next.value.unseen.remove(&version);
            continue;
        }
        let since = *next.value.unseen.entry(version).or_insert(now);
        let may_go = row.value.published != version || is_ready;
        gone = gone.or_else(|| (may_go && is_over(since, kept, now)).then(|| (version, row.clone())));
    }
    Ok(((next.value != row.value).then_some(next), gone))
}

/// Notes which versions are run. Another node may have been as fast.
pub(super) async fn note(backend: &dyn AnyBackend, noted: &Row<Versions>) -> Result<(), StoreError> {
    write_rows(backend, vec![versions().put(noted)?]).await.map(drop)
}

/// Removes a version that no node runs; its plain names go to this program's version.
pub(super) async fn forget(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    version: u32,
    noted: Row<Versions>,
) -> Result<(), StoreError> {
    let Some(tables) = runner.keeps().tables() else { return Ok(()) };
    if noted.value.published == version {
        // It goes with a later look.
        return publish(backend, runner, noted).await;
    }
    if remove(backend, tables.name, version, noted).await? {
        let version = format!("{}/{version}", tables.name);
        tracing::info!(version, "has gone, with its rows: no node has run this version for long");
    }
    Ok(())
}

/// Removes a version whole, as it was decided on what is noted of the versions: a node that has just started has changed
/// that. Whoever still works on it is fenced. `false` if there is none, if commits write it, or if something has changed.
pub(crate) async fn remove(
    backend: &dyn AnyBackend,
    projection: &str,
    version: u32,
    mut noted: Row<Versions>,
) -> Result<bool, StoreError> {
    let name = format!("{projection}/{version}");
    let Some(known) = Generations::read(backend, &name).await? else { return Ok(false) };
    if InlineSet::read(backend).await?.names.contains(&name) {
        return Ok(false);
    }
    // Their rows stay, for their revisions: a version that comes back counts on.
    let value = Generations { retired: true, ..known.value.clone() };
    let mut rows = vec![generations().put(&Row { value, ..known })?];
    let shares = Shares::<Checkpoint>::checkpoints();
    for row in shares.below(backend, &format!("{name}~")).await? {
        // One that cannot be read has no worker that could.
        rows.extend(shares.decode(row).ok().flatten().map(|share| shares.retire(&share)).transpose()?);
    }
    noted.value.unseen.remove(&version);
    if noted.value.published == version {
        let left = stored_versions(backend, projection).await?.into_iter().filter(|left| *left != version);
        noted.value.published = left.max().unwrap_or_default();
    }
    rows.push(versions().put(&noted)?);
    let outcome = backend.remove_version(projection, version, Commit { rows, ..Commit::default() }).await;
    Ok(Won::or_store_error("removing a version", backend, outcome).await?.is_yes())
}

/// The versions of a projection that the store has, in order.
pub(crate) async fn stored_versions(
    backend: &dyn AnyBackend,
    projection: &str,
) -> Result<Vec<u32>, StoreError> {
    let stored = generations().stored(backend).await?;
    let stored = stored.into_iter().filter_map(|row| generations().decode(row).ok());
    let stored: Vec<String> = stored.filter(|row| !row.value.retired).map(|row| row.key).collect();
    let mut versions: Vec<u32> = versions_of(stored.iter().map(String::as_str), projection).collect();
    versions.sort_unstable();
    Ok(versions)
}

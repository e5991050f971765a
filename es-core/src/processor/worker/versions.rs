//! The versions of one projection, next to each other: which one has the plain names of its tables, and when one goes.
//!
//! The newest version that a live node runs gets the plain names as soon as it has caught up; an older one gets them back
//! when no node runs a newer one any more. A version that no node has run for long goes, with its rows and tables.

use std::time::Duration;

use super::sight::Sight;
use super::take_over::TRIES;
use crate::cluster::Shares;
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::Runner;
use crate::processor::rebuild::empty;
use crate::state::{Checkpoint, Generations, InlineSet, Versions, generations, versions};
use crate::store::{Commit, CommitError, Row, RowWrite, StoreError, Tables, Won, write_rows};

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
    // Commits write by them.
    if sight.inline.version_of(tables.name).is_some() {
        return Ok(None);
    }
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

/// Gives the plain names to the version that this program runs. Whether that has changed anything.
pub(super) async fn publish(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    noted: Row<Versions>,
) -> Result<bool, StoreError> {
    let Some(tables) = runner.keeps().tables() else { return Ok(false) };
    Ok(take_names(backend, &tables, noted).await?.unwrap_or_default())
}

/// The same of a version; `None` if commits write one of the projection, and have the names.
async fn take_names(
    backend: &dyn AnyBackend,
    tables: &Tables,
    noted: Row<Versions>,
) -> Result<Option<bool>, StoreError> {
    if inline_version(backend, tables.name).await?.is_some() {
        return Ok(None);
    }
    // Another node may have been as fast.
    let given = give_names(backend, tables, noted).await?;
    if given {
        tracing::info!(version = tables.stored_name(), "has the plain names of its tables from here on");
    }
    Ok(Some(given))
}

/// What became of the plain names of a version that is to go.
pub(crate) enum Names {
    /// The version of this program has them, or another node has changed something.
    Taken,
    /// Commits write another version, by these names.
    Inline,
    /// They are taken from it as it goes, not before: what is in the way of that goes with it.
    GoAlong,
    /// They cannot be taken from it, and so it stays.
    Held(String),
}

/// Takes the plain names from a version that is to go, for the one that this program runs, which has caught up.
pub(crate) async fn take_names_from(
    backend: &dyn AnyBackend,
    version: u32,
    tables: &Tables,
    noted: Row<Versions>,
) -> Result<Names, StoreError> {
    let why = match take_names(backend, tables, noted.clone()).await {
        Ok(Some(_)) => return Ok(Names::Taken),
        Ok(None) => return Ok(Names::Inline),
        Err(StoreError::Misuse { what }) => what,
        Err(error) => return Err(error),
    };
    // If it goes with them, the highest one that is left has them.
    let left = stored_versions(backend, tables.name).await?.into_iter().filter(|left| *left != version);
    match left.max().filter(|highest| *highest > tables.version) {
        Some(newer) => Ok(Names::Held(format!("{why}; if it went, version {newer} would have them"))),
        None if can_go(backend, tables.name, version, noted).await? => Ok(Names::GoAlong),
        None => Ok(Names::Held(why)),
    }
}

/// Whether the store can remove a version: it is asked to, with a commit that cannot be applied.
async fn can_go(
    backend: &dyn AnyBackend,
    projection: &str,
    version: u32,
    noted: Row<Versions>,
) -> Result<bool, StoreError> {
    let never = Row { rev: noted.rev + (1 << 40), ..noted };
    let commit = Commit { rows: vec![versions().put(&never)?], ..Commit::default() };
    match backend.remove_version(projection, version, commit).await {
        Err(CommitError::Store(StoreError::Misuse { .. })) => Ok(false),
        Err(CommitError::Store(error)) => Err(error),
        Err(CommitError::Unknown(_)) => {
            let silent = std::io::Error::other("the store has not answered: try again");
            Err(StoreError::transient("removing a version", silent))
        }
        Ok(_) | Err(_) => Ok(true),
    }
}

/// The version of a projection whose plain names go to no other one, for it is inline: commits write it by them. To be read
/// after what is noted of the versions: becoming inline writes that as well.
pub(crate) async fn inline_version(
    backend: &dyn AnyBackend,
    projection: &str,
) -> Result<Option<String>, StoreError> {
    Ok(InlineSet::read(backend).await?.version_of(projection).map(str::to_owned))
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
        let is_inline = sight.inline.names.contains(&name);
        let goes = !is_inline && is_over(since, kept, now) || sight.is_removed(&name);
        // What holds the plain names must not keep the others.
        let is_first = gone.as_ref().is_none_or(|(first, _)| *first == row.value.published);
        if may_go && goes && is_first {
            gone = Some((version, row.clone()));
        }
    }
    Ok(((next.value != row.value).then_some(next), gone))
}

/// Notes which versions are run. Another node may have been as fast.
pub(super) async fn note(backend: &dyn AnyBackend, noted: &Row<Versions>) -> Result<(), StoreError> {
    write_rows(backend, vec![versions().put(noted)?]).await.map(drop)
}

/// Removes a version that no node runs; its plain names go to this program's version. Whether that has changed anything.
pub(super) async fn forget(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    version: u32,
    noted: Row<Versions>,
) -> Result<bool, StoreError> {
    let Some(tables) = runner.keeps().tables() else { return Ok(false) };
    if noted.value.published == version {
        match take_names_from(backend, version, &tables, noted.clone()).await? {
            // It goes with a later look.
            Names::Taken => return Ok(true),
            Names::Inline => return Ok(false),
            Names::GoAlong => {}
            Names::Held(why) => return Err(StoreError::misuse(why)),
        }
    }
    let removed = remove(backend, tables.name, version, noted).await?;
    if removed {
        let version = format!("{}/{version}", tables.name);
        tracing::info!(version, "has gone, with its rows: no node has run this version for long");
    }
    Ok(removed)
}

/// Removes a version whole, as it was decided on what is noted of the versions: a node that has just started has changed
/// that. Whoever still works on it is fenced. `false` if there is none, if commits write it, or if something has changed.
pub(crate) async fn remove(
    backend: &dyn AnyBackend,
    projection: &str,
    version: u32,
    noted: Row<Versions>,
) -> Result<bool, StoreError> {
    let name = format!("{projection}/{version}");
    let Some(known) = stored(backend, &name).await? else { return Ok(false) };
    if InlineSet::read(backend).await?.names.contains(&name) {
        return Ok(false);
    }
    if !known.value.retiring {
        let value = Generations { retiring: true, ..known.value.clone() };
        let mut rows = vec![generations().put(&Row { value, ..known })?, versions().put(&noted)?];
        rows.extend(retired(backend, &name).await?);
        if !write_rows(backend, rows).await?.is_yes() {
            return Ok(false);
        }
    }
    finish_removal(backend, projection, version).await?;
    Ok(true)
}

/// Removes what is left of a version that is being removed. Harmless if another node has done it.
pub(crate) async fn finish_removal(
    backend: &dyn AnyBackend,
    projection: &str,
    version: u32,
) -> Result<(), StoreError> {
    let name = format!("{projection}/{version}");
    for _ in 0..TRIES {
        let Some(known) = stored(backend, &name).await?.filter(|row| row.value.retiring) else {
            return Ok(());
        };
        for generation in [known.value.all(), known.value.leaving.clone()].concat() {
            empty(backend, &known.value.build(&name, generation), |known| known.retiring).await?;
        }
        // Their rows stay, for their revisions: a version that comes back counts on.
        let value = Generations { retiring: false, retired: true, ..known.value.clone() };
        let mut rows = vec![generations().put(&Row { value, ..known })?];
        rows.extend(retired(backend, &name).await?);
        let mut noted = noted(backend, projection).await?;
        noted.value.unseen.remove(&version);
        if noted.value.published == version {
            let left =
                stored_versions(backend, projection).await?.into_iter().filter(|left| *left != version);
            noted.value.published = left.max().unwrap_or_default();
        }
        rows.push(versions().put(&noted)?);
        let commit = Commit { rows, ..Commit::default() };
        let outcome = backend.remove_version(projection, version, commit).await;
        if Won::or_store_error("removing a version", backend, outcome).await?.is_yes() {
            return Ok(());
        }
    }
    let moving = std::io::Error::other("other nodes change it all the time");
    Err(StoreError::transient("removing a version", moving))
}

/// What is stored of a version, also while it is being removed.
pub(crate) async fn stored(
    backend: &dyn AnyBackend,
    name: &str,
) -> Result<Option<Row<Generations>>, StoreError> {
    Ok(generations().get(backend, name).await?.filter(|row| !row.value.retired))
}

/// The rows of all shares of a version, as those of none.
async fn retired(backend: &dyn AnyBackend, name: &str) -> Result<Vec<RowWrite>, StoreError> {
    let shares = Shares::<Checkpoint>::checkpoints();
    let rows = shares.below(backend, &format!("{name}~")).await?.into_iter();
    // One that cannot be read has no worker that could.
    rows.filter_map(|row| shares.decode(row).ok().flatten()).map(|share| shares.retire(&share)).collect()
}

/// The versions of a projection that the store has and that do not go, in order.
pub(crate) async fn stored_versions(
    backend: &dyn AnyBackend,
    projection: &str,
) -> Result<Vec<u32>, StoreError> {
    let stored = generations().stored(backend).await?;
    let stored = stored.into_iter().filter_map(|row| generations().decode(row).ok());
    let stored: Vec<String> = stored.filter(|row| !row.value.goes()).map(|row| row.key).collect();
    let mut versions: Vec<u32> = versions_of(stored.iter().map(String::as_str), projection).collect();
    versions.sort_unstable();
    Ok(versions)
}

//! Forgetting a reactor that no program runs any more: its places in the log, and what is parked of it.
//!
//! Its shares are retired first, so whoever still works on it is fenced. The rows of the shares stay, for their revisions: a
//! program that runs it again, or was not seen, begins over them, at the head of the log.

use std::collections::BTreeMap;

use super::rebuild::Portions;
use super::worker::{follow, made_by, versioned};
use super::{AnyBackend, ProcessorError};
use crate::cluster::{self, Share, Shares};
use crate::state::{Build, Checkpoint, codes, control};
use crate::store::{StoreError, StoredRow, write_rows};

/// Takes away what is stored of a reactor that no live node runs. Says whether there was anything.
pub(crate) async fn forget(backend: &dyn AnyBackend, name: &str) -> Result<bool, ProcessorError> {
    if versioned(name).is_some() {
        let why = "is a version of a projection: `drop_version` removes it, in an app that runs another one";
        return Err(ProcessorError::NotRebuildable { processor: name.to_owned(), why });
    }
    let (build, shares) = (Build::first(name), Shares::<Checkpoint>::checkpoints());
    // Before it is looked who is alive: whoever works on it after that has written them.
    let known = shares.of(backend, &build.to_string()).await?;
    is_not_run(backend, &build).await?;
    let had_place = !known.is_empty();
    if had_place {
        retire(backend, name, &shares, &known).await?;
    }
    Ok(empty(backend, &build, &shares).await? || had_place)
}

async fn is_not_run(backend: &dyn AnyBackend, build: &Build) -> Result<(), ProcessorError> {
    let name = &*build.processor;
    let alive = cluster::alive(backend).await?;
    let rows = codes().stored(backend).await?;
    let code = |row: &StoredRow| Some((row.key.clone(), codes().decode(row.clone()).ok()?.value.renamed?));
    let renamed: BTreeMap<String, String> = rows.iter().filter_map(code).collect();
    let renamed_to = |name: &str| renamed.get(&Build::first(name).to_string()).map(String::as_str);
    // Also by a name that leads here: it is about to take its name back.
    let is_it = |own: &str| own == name || follow(own, renamed_to) == Some(name);
    let runs = alive
        .iter()
        .find(|(_, node)| node.runs.iter().any(|own| is_it(own)) || node.codes.keys().any(|own| is_it(own)));
    if let Some((node, _)) = runs {
        return Err(ProcessorError::RunBy { version: name.to_owned(), node: *node });
    }
    if made_by(backend, build).await?.value.until > backend.now().await?.as_microsecond() {
        return Err(changed("a program that runs it is starting, or has just gone: try again later"));
    }
    Ok(())
}

/// No place in the log any more, and nothing that was asked of all of it.
async fn retire(
    backend: &dyn AnyBackend,
    name: &str,
    shares: &Shares<Checkpoint>,
    known: &[Share<Checkpoint>],
) -> Result<(), ProcessorError> {
    let mut rows = known.iter().map(|share| shares.retire(share)).collect::<Result<Vec<_>, _>>()?;
    rows.extend(control().get(backend, name).await?.map(|asked| control().delete(&asked)));
    match write_rows(backend, rows).await?.is_yes() {
        true => Ok(()),
        false => Err(changed("its place has just changed: try again")),
    }
}

/// Deletes its rows, as long as nobody begins with it again. Whether there were any.
async fn empty(
    backend: &dyn AnyBackend,
    build: &Build,
    shares: &Shares<Checkpoint>,
) -> Result<bool, ProcessorError> {
    let Some(mut portions) = Portions::begin(backend, build).await? else { return Ok(false) };
    let mut found = false;
    for table in build.all_tables() {
        let is_there = !backend.scan(&table, None, 1).await?.is_empty();
        if !is_there {
            continue;
        }
        found = true;
        // After the row was read over which they are written.
        if shares.exist(backend, &build.to_string()).await? {
            return Err(changed("a program has begun with it again: look who runs it"));
        }
        if !portions.take(&table, None).await? {
            return Err(changed("something of it has just changed: try again"));
        }
    }
    Ok(found)
}

fn changed(why: &'static str) -> ProcessorError {
    StoreError::transient("forgetting a processor", std::io::Error::other(why)).into()
}

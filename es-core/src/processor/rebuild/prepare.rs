//! A processor that is run for the first time: its tables, its rows, and the place where it begins.

use crate::cluster::{self, Share, Shares};
use crate::limits::MAX_PAGE;
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::Runner;
use crate::processor::worker::made_by;
use crate::state::{Build, Checkpoint, CodeRecord, Generations, codes, generations};
use crate::store::{
    CURRENT, Commit, CommitError, Generation, Position, Row, RowStore, RowWrite, StoreError, Tables, Won,
};

/// Makes the name of a projection stand for the rows of one generation.
pub(crate) async fn point(
    store: &dyn RowStore,
    tables: &Tables,
    generation: Generation,
) -> Result<RowWrite, StoreError> {
    let name = tables.stored_name();
    let row = store.rows(CURRENT, std::slice::from_ref(&name)).await?.pop().flatten();
    let rev = row.map_or(0, |row| row.rev);
    Ok(RowWrite { table: CURRENT.into(), key: name, rev, row: Some(tables.rows(generation).into()) })
}

/// Makes the tables and rows of a processor that is run for the first time; those of other versions go. One that keeps
/// nothing that could be rebuilt begins at the head: what happened before is none of its business.
pub(crate) async fn prepare(backend: &dyn AnyBackend, runner: &dyn Runner) -> Result<(), StoreError> {
    let (name, tables) = (runner.name(), runner.keeps().tables());
    let shares = Shares::checkpoints();
    loop {
        let mut rows = Vec::new();
        let stored = generations().get(backend, &name).await?;
        let known = stored.clone().filter(|row| !row.value.retired).map(|row| row.value);
        if let Some(tables) = tables.as_ref().filter(|_| known.is_none()) {
            // Before their tables go: what a worker of theirs writes after that would be found by a version that has
            // come back.
            let over = leftovers(backend, tables).await?;
            if !over.is_empty() {
                if let Some(why) = newer_version(backend, &name).await? {
                    return Err(StoreError::misuse(why));
                }
                commit(backend, over).await?;
                continue;
            }
        }
        if let Some(tables) = &tables {
            for generation in known.clone().unwrap_or_default().all() {
                backend.install(tables, generation).await?;
            }
            if known.is_none() {
                let (rev, last) = stored.map_or((0, 1), |row| (row.rev, row.value.last));
                // No number is given twice, not even if another version has been there in between.
                let row =
                    Row { key: name.clone(), rev, value: Generations { last, ..Generations::default() } };
                rows.extend([generations().put(&row)?, point(backend, tables, 1).await?]);
            }
        }
        let build = Build::first(&name).to_string();
        if known.is_none() && !shares.exist(backend, &build).await? {
            let head = backend.head().await?;
            let begin = if tables.is_some() { Position(0) } else { head };
            let whole = Share::whole(build, Checkpoint::new(begin, head));
            // Over the rows of a version that has come back: their revisions count on.
            rows.push(shares.put(&shares.placed(backend, whole).await?)?);
            // What it was made by before does not count: it is built from the beginning.
            let code = made_by(backend, &Build::first(&name)).await?;
            rows.extend(
                (code.rev > 0)
                    .then(|| codes().put(&Row { value: CodeRecord::default(), ..code }))
                    .transpose()?,
            );
        }
        if rows.is_empty() {
            return Ok(());
        }
        commit(backend, rows).await?;
    }
}

/// Why the rows of other versions cannot go: a live node runs a newer one.
async fn newer_version(backend: &dyn AnyBackend, name: &str) -> Result<Option<String>, StoreError> {
    let alive = cluster::alive(backend).await?;
    let newer = |other: &&String| match (versioned(name), versioned(other)) {
        (Some((own, version)), Some((of, other))) => own == of && other > version,
        _ => false,
    };
    let newer = alive.values().flat_map(|node| &node.runs).find(newer);
    Ok(newer.map(|newer| {
        format!("a live node runs {newer}, whose rows would go: stop it first, or leave this one out")
    }))
}

/// The name of a projection, and its version.
fn versioned(stored_name: &str) -> Option<(&str, u32)> {
    let (base, version) = stored_name.rsplit_once('/')?;
    Some((base, version.parse().ok()?))
}

/// What another node has written, if it was faster, is looked at then, and so is what nobody knows.
async fn commit(backend: &dyn AnyBackend, rows: Vec<RowWrite>) -> Result<(), StoreError> {
    let outcome = backend.commit(Commit { rows, ..Commit::default() }).await;
    match Won::after(backend, outcome).await {
        Ok(_) | Err(CommitError::Unknown(_)) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("preparing a processor", other)),
    }
}

/// What is left of other versions of a projection: their rows stay, for their revisions, and say that they are over. A
/// late write of a worker of before finds another revision, also when its version has come back.
async fn leftovers(backend: &dyn AnyBackend, tables: &Tables) -> Result<Vec<RowWrite>, StoreError> {
    let (name, any) = (tables.stored_name(), format!("{}/", tables.name));
    let mut rows = Vec::new();
    for row in generations().below(backend, &any, None, MAX_PAGE).await? {
        if row.key != name && !row.value.retired {
            let value = Generations { retired: true, ..row.value.clone() };
            rows.push(generations().put(&Row { value, ..row })?);
        }
    }
    let shares = Shares::<Checkpoint>::checkpoints();
    for row in shares.below(backend, &any).await? {
        let other = |share: &Share<Checkpoint>| share.group.split('~').next() != Some(&*name);
        // One that cannot be read has no worker that could.
        if let Some(share) = shares.decode(row).ok().flatten().filter(other) {
            rows.push(shares.retire(&share)?);
        }
    }
    Ok(rows)
}

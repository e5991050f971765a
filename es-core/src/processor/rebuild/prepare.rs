//! A processor that is run for the first time: its tables, its rows, and the place where it begins.

use std::time::Duration;

use crate::cluster::{self, Alive, Share, Shares};
use crate::limits::MAX_PAGE;
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::Runner;
use crate::processor::worker::codes::{self, Standing};
use crate::state::{Build, Checkpoint, Generations, codes, generations};
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
        }
        if rows.is_empty() {
            return Ok(());
        }
        commit(backend, rows).await?;
    }
}

/// Who is alive, at a time of the store's clock.
pub(crate) struct Seen {
    alive: Alive,
    now: i64,
}

impl Seen {
    pub(crate) async fn now(backend: &dyn AnyBackend) -> Result<Self, StoreError> {
        Ok(Self { alive: cluster::alive(backend).await?, now: backend.now().await?.as_microsecond() })
    }

    /// The newer version of a projection that a live node runs, by its stored name.
    pub(crate) fn newer_version(&self, name: &str) -> Option<&str> {
        let (base, version) = versioned(name)?;
        let newer =
            |other: &&String| versioned(other).is_some_and(|(of, other)| of == base && other > version);
        self.alive.values().flat_map(|node| &node.runs).find(newer).map(String::as_str)
    }
}

/// The name of a projection, and its version.
fn versioned(stored_name: &str) -> Option<(&str, u32)> {
    let (base, version) = stored_name.rsplit_once('/')?;
    Some((base, version.parse().ok()?))
}

/// The builds of a processor whose code is older than that of this program; or what is in the way of taking them over, in
/// words. What is under way is left to those who have begun it, and what a newer code makes to the coordinator, which looks
/// for others with it.
pub(crate) async fn older_builds(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    seen: &Seen,
) -> Result<Result<Vec<Build>, String>, StoreError> {
    let (name, own) = (runner.name(), runner.code());
    let known = Generations::read(backend, &name).await?.map(|row| row.value).unwrap_or_default();
    let mut older = Vec::new();
    for generation in [Some(known.current), known.previous].into_iter().flatten() {
        let build = known.build(&name, generation);
        let stored = codes().get(backend, &build.to_string()).await?.map(|row| row.value);
        if codes::standing(stored.as_ref(), &own, &name, &seen.alive, seen.now) == Standing::IsNewer {
            if let Some(why) = codes::in_the_way(backend, runner, &build, stored.as_ref()).await? {
                return Ok(Err(why));
            }
            older.push(build);
        }
    }
    Ok(Ok(older))
}

/// Takes over what older programs make of a processor. Gives what is in the way, in words.
pub(crate) async fn settle_code(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    lease: Duration,
) -> Result<Result<(), String>, StoreError> {
    let older = match older_builds(backend, runner, &Seen::now(backend).await?).await? {
        Ok(older) => older,
        Err(why) => return Ok(Err(why)),
    };
    for build in older {
        if let Err(why) = codes::take_over(backend, runner, &build, lease).await? {
            return Ok(Err(why));
        }
    }
    Ok(Ok(()))
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

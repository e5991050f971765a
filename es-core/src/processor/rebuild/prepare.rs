//! A processor that is run for the first time: its tables, its rows, and the place where it begins.

use crate::cluster::{Share, Shares};
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::{Keeps, Runner};
use crate::processor::worker::{finish_removal, made_by, noted, other_name};
use crate::state::{Build, Checkpoint, CodeRecord, Generations, KeptAs, codes, generations, versions};
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

/// Why its tables cannot be made, or are not those of its program, in words. Nothing is changed.
pub(crate) async fn schema_obstacle(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
) -> Result<Option<String>, StoreError> {
    let Some(tables) = runner.keeps().tables().filter(has_schema) else { return Ok(None) };
    let stored = generations().get(backend, &tables.stored_name()).await?.map(|row| row.value);
    if stored.as_ref().is_some_and(|known| known.retiring) {
        // They go before it begins.
        return Ok(None);
    }
    let known = stored.filter(|known| !known.retired);
    unmade(backend.check(&tables, known.unwrap_or_default().current).await)
}

fn kept_as(runner: &dyn Runner) -> Option<KeptAs> {
    match runner.keeps() {
        Keeps::Rows(_) => Some(KeptAs::Rows),
        Keeps::Tables(_) => Some(KeptAs::Tables),
        Keeps::State | Keeps::Nothing => None,
    }
}

/// That a projection keeps what it comes to where it always has.
///
/// # Errors
///
/// [`StoreError::Misuse`] if it began as one of another kind.
pub(crate) fn is_of_its_kind(runner: &dyn Runner, known: &Generations) -> Result<(), StoreError> {
    if known.kept_as.is_none_or(|before| Some(before) == kept_as(runner)) {
        return Ok(());
    }
    Err(StoreError::misuse(format!(
        "{} has begun as a projection of another kind, and its rows are those of that: raise its `version`, and it is built \
         from the beginning",
        runner.name()
    )))
}

/// A view has rows of the framework's only.
fn has_schema(tables: &Tables) -> bool {
    !tables.schema.trim().is_empty()
}

/// That tables cannot be made, in words.
pub(super) fn unmade(checked: Result<(), StoreError>) -> Result<Option<String>, StoreError> {
    match checked {
        Err(error @ StoreError::Misuse { .. }) => Ok(Some(crate::chain(&error))),
        checked => checked.map(|()| None),
    }
}

/// Makes the tables and rows of a processor that is run for the first time, next to those of other versions. One that keeps
/// nothing that could be rebuilt begins at the head: what happened before is none of its business.
///
/// `false` if what is stored of it has another name: then nothing is made.
pub(crate) async fn prepare(backend: &dyn AnyBackend, runner: &dyn Runner) -> Result<bool, StoreError> {
    let (name, tables) = (runner.name(), runner.keeps().tables());
    loop {
        let mut rows = Vec::new();
        let stored = generations().get(backend, &name).await?;
        let known = stored.clone().filter(|row| !row.value.retired).map(|row| row.value);
        if let Some(tables) = &tables {
            if known.as_ref().is_some_and(|known| known.retiring) {
                // Its rows are not to be taken for those of the version that begins here.
                finish_removal(backend, tables.name, tables.version).await?;
                continue;
            }
            match &known {
                // Whoever begins a build makes its tables before the row says so; and who removes it does so for good.
                Some(known) => {
                    if !has_place(backend, &known.build(&name, known.current)).await? {
                        continue;
                    }
                    is_of_its_kind(runner, known)?;
                    if has_schema(tables) {
                        backend.check(tables, known.current).await?;
                    }
                }
                None => backend.install(tables, 1).await?,
            }
            if known.is_none() {
                let (rev, last) = stored.map_or((0, 1), |row| (row.rev, row.value.last));
                // No number is given twice, not even if another version has been there in between.
                let value = Generations { last, kept_as: kept_as(runner), ..Generations::default() };
                let row = Row { key: name.clone(), rev, value };
                rows.extend([generations().put(&row)?, point(backend, tables, 1).await?]);
            }
            rows.extend(is_run(backend, tables).await?);
        }
        if known.is_none() {
            let Some(begun) = begin(backend, runner).await? else { return Ok(false) };
            rows.extend(begun);
        }
        if rows.is_empty() {
            return Ok(true);
        }
        commit(backend, rows).await?;
    }
}

/// A build that is there has a place in the log; the row of its first share goes with it only. `false` if it has just gone.
async fn has_place(backend: &dyn AnyBackend, build: &Build) -> Result<bool, StoreError> {
    if Shares::<Checkpoint>::checkpoints().first_row(backend, &build.to_string()).await?.is_some() {
        return Ok(true);
    }
    let known = Generations::read(backend, &build.processor).await?;
    if known.is_none_or(|known| known.value.current != build.generation) {
        return Ok(false);
    }
    let (name, row) = (&build.processor, format!("{build}#0000"));
    let what = format!(
        "row {row:?} of checkpoints was deleted, so nobody knows how far {name} is: `drop_version` of it, in an app that \
         runs another version, and it is built from the log again; or raise its version"
    );
    Err(StoreError::Corrupt { what })
}

/// The rows of the place where it begins, if it has none; `None` if it has one under another name.
async fn begin(backend: &dyn AnyBackend, runner: &dyn Runner) -> Result<Option<Vec<RowWrite>>, StoreError> {
    let (shares, build) = (Shares::checkpoints(), Build::first(&runner.name()));
    // Before the shares, and written with them: whoever gives them another name, or is as fast, changes it too.
    let code = made_by(backend, &build).await?;
    if shares.exist(backend, &build.to_string()).await? {
        return Ok(Some(Vec::new()));
    }
    if other_name(backend, runner).await?.is_some() {
        return Ok(None);
    }
    let head = backend.head().await?;
    let from = if runner.keeps().tables().is_some() { Position(0) } else { head };
    let whole = Share::whole(build.to_string(), Checkpoint::new(from, head));
    // Over the rows of a version that has come back: their revisions count on. What it was made by before does not count.
    let share = shares.put(&shares.placed(backend, whole).await?)?;
    Ok(Some(vec![share, codes().put(&Row { value: CodeRecord::default(), ..code })?]))
}

/// The row that says that a version is run, if that is news. Whoever has just decided that it goes, finds it changed.
async fn is_run(backend: &dyn AnyBackend, tables: &Tables) -> Result<Option<RowWrite>, StoreError> {
    let mut row = noted(backend, tables.name).await?;
    let was_unseen = row.value.unseen.remove(&tables.version).is_some();
    was_unseen.then(|| versions().put(&row)).transpose()
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

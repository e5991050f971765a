//! The rows of a build go in portions, each in a commit of its own: no other write waits for more than one of them, however
//! many rows there are.
//!
//! What is to go is marked first, in the row of the builds. From then on no node works on it, and a node that ends in the
//! middle leaves the rest to the next one that looks. Each portion is written over the row of the build's first share, as
//! it is. Work on a build begins with that row: a node that was away for long finds it moved, and deletes nothing that was
//! made since.

use std::time::Duration;

use uuid::Uuid;

use super::generations::Change;
use crate::cluster::{Share, Shares};
use crate::processor::AnyBackend;
use crate::processor::worker::RACES;
use crate::state::{Build, Checkpoint, Generations, generations};
use crate::store::{Commit, Position, Row, RowWrite, StoreError, StoredRow, Table, Tables, Won, write_rows};

/// Rows of a portion at most; it also ends where the bytes of a page do.
pub(crate) const PORTION: usize = 2_000;
/// How long a node leaves it to another one that has deleted a portion just now.
const TURN: Duration = Duration::from_millis(200);

/// Deletes the rows of a build, as long as it is marked for that. What a worker that does not know of the mark writes
/// behind it is left, for the commit that takes the mark away.
pub(crate) async fn empty(
    backend: &dyn AnyBackend,
    build: &Build,
    is_marked: impl Fn(&Generations) -> bool,
) -> Result<(), StoreError> {
    loop {
        // Before the mark is looked for: work that begins after that moves it.
        let first = Shares::<Checkpoint>::checkpoints().first_row(backend, &build.to_string()).await?;
        let known = generations().get(backend, &build.processor).await?;
        let Some(first) = first.filter(|_| known.is_some_and(|known| is_marked(&known.value))) else {
            return Ok(());
        };
        if portions(backend, build, first).await? {
            return Ok(());
        }
        // Another node is at it.
        tokio::time::sleep(TURN).await;
    }
}

/// Whether all rows have gone; not if the row of the first share has moved.
async fn portions(backend: &dyn AnyBackend, build: &Build, mut first: StoredRow) -> Result<bool, StoreError> {
    let shares = Shares::<Checkpoint>::checkpoints();
    for table in build.all_tables() {
        let table = Table::<()>::own(table);
        let mut after: Option<String> = None;
        loop {
            let page = backend.scan(table.name(), after.as_deref(), PORTION).await?;
            let Some(last) = page.last() else {
                // Once more from the beginning, where what was deleted has not to be passed again each time.
                if after.take().is_none() {
                    break;
                }
                continue;
            };
            after = Some(last.key.clone());
            let mut rows = vec![shares.unchanged(&first)];
            rows.extend(page.into_iter().map(|row| table.delete_at(row.key, row.rev)));
            if !write_rows(backend, rows).await?.is_yes() {
                return Ok(false);
            }
            first.rev += 1;
        }
    }
    Ok(true)
}

/// One share, with this progress and owner, in the place of all that a build has.
pub(crate) fn one_share(
    build: &Build,
    all: &[Share<Checkpoint>],
    progress: Checkpoint,
    owner: Option<Uuid>,
) -> Result<Vec<RowWrite>, StoreError> {
    let shares = Shares::checkpoints();
    let whole = Share {
        rev: all.first().map_or(0, |share| share.rev),
        epoch: all.iter().map(|share| share.epoch).max().unwrap_or_default() + 1,
        owner,
        ..Share::whole(build.to_string(), progress)
    };
    let others = all.iter().skip(1).map(|share| shares.retire(share));
    std::iter::once(shares.put(&whole)).chain(others).collect()
}

/// Empties a build that is marked for it; then it begins at the start, and this node has it. Harmless if another one has
/// done it.
pub(crate) async fn begin_empty(
    backend: &dyn AnyBackend,
    tables: &Tables,
    build: &Build,
    owner: Option<Uuid>,
) -> Result<(), StoreError> {
    let generation = build.generation;
    for _ in 0..RACES {
        empty(backend, build, |known| known.emptying.contains(&generation)).await?;
        let Some(known) = Generations::read(backend, &build.processor).await? else { return Ok(()) };
        let Ok(value) = known.value.apply(Change::Emptied(generation)) else { return Ok(()) };
        let all = Shares::<Checkpoint>::checkpoints().of(backend, &build.to_string()).await?;
        let mut rows = one_share(build, &all, Checkpoint::new(Position(0), backend.head().await?), owner)?;
        rows.push(generations().put(&Row { value, ..known })?);
        let outcome = backend.clear(tables, generation, Commit { rows, ..Commit::default() }).await;
        if Won::or_store_error(WHAT, backend, outcome).await?.is_yes() {
            return Ok(());
        }
    }
    Err(StoreError::transient(WHAT, std::io::Error::other("its shares are written all the time")))
}

const WHAT: &str = "emptying a build";

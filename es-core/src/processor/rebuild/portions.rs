//! Rows of a build that go or move in portions, each in a commit of its own: no other write waits for more than one of them,
//! however many rows there are.
//!
//! What is done is marked first. From then on no node works on the build, and a node that ends in the middle leaves the rest
//! to the next one that looks. Each portion is written over the row of the build's first share, as it is. Work on a build
//! begins with that row: a node that was away for long finds it moved, and touches nothing that was made since.

use std::time::Duration;

use crate::cluster::Shares;
use crate::processor::AnyBackend;
use crate::state::{Build, Checkpoint, Generations, generations};
use crate::store::{Row, RowStore, RowWrite, StoreError, StoredRow, Table, write_rows};

/// Rows of a portion, about; it also ends where the bytes of a page do.
pub(crate) const PORTION: usize = 2_000;
/// How long a node leaves it to another one that has written a portion just now.
const TURN: Duration = Duration::from_millis(200);

/// The portions of one build, as long as no other node does the same or works on it.
pub(crate) struct Portions<'b> {
    backend: &'b dyn AnyBackend,
    /// The row of the first share.
    first: StoredRow,
    /// What the next one writes.
    rows: Vec<RowWrite>,
}

impl<'b> Portions<'b> {
    /// Of a build whose first share this is, if it has one. To be begun before the mark is looked for: work that begins
    /// after that moves the share.
    pub(crate) async fn begin(
        backend: &'b dyn AnyBackend,
        build: &Build,
    ) -> Result<Option<Self>, StoreError> {
        let first = Shares::<Checkpoint>::checkpoints().first_row(backend, &build.to_string()).await?;
        Ok(first.map(|first| Self { backend, first, rows: Vec::new() }))
    }

    /// Another node was faster with a portion: it may go on.
    pub(crate) async fn give_way() {
        tokio::time::sleep(TURN).await;
    }

    /// Rows that are written together, each of them once in a portion; `false` if the row of the first share has moved.
    pub(crate) async fn add(&mut self, rows: impl IntoIterator<Item = RowWrite>) -> Result<bool, StoreError> {
        self.rows.extend(rows);
        if self.rows.len() < PORTION { Ok(true) } else { self.end().await }
    }

    /// Writes what is left; `false` as with [`Self::add`].
    pub(crate) async fn end(&mut self) -> Result<bool, StoreError> {
        if self.rows.is_empty() {
            return Ok(true);
        }
        let rows = std::mem::take(&mut self.rows);
        self.with(rows).await
    }

    /// Writes these rows over the row of the first share, whatever there is to write.
    pub(crate) async fn with(&mut self, mut rows: Vec<RowWrite>) -> Result<bool, StoreError> {
        rows.push(Shares::<Checkpoint>::checkpoints().unchanged(&self.first));
        let won = write_rows(self.backend, rows).await?.is_yes();
        self.first.rev += u64::from(won);
        Ok(won)
    }

    /// All rows of a table go, or move to another one.
    ///
    /// # Errors
    ///
    /// As for [`in_table`].
    pub(crate) async fn take(&mut self, table: &str, to: Option<&str>) -> Result<bool, StoreError> {
        let (from, mut after) = (Table::<()>::own(table), None::<String>);
        loop {
            let page = self.backend.scan(table, after.as_deref(), PORTION).await?;
            let Some(last) = page.last() else {
                // Once more from the beginning, where what has gone has not to be passed each time.
                if after.take().is_none() {
                    return Ok(true);
                }
                continue;
            };
            after = Some(last.key.clone());
            let gone: Vec<RowWrite> =
                page.iter().map(|row| from.delete_at(row.key.clone(), row.rev)).collect();
            let mut there = match to {
                Some(to) => in_table(self.backend, page, to).await?,
                None => Vec::new(),
            }
            .into_iter();
            for gone in gone {
                if !self.add(there.next().into_iter().chain([gone])).await? {
                    return Ok(false);
                }
            }
            if !self.end().await? {
                return Ok(false);
            }
        }
    }
}

/// Rows in another table. A request that is there already is that of somebody who asked under a name that nothing had then:
/// the one that is moved takes its place.
///
/// # Errors
///
/// [`StoreError::Misuse`] names any other row that is there.
pub(crate) async fn in_table(
    rows: &dyn RowStore,
    page: Vec<StoredRow>,
    to: &str,
) -> Result<Vec<RowWrite>, StoreError> {
    if page.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = page.iter().map(|row| row.key.clone()).collect();
    let there = rows.rows(to, &keys).await?;
    let place = |(StoredRow { key, data, .. }, there): (StoredRow, Option<StoredRow>)| match there {
        Some(_) if !to.ends_with("/requests") => Err(StoreError::misuse(format!(
            "row {key:?} of {to} is there already, and belongs to nothing: delete it"
        ))),
        there => {
            let rev = there.map_or(0, |row| row.rev);
            Ok(RowWrite { table: to.into(), key, rev, row: Some(data) })
        }
    };
    page.into_iter().zip(there).map(place).collect()
}

/// Deletes the rows of a build, as long as it is marked for that. What a worker that does not know of the mark writes
/// behind it is left, for the commit that takes the mark away.
pub(crate) async fn empty(
    backend: &dyn AnyBackend,
    build: &Build,
    is_marked: impl Fn(&Generations) -> bool + Send + Sync,
) -> Result<(), StoreError> {
    while let Some(mut portions) = begin_marked(backend, build, &is_marked).await? {
        let mut done = true;
        for table in build.all_tables() {
            done = done && portions.take(&table, None).await?;
        }
        if done {
            return Ok(());
        }
        Portions::give_way().await;
    }
    Ok(())
}

/// The portions of a build, if it is marked for what they are to do.
pub(super) async fn begin_marked<'b>(
    backend: &'b dyn AnyBackend,
    build: &Build,
    is_marked: impl Fn(&Generations) -> bool + Send + Sync,
) -> Result<Option<Portions<'b>>, StoreError> {
    let portions = Portions::begin(backend, build).await?;
    let known: Option<Row<Generations>> = generations().get(backend, &build.processor).await?;
    Ok(portions.filter(|_| known.is_some_and(|known| is_marked(&known.value))))
}

//! Some of the runs that ended long ago: which of them nobody needs any more, and the rows of the commit that forgets those.
//!
//! A run goes in the order that whoever is interrupted finds it again: its key first, so that it is free; its journal, in as
//! many commits as it takes, each of which writes its head over the revision that was read; at last its head, with the row
//! that says that it has ended. What cannot be read, or was written by a newer program, stays.

use es_core::ErrorKind;
use es_core::store::keys::behind;
use es_core::store::{EventStore, RowStore, RowWrite, Span, StoreError, StoredRow, Won, write_rows};
use uuid::Uuid;

use super::family::{Kin, Parent};
use super::rows::{
    FORMAT, Head, Record, Status, Tables, head_key, journal_of, record_key, run_of, start_key,
};

/// Rows that are deleted in one commit.
const ROWS: usize = 500;
/// The first format of runs with parents and children.
const OF_FAMILIES: u32 = 3;

/// A run that can go.
struct Leaving {
    run: Uuid,
    /// Where it stands in the page.
    place: usize,
    /// The row that says that it has ended.
    ended: StoredRow,
    /// Its head, and what that says; `None`: it is not there any more.
    head: Option<(StoredRow, Head)>,
    /// The row of its key.
    start: Option<RowWrite>,
}

/// What is written to forget some runs, or to begin with that.
#[derive(Default)]
pub(super) struct Portion {
    rows: Vec<RowWrite>,
    forgotten: Forgotten,
}

/// How far a portion goes.
#[derive(Default)]
pub(super) struct Forgotten {
    pub(super) runs: u64,
    /// So many of the page are seen to, from the first one on: the next one, or what is left of it, is not.
    pub(super) through: usize,
}

impl Portion {
    /// Writes it; `None` if somebody else has written one of its rows.
    pub(super) async fn write(self, store: &dyn EventStore) -> Result<Option<Forgotten>, StoreError> {
        if self.rows.is_empty() {
            return Ok(Some(self.forgotten));
        }
        Ok(match write_rows(store, self.rows).await? {
            Won::Yes(_) => Some(self.forgotten),
            Won::No(_) => None,
        })
    }
}

/// What can go of these, up to the bound of a commit. `page`: rows of runs that ended long enough ago.
pub(super) async fn of(
    rows: &dyn RowStore,
    tables: &Tables,
    page: Vec<StoredRow>,
) -> Result<Portion, StoreError> {
    let mut portion = Portion::default();
    portion.forgotten.through = page.len();
    let mut leaving = leaving(rows, tables, page).await?;
    // What does not go now is not read.
    if let Some(next) = leaving.drain(together(&leaving)..).next() {
        portion.forgotten.through = next.place;
    }
    let spans: Vec<Span> = leaving.iter().map(|leaving| journal_span(leaving.run)).collect();
    let journals =
        if spans.is_empty() { Vec::new() } else { rows.scan_many(tables.journal.name(), &spans).await? };
    for (leaving, journal) in leaving.into_iter().zip(journals) {
        let place = leaving.place;
        // Of the last one there may be more.
        if portion.rows.len() >= ROWS || !leaving.go(tables, journal, &mut portion)? {
            portion.forgotten.through = place;
            break;
        }
    }
    Ok(portion)
}

/// How many of them go together, by what their heads say; of the first one a part goes if it is larger.
fn together(leaving: &[Leaving]) -> usize {
    let mut rows = 0;
    let fits = |leaving: &&Leaving| {
        rows += leaving.rows();
        rows <= ROWS
    };
    leaving.iter().take_while(fits).count().max(leaving.len().min(1))
}

fn journal_span(run: Uuid) -> Span {
    let prefix = journal_of(run);
    Span { before: Some(behind(&prefix)), after: prefix, limit: ROWS }
}

impl Leaving {
    /// How many rows it has, about.
    fn rows(&self) -> usize {
        let records = self.head.as_ref().map_or(0, |(_, head)| head.records);
        usize::try_from(records).unwrap_or(ROWS).min(ROWS) + 3
    }

    /// Adds its rows. Whether all of it goes.
    fn go(self, tables: &Tables, journal: Vec<StoredRow>, portion: &mut Portion) -> Result<bool, StoreError> {
        let Self { run, ended, head, start, .. } = self;
        let last = head.as_ref().map(|(_, head)| record_key(run, head.records)).transpose()?;
        // Pages have bounds in bytes as well: all of it is here if its last record is.
        let is_all = journal.last().is_none_or(|row| last.as_ref().is_some_and(|last| row.key == *last));
        portion.rows.extend(start);
        portion.rows.extend(journal.into_iter().map(|row| tables.journal.delete_at(row.key, row.rev)));
        if let Some((StoredRow { key, rev, data }, _)) = head {
            let row = (!is_all).then_some(data);
            portion.rows.push(RowWrite { table: tables.heads.name().clone(), key, rev, row });
        }
        if is_all {
            portion.rows.push(tables.ended.delete_at(ended.key, ended.rev));
            portion.forgotten.runs += 1;
        }
        Ok(is_all)
    }
}

/// Those that nobody needs any more.
async fn leaving(
    rows: &dyn RowStore,
    tables: &Tables,
    page: Vec<StoredRow>,
) -> Result<Vec<Leaving>, StoreError> {
    let can_be_read = |row: &StoredRow| tables.ended.decode(row.clone()).is_ok();
    let page = page.into_iter().enumerate().filter(|(_, row)| can_be_read(row));
    let named = page.filter_map(|(place, row)| Some((run_of(&row.key)?, place, row)));
    let named: Vec<(Uuid, usize, StoredRow)> = named.collect();
    let keys = named.iter().map(|(run, ..)| head_key(*run)).collect::<Result<Vec<_>, _>>()?;
    let heads = rows.rows(tables.heads.name(), &keys).await?;
    let notes = rows.rows(tables.attention.name(), &keys).await?;
    let mut over = Vec::new();
    for (((run, place, ended), head), note) in named.into_iter().zip(heads).zip(notes) {
        let head = match head.map(|row| (tables.heads.decode(row.clone()), row)) {
            Some((Ok(head), row)) => Some((row, head.value)),
            Some((Err(_), _)) => continue,
            None => None,
        };
        let is_over = match &head {
            Some((_, head)) => note.is_none() && is_over(rows, tables, run, head).await?,
            None => true,
        };
        if is_over {
            over.push((run, place, ended, head));
        }
    }
    let keys =
        over.iter().map(|(.., ended, _)| Ok(start_key(&tables.ended.decode(ended.clone())?.value.key)?));
    let keys: Vec<String> = keys.collect::<Result<_, StoreError>>()?;
    let starts = rows.rows(tables.starts.name(), &keys).await?;
    let leaving = over.into_iter().zip(starts).map(|((run, place, ended, head), start)| {
        // The key may stand for another one by now.
        let start = start.and_then(|start| tables.starts.decode(start).ok());
        let start = start.filter(|start| start.value.run == run).map(|start| tables.starts.delete(&start));
        Leaving { run, place, ended, head, start }
    });
    Ok(leaving.collect())
}

/// Whether a run has ended, and no other one that goes on knows it.
async fn is_over(rows: &dyn RowStore, tables: &Tables, run: Uuid, head: &Head) -> Result<bool, StoreError> {
    // For how long one of a later definition is kept is not known here.
    let is_later = head.format > FORMAT || head.version > tables.version;
    if is_later || head.status != Status::Ended {
        return Ok(false);
    }
    if let Some(Parent { of, .. }) = &head.parent
        && goes_on(rows, of).await?
    {
        return Ok(false);
    }
    if head.format < OF_FAMILIES {
        return Ok(true);
    }
    for row in tables.journal.stored_below(rows, &journal_of(run), None, usize::MAX).await? {
        // Nobody knows whether it names one that goes on.
        let Ok(written) = tables.journal.decode(row) else { return Ok(false) };
        if let Record::Called { child, .. } = written.value.record
            && goes_on(rows, &child).await?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a relative has not ended, as far as is known.
async fn goes_on(rows: &dyn RowStore, kin: &Kin) -> Result<bool, StoreError> {
    let Ok(tables) = Tables::of(&kin.saga, kin.version) else { return Ok(true) };
    match tables.heads.get(rows, &head_key(kin.run)?).await {
        Ok(head) => Ok(head.is_some_and(|head| head.value.status != Status::Ended)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
        Err(error) => Err(error),
    }
}

//! The rows of a commit that takes locks, or leaves them: read, changed as [`Lock`] says, written as they were read.

use std::collections::{BTreeMap, BTreeSet};

use es_core::id::Ids;
use es_core::store::{Row, RowStore, RowWrite, StoreError};
use es_core::{Timestamp, chain};
use uuid::Uuid;

use super::owners::Owners;
use super::row::{Entry, Lock, LockRefused, Resource};
use super::rows::{LockTables, Owner, check, lock_key, owner_key};
use crate::transaction::{Kin, wake_up};

/// What comes of taking locks.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The run has all of them once these rows are written; or it waits, which they say as well.
    Rows {
        rows: Vec<RowWrite>,
        held: bool,
    },
    Refused(LockRefused),
}

/// Where a run is with locks that it has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has all of them.
    Holds,
    /// It waits for some.
    Waits,
    /// It neither has nor waits for one of them: somebody has removed it.
    Missing,
}

fn names(wanted: &[Resource]) -> Vec<String> {
    wanted.iter().map(|resource| resource.name.clone()).collect()
}

/// Locks as they are stored, by what is locked.
async fn read(
    rows: &dyn RowStore,
    tables: &LockTables,
    resources: Vec<String>,
) -> Result<Vec<Row<Lock>>, StoreError> {
    if resources.is_empty() {
        return Ok(Vec::new());
    }
    let keys = resources.iter().map(|resource| lock_key(resource)).collect::<Result<Vec<_>, _>>()?;
    let found = rows.rows(tables.locks.name(), &keys).await?;
    let read = |((resource, key), row): ((String, String), Option<_>)| match row {
        Some(row) => tables.locks.decode(row),
        None => Ok(Row::new(key, Lock::free(resource))),
    };
    resources.into_iter().zip(keys).zip(found).map(read).collect()
}

/// Those of them that can be read.
pub(super) async fn readable(
    rows: &dyn RowStore,
    tables: &LockTables,
    resources: &[String],
) -> Result<Vec<Row<Lock>>, StoreError> {
    let keys = resources.iter().map(|resource| lock_key(resource)).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let found = rows.rows(tables.locks.name(), &keys).await?.into_iter().flatten();
    let read = |row| {
        tables.locks.decode(row).inspect_err(|error| {
            tracing::error!(
                error = chain(error),
                "a lock cannot be read: repair its row; those who wait for it do so still"
            );
        })
    };
    Ok(found.filter_map(|row| read(row).ok()).collect())
}

/// A run takes locks, all in one commit: so two that want the same ones stand in the same order everywhere, and do not wait for
/// each other by that.
pub(crate) async fn take(
    rows: &dyn RowStore,
    ids: &Ids,
    of: &Kin,
    wanted: &[Resource],
    at: Timestamp,
) -> Result<Taken, StoreError> {
    let tables = LockTables::new()?;
    let (mut writes, mut held, mut given) = (Vec::new(), true, Vec::new());
    for before in read(rows, &tables, names(wanted)).await? {
        let mode =
            wanted.iter().find(|wanted| wanted.name == before.value.resource).map(|wanted| wanted.mode);
        let Some(mode) = mode else { continue };
        let mut after = before.value.clone();
        let mut taken = after.take(of, mode, at);
        if !matches!(taken, Ok(true)) && !before.value.is_free() {
            // Whoever waits looks whether those before it are still there.
            after = before.value.clone();
            let owners = after.entries().map(|entry| entry.of.clone()).collect();
            for gone in Owners::look(rows, owners).await?.gone {
                given.extend(after.leave(gone, at));
            }
            taken = after.take(of, mode, at);
        }
        match taken {
            Ok(is_held) => held &= is_held,
            Err(why) => return Ok(Taken::Refused(why)),
        }
        writes.extend(write(&tables, &before, after)?);
    }
    given.retain(|kin| kin.run != of.run);
    writes.extend(wake_all(given, ids, at)?);
    Ok(Taken::Rows { rows: writes, held })
}

/// A run leaves locks, or does not wait for them any more: who is next has them, and is woken, in the same commit.
pub(crate) async fn leave(
    rows: &dyn RowStore,
    ids: &Ids,
    run: Uuid,
    resources: &BTreeSet<String>,
    at: Timestamp,
) -> Result<Vec<RowWrite>, StoreError> {
    let tables = LockTables::new()?;
    let (mut writes, mut given) = (Vec::new(), Vec::new());
    for before in read(rows, &tables, resources.iter().cloned().collect()).await? {
        let mut after = before.value.clone();
        given.extend(after.leave(run, at));
        writes.extend(write(&tables, &before, after)?);
    }
    writes.extend(wake_all(given, ids, at)?);
    Ok(writes)
}

/// The rows by which those leave a lock that are gone; none if all are there.
pub(super) fn take_over(
    tables: &LockTables,
    before: &Row<Lock>,
    gone: &BTreeSet<Uuid>,
    ids: &Ids,
    at: Timestamp,
) -> Result<Vec<RowWrite>, StoreError> {
    let (mut after, mut given) = (before.value.clone(), Vec::new());
    for run in gone {
        given.extend(after.leave(*run, at));
    }
    given.retain(|kin| !gone.contains(&kin.run));
    let mut writes = write(tables, before, after)?;
    writes.extend(wake_all(given, ids, at)?);
    Ok(writes)
}

/// Where a run is with these.
pub(crate) async fn place(rows: &dyn RowStore, run: Uuid, wanted: &[Resource]) -> Result<Place, StoreError> {
    let tables = LockTables::new()?;
    let mut place = Place::Holds;
    for lock in read(rows, &tables, names(wanted)).await? {
        match (lock.value.holder(run), lock.value.waiter(run)) {
            (Some(_), _) => {}
            (None, Some(_)) => place = Place::Waits,
            (None, None) => return Ok(Place::Missing),
        }
    }
    Ok(place)
}

/// Whom a run waits for, in words: of each of these that it does not have.
pub(crate) async fn in_the_way(
    rows: &dyn RowStore,
    run: Uuid,
    wanted: &[Resource],
) -> Result<String, StoreError> {
    /// So many are named.
    const NAMED: usize = 3;
    let tables = LockTables::new()?;
    let mut told = String::new();
    for lock in read(rows, &tables, names(wanted)).await? {
        let Some(since) = lock.value.waiter(run).map(|own| own.since) else { continue };
        let holders: Vec<String> =
            lock.value.holders.iter().take(NAMED).map(|holder| holder.of.to_string()).collect();
        let more = lock.value.holders.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let ahead = lock.value.queue.iter().take_while(|entry| entry.of.run != run).count();
        let resource = &lock.value.resource;
        told += &format!(
            "; {resource} is held by {}{more}, and {ahead} wait before it, since {since}",
            holders.join(", ")
        );
    }
    Ok(told)
}

fn wake_all(given: Vec<Kin>, ids: &Ids, at: Timestamp) -> Result<Vec<RowWrite>, StoreError> {
    // Each once, however many locks it is given.
    let given: BTreeMap<Uuid, Kin> = given.into_iter().map(|kin| (kin.run, kin)).collect();
    given.values().map(|kin| wake_up(kin, ids, at)).collect()
}

fn without<'e>(entries: &'e [Entry], others: &[Entry]) -> impl Iterator<Item = &'e Entry> {
    let others: BTreeSet<Uuid> = others.iter().map(|entry| entry.of.run).collect();
    entries.iter().filter(move |entry| !others.contains(&entry.of.run))
}

/// The rows of a lock that has changed, and of those that have it or wait. Besides its own row each commit writes one of those
/// that were there when it was read: see [`rows`](super::rows).
fn write(tables: &LockTables, before: &Row<Lock>, mut after: Lock) -> Result<Vec<RowWrite>, StoreError> {
    if before.value == after {
        return Ok(Vec::new());
    }
    let resource = after.resource.clone();
    let key = |entry: &Entry| owner_key(&resource, entry.of.run);
    let mut rows = Vec::new();
    for gone in without(&before.value.holders, &after.holders) {
        rows.push(tables.held.delete_at(key(gone)?, gone.rev));
    }
    for gone in without(&before.value.queue, &after.queue) {
        rows.push(tables.waits.delete_at(key(gone)?, gone.rev));
    }
    let is_fenced = before.rev == 0 || !rows.is_empty();
    for entry in after.holders.iter_mut().filter(|entry| entry.rev == 0) {
        rows.push(tables.held.insert(key(entry)?, Owner::of(&resource, entry))?);
        entry.rev = 1;
    }
    for entry in after.queue.iter_mut().filter(|entry| entry.rev == 0) {
        rows.push(tables.waits.insert(key(entry)?, Owner::of(&resource, entry))?);
        entry.rev = 1;
    }
    if let Some(first) = after.holders.first_mut().filter(|_| !is_fenced) {
        let row = Row { key: key(first)?, rev: first.rev, value: Owner::of(&resource, first) };
        rows.push(tables.held.put(&row)?);
        first.rev += 1;
    }
    let row = Row { key: before.key.clone(), rev: before.rev, value: after };
    match (row.value.is_free(), row.rev) {
        (false, _) => rows.push(tables.locks.put(&row)?),
        (true, 0) => {}
        (true, _) => rows.push(tables.locks.delete(&row)),
    }
    Ok(rows)
}

/// Why these cannot be taken, if they cannot.
pub(crate) fn wrong(wanted: &[Resource]) -> Option<String> {
    let of = |resource: &Resource| {
        check(&resource.name).err().map(|error| format!("{:?} cannot be locked: {error}", resource.name))
    };
    wanted.iter().find_map(of)
}

#[cfg(test)]
mod tests {
    use es_core::memory::MemoryBackend;
    use es_core::store::{Won, write_rows};

    use super::*;

    fn kin(n: u128) -> Kin {
        Kin { saga: "sale".to_owned(), version: 1, key: n.to_string(), run: Uuid::from_u128(n) }
    }

    /// A run that goes on: its head is there.
    async fn begins(store: &MemoryBackend, n: u128) -> Kin {
        let tables = crate::transaction::Tables::of("sale", 1).unwrap();
        let key = crate::transaction::head_key(kin(n).run).unwrap();
        let head = serde_json::from_str(include_str!("../../tests/golden/txn-head.json")).unwrap();
        let row = tables.heads.insert(key, head).unwrap();
        assert!(write_rows(store, vec![row]).await.unwrap().is_yes());
        kin(n)
    }

    async fn takes(store: &MemoryBackend, of: &Kin) -> (Vec<RowWrite>, bool) {
        let at = Timestamp::UNIX_EPOCH;
        match take(store, &Ids::default(), of, &[Resource::exclusive("seat")], at).await.unwrap() {
            Taken::Rows { rows, held } => (rows, held),
            Taken::Refused(why) => panic!("{why}"),
        }
    }

    async fn leaves(store: &MemoryBackend, of: &Kin) -> Vec<RowWrite> {
        let all = BTreeSet::from(["seat".to_owned()]);
        leave(store, &Ids::default(), of.run, &all, Timestamp::UNIX_EPOCH).await.unwrap()
    }

    async fn is_written(store: &MemoryBackend, rows: Vec<RowWrite>) -> bool {
        write_rows(store, rows).await.unwrap().is_yes()
    }

    #[tokio::test]
    async fn what_was_worked_out_on_an_earlier_life_of_a_lock_is_refused() {
        let store = MemoryBackend::new();
        let (a, b, late) = (begins(&store, 1).await, begins(&store, 2).await, begins(&store, 3).await);
        let (rows, held) = takes(&store, &a).await;
        assert!(held && is_written(&store, rows).await);
        // One that would wait behind it, and comes late; and one that leaves for it, and comes late as well.
        let (waits, held) = takes(&store, &late).await;
        let again = leaves(&store, &a).await;
        assert!(!held && is_written(&store, leaves(&store, &a).await).await);
        let (rows, held) = takes(&store, &b).await;
        assert!(held && is_written(&store, rows).await);
        // The row of the lock has the revision that they have read.
        let tables = LockTables::new().unwrap();
        let lock = tables.locks.get(&store, &lock_key("seat").unwrap()).await.unwrap().unwrap();
        assert_eq!(lock.rev, 1);
        for rows in [waits, again] {
            let won = write_rows(&store, rows).await.unwrap();
            assert!(matches!(won, Won::No(at) if at.table == *tables.held.name()), "it was written");
        }
        assert_eq!(place(&store, b.run, &[Resource::exclusive("seat")]).await.unwrap(), Place::Holds);
    }

    #[tokio::test]
    async fn a_lock_leaves_no_row_and_whoever_would_wait_passes_those_that_are_gone() {
        let store = MemoryBackend::new();
        let (a, b) = (begins(&store, 1).await, begins(&store, 2).await);
        // It is not there.
        let (rows, _) = takes(&store, &kin(9)).await;
        assert!(is_written(&store, rows).await);
        let (rows, held) = takes(&store, &a).await;
        assert!(held && is_written(&store, rows).await);
        let (rows, held) = takes(&store, &b).await;
        assert!(!held && is_written(&store, rows).await);
        // One that comes writes the row of the first: whoever leaves knows its revision.
        let rows = leaves(&store, &a).await;
        assert_eq!(rows.iter().filter(|row| row.table.starts_with("hot.txn.wakes.")).count(), 1);
        assert!(is_written(&store, rows).await);
        assert_eq!(place(&store, b.run, &[Resource::exclusive("seat")]).await.unwrap(), Place::Holds);
        assert!(is_written(&store, leaves(&store, &b).await).await);
        let LockTables { locks, held, waits } = LockTables::new().unwrap();
        assert!(locks.stored(&store).await.unwrap().is_empty());
        assert!(
            held.stored(&store).await.unwrap().is_empty() && waits.stored(&store).await.unwrap().is_empty()
        );
    }
}

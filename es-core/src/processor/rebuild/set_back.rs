//! A build that is set back: to the start, for which it is emptied, or to a position, for which what was set aside after it
//! is forgotten, since its events come again. What was asked of it before is not asked any more.
//!
//! One commit moves its shares, and marks it in the row of the builds. No node works on it until the rest is done, in
//! [portions](super::portions), and the mark is taken away.

use uuid::Uuid;

use super::generations::Change;
use super::portions::{PORTION, Portions, begin_marked, empty};
use crate::cluster::{Share, Shares};
use crate::processor::worker::RACES;
use crate::processor::{AnyBackend, parked};
use crate::state::{Build, Checkpoint, Generations, SetBack, afresh, generations, sortable};
use crate::store::keys::behind;
use crate::store::{Commit, Position, Row, RowWrite, StoreError, Table, Tables, Won};

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

/// Does what is left of setting a build back; then work on it begins, and this node has it. Harmless if another one has
/// done it.
pub(crate) async fn finish_set_back(
    backend: &dyn AnyBackend,
    tables: &Tables,
    build: &Build,
    owner: Option<Uuid>,
) -> Result<(), StoreError> {
    let is_marked = |known: &Generations| known.is_set_back(build.generation).is_some();
    for _ in 0..RACES {
        let Some(known) = Generations::read(backend, &build.processor).await? else { return Ok(()) };
        let Some(SetBack { to, .. }) = known.value.is_set_back(build.generation) else { return Ok(()) };
        match to {
            None => empty(backend, build, is_marked).await?,
            Some(to) => forget(backend, build, to, is_marked).await?,
        }
        let Some(known) = Generations::read(backend, &build.processor).await? else { return Ok(()) };
        let done = Change::IsSetBack(build.generation);
        let Ok(value) = known.value.apply(done) else { return Ok(()) };
        let all = Shares::<Checkpoint>::checkpoints().of(backend, &build.to_string()).await?;
        let progress = Checkpoint::new(to.unwrap_or_default(), backend.head().await?);
        let mut rows = one_share(build, &all, progress, owner)?;
        rows.push(generations().put(&Row { value, ..known })?);
        let commit = Commit { rows, ..Commit::default() };
        let outcome = match to {
            None => backend.clear(tables, build.generation, commit).await,
            Some(_) => backend.commit(commit).await,
        };
        if Won::or_store_error(WHAT, backend, outcome).await?.is_yes() {
            return Ok(());
        }
    }
    Err(StoreError::transient(WHAT, std::io::Error::other("its shares are written all the time")))
}

const WHAT: &str = "setting a build back";

/// Forgets what was set aside after a position, and what was asked.
async fn forget(
    backend: &dyn AnyBackend,
    build: &Build,
    to: Position,
    is_marked: impl Fn(&Generations) -> bool + Send + Sync,
) -> Result<(), StoreError> {
    while let Some(mut portions) = begin_marked(backend, build, &is_marked).await? {
        let mut done = forget_parked(backend, build, to, &mut portions).await?
            && forget_others(backend, build, to, &mut portions).await?
            && portions.end().await?;
        // Whoever has asked is told that it was set back.
        for table in [build.requests().name(), afresh(build).name()] {
            done = done && portions.take(table, None).await?;
        }
        if done {
            return Ok(());
        }
        Portions::give_way().await;
    }
    Ok(())
}

/// Each event of a sequence in the commit that counts it no more; `false` as with [`Portions::add`].
async fn forget_parked(
    backend: &dyn AnyBackend,
    build: &Build,
    to: Position,
    portions: &mut Portions<'_>,
) -> Result<bool, StoreError> {
    let mut after = None::<String>;
    loop {
        let stored = build.parked().stored_page(backend, after.as_deref(), PORTION).await?;
        let Some(last) = stored.last() else { return Ok(true) };
        after = Some(last.key.clone());
        // One that cannot be read is between it and its key.
        for mut sequence in stored.into_iter().filter_map(|row| build.parked().decode(row).ok()) {
            if sequence.value.first > to {
                // What is left of it was taken in late, and what comes again waits behind that.
                let left = parked::positions(backend, build, &sequence, Position(0), 1).await?.pop();
                let left = left.map(|(_, position)| position).filter(|position| *position <= to);
                sequence.value.position = left.unwrap_or(sequence.value.position);
            }
            let mut from = to;
            loop {
                let page = parked::positions(backend, build, &sequence, from, PORTION).await?;
                let Some((_, last)) = page.last() else { break };
                from = *last;
                sequence.value.events = sequence.value.events.saturating_sub(page.len() as u64);
                let mut rows: Vec<RowWrite> =
                    page.iter().map(|(row, _)| build.parked_events().delete(row)).collect();
                let is_empty = sequence.value.events == 0;
                rows.push(match is_empty {
                    true => build.parked().delete(&sequence),
                    false => build.parked().put(&sequence)?,
                });
                if !portions.add(rows).await? {
                    return Ok(false);
                }
                // A page that is full was written: the next one writes the sequence again.
                if is_empty || page.len() < PORTION {
                    break;
                }
                sequence.rev += 1;
            }
        }
    }
}

/// What was skipped, or passed undecoded; `false` as with [`Portions::add`].
async fn forget_others(
    backend: &dyn AnyBackend,
    build: &Build,
    to: Position,
    portions: &mut Portions<'_>,
) -> Result<bool, StoreError> {
    for table in [build.undecoded().name().clone(), build.skipped().name().clone()] {
        // Their keys begin with positions.
        let (table, mut after) = (Table::<()>::own(table), behind(&sortable(to)));
        loop {
            let page = table.stored_page(backend, Some(&after), PORTION).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.key);
            if !portions.add(page.into_iter().map(|row| table.delete_at(row.key, row.rev))).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::rebuild::generations::Refused;
    use crate::state::Freeze;

    #[test]
    fn what_is_set_back_is_neither_worked_on_nor_frozen_until_that_is_done() {
        let both = Generations { previous: Some(2), last: 2, ..Generations::default() };
        let to = SetBack { generation: 1, to: Some(Position(7)) };
        let marked = both.apply(Change::SetBack(to)).unwrap();
        assert_eq!((marked.is_set_back(1), marked.is_set_back(2)), (Some(to), None));
        assert!(marked.role("p", 1).is_none() && marked.role("p", 2).is_some());
        let freeze = Freeze { until: Some(1), ..Freeze::default() };
        assert_eq!(marked.apply(Change::Freeze(freeze.clone())), Err(Refused::Switching));
        assert_eq!(marked.apply(Change::SetBack(to)), Err(Refused::Switching));
        assert_eq!(marked.apply(Change::IsSetBack(1)), Ok(both.clone()));
        assert_eq!(both.apply(Change::IsSetBack(1)), Err(Refused::Dropped));
        let frozen = both.apply(Change::Freeze(freeze)).unwrap();
        assert_eq!(frozen.apply(Change::SetBack(to)), Err(Refused::Switching));
        let gone = SetBack { generation: 3, to: None };
        assert_eq!(both.apply(Change::SetBack(gone)), Err(Refused::Dropped));
        // One that is given up meanwhile goes whole.
        let other = both.apply(Change::SetBack(SetBack { generation: 2, to: None })).unwrap();
        let dropped = other.apply(Change::Drop(2)).unwrap();
        assert_eq!((dropped.set_back.len(), dropped.leaving), (0, vec![2]));
    }

    #[test]
    fn a_version_that_goes_takes_no_other_step() {
        let goes = Generations { retiring: true, ..Generations::default() };
        for change in [
            Change::Begin(crate::state::Building::new(Position(0), crate::Timestamp::UNIX_EPOCH)),
            Change::Left(1),
        ] {
            assert_eq!(goes.apply(change), Err(Refused::Retired));
        }
    }
}

//! A reactor that has another name now: from one commit on, everything that is stored of it has the new one. Of what is
//! parked, most has it before that, a portion at a time, while nobody works on it.
//!
//! Before that commit the row of its code says, under the old name, which name it is to have: nodes that work on it finish
//! what is in flight and give it back, so no effect is repeated. The row stays. So a program that knows the reactor by the
//! old name finds where it is, stands by for as long as a node runs it there, and takes it back after that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::codes::after;
use super::take_over::{Missed, RAISE, TRIES, believed_until, furthest, made_by};
use super::taken::Taken;
use crate::cluster::{self, Share, Shares};
use crate::processor::AnyBackend;
use crate::processor::kinds::runner::Runner;
use crate::processor::rebuild::{Backfill, Portions, in_table, prepare};
use crate::state::{Build, Checkpoint, CodeRecord, Control, codes, control};
use crate::store::{Row, RowStore, RowWrite, StoreError, Table, write_rows};

/// For how many leases those who work on it may finish what is in flight.
const FINISHES: u32 = 3;
/// When it is looked again whether they have.
const AGAIN: Duration = Duration::from_millis(20);

/// The name that a processor has now, if another program has given it one: found by the rows of codes. While it is given
/// back, the last name leads to one of before.
pub(crate) fn follow<'c>(name: &str, renamed: impl Fn(&str) -> Option<&'c str>) -> Option<&'c str> {
    let (names, mut seen) = (std::iter::successors(renamed(name), |name| renamed(name)), BTreeSet::new());
    names.take_while(|next| *next != name && seen.insert(*next)).last()
}

/// The same, read one after the other: a row of another processor that cannot be read is none of its business.
async fn followed(backend: &dyn AnyBackend, name: &str) -> Result<Option<String>, StoreError> {
    let (mut renamed, mut next) = (BTreeMap::new(), Some(name.to_owned()));
    while let Some(name) = next.take_if(|name| !renamed.contains_key(name)) {
        let to = made_by(backend, &Build::first(&name)).await?.value.renamed;
        next.clone_from(&to);
        renamed.insert(name, to);
    }
    Ok(follow(name, |name| renamed.get(name)?.as_deref()).map(str::to_owned))
}

pub(crate) async fn has_shares(backend: &dyn AnyBackend, name: &str) -> Result<bool, StoreError> {
    Shares::<Checkpoint>::checkpoints().exist(backend, &Build::first(name).to_string()).await
}

/// The name that everything stored of a processor has, if that is not its own: the one that it says it had, or the one that
/// another program gave it.
pub(crate) async fn other_name(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
) -> Result<Option<String>, StoreError> {
    if runner.keeps().tables().is_some() || has_shares(backend, &runner.name()).await? {
        return Ok(None);
    }
    let was = runner.was().map(str::to_owned);
    for other in [followed(backend, &runner.name()).await?, was].into_iter().flatten() {
        if has_shares(backend, &other).await? {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// The name that a processor is to have no more, and whether it still is to: not while a node runs it that has given it that
/// name.
async fn stored_as(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
) -> Result<Option<(String, bool)>, StoreError> {
    let Some(other) = other_name(backend, runner).await? else { return Ok(None) };
    if runner.was() == Some(&*other) {
        return Ok(Some((other, true)));
    }
    let now = backend.now().await?.as_microsecond();
    let starts = made_by(backend, &Build::first(&other)).await?.value.until > now;
    let runs = cluster::alive(backend).await?.values().any(|node| node.codes.contains_key(&other));
    Ok(Some((other, !starts && !runs)))
}

/// What is in the way of renaming it, in words. Nothing is changed.
pub(crate) async fn name_obstacle(
    backend: &dyn AnyBackend,
    (runner, backfill): &(Arc<dyn Runner>, Backfill),
) -> Result<Option<String>, StoreError> {
    if let Some(line) = named_back(backend, &**runner).await? {
        return Ok(Some(line));
    }
    if *backfill != Backfill::Refuse {
        return Ok(None);
    }
    let Some((other, true)) = stored_as(backend, &**runner).await? else { return Ok(None) };
    let old = Build::first(&other);
    let before = made_by(backend, &old).await?.value;
    let of_old = Shares::<Checkpoint>::checkpoints().of(backend, &old.to_string()).await?;
    let missed = Missed::default().find(backend, &**runner, before.known(), furthest(&of_old)).await?;
    Ok(missed.map(|why| format!("{why}: {RAISE}")))
}

/// That what it was has an earlier name again, after a rollback, in words: it would begin at the head, beside that one.
async fn named_back(backend: &dyn AnyBackend, runner: &dyn Runner) -> Result<Option<String>, StoreError> {
    let Some(was) = runner.was() else { return Ok(None) };
    if has_shares(backend, &runner.name()).await? || other_name(backend, runner).await?.is_some() {
        return Ok(None);
    }
    let Some(now) = followed(backend, was).await?.filter(|now| *now != runner.name()) else {
        return Ok(None);
    };
    let says = format!("{was} has the name {now} again: say `was = {now:?}`");
    Ok(has_shares(backend, &now).await?.then_some(says))
}

/// The tables and rows of a processor are there, under its name or another one.
pub(crate) async fn prepare_named(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    lease: Duration,
    backfill: Backfill,
    taken: &Taken,
) -> Result<(), StoreError> {
    // It may be given another name at any time before it begins.
    while !settle_name(backend, runner, lease, backfill, taken).await? && !prepare(backend, runner).await? {}
    Ok(())
}

/// At the start of a program: what is stored under another name gets this one, unless another program has given it that
/// name and runs. Whether it had, or has, another one.
async fn settle_name(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    lease: Duration,
    backfill: Backfill,
    taken: &Taken,
) -> Result<bool, StoreError> {
    let Some((other, is_to)) = stored_as(backend, runner).await? else { return Ok(false) };
    if runner.was() != Some(&*other) {
        let processor = runner.name();
        tracing::warn!(
            processor,
            now = other,
            "another program has renamed it; it is continued from there once no node runs that"
        );
    }
    if is_to {
        taken.changed(&Build::first(&other));
        taken.changed(&Build::first(&runner.name()));
        rename(backend, runner, &other, lease, backfill).await?;
    }
    Ok(true)
}

/// Everything that is stored under another name has the processor's from now on. Whoever works on it is waited for, but not
/// for long.
pub(crate) async fn rename(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    from: &str,
    lease: Duration,
    backfill: Backfill,
) -> Result<(), StoreError> {
    let (shares, old, new) =
        (Shares::<Checkpoint>::checkpoints(), Build::first(from), Build::first(&runner.name()));
    let (mut missed, mut said, mut announced) = (Missed::default(), false, false);
    for tried in 0..=TRIES {
        let is_moved = announced && move_rows(backend, &old, &new, lease).await?;
        let (before, of_old) = (made_by(backend, &old).await?, shares.of(backend, &old.to_string()).await?);
        // With each try: until it has the new name, the nodes that work on it may pass more.
        let passed = missed.find(backend, runner, before.value.known(), furthest(&of_old)).await?;
        match (passed, backfill) {
            (Some(why), Backfill::Refuse) => {
                if announced {
                    take_back(backend, &new, &old).await?;
                }
                return Err(StoreError::misuse(format!("{why}: {RAISE}")));
            }
            (Some(why), _) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(build = %new, why, "goes on without the events that were passed");
            }
            _ => {}
        }
        if !std::mem::replace(&mut announced, true) {
            if !announce(backend, &old, &new, lease).await? {
                return take_back(backend, &old, &new).await;
            }
            let started = Instant::now();
            // If the store does not answer, that is not known.
            while started.elapsed() < lease * FINISHES && is_worked_on(backend, &old).await.unwrap_or(true) {
                tokio::time::sleep(AGAIN).await;
            }
            continue;
        }
        if of_old.is_empty() {
            // Another node was as fast.
            return Ok(());
        }
        if is_moved {
            let rows = moved(backend, runner, &of_old, before, (&old, &new), lease).await?;
            if write_rows(backend, rows).await?.is_yes() {
                tracing::info!(from, to = %new.processor, "a processor was renamed");
                return Ok(());
            }
        }
        if tried == 1 {
            for share in of_old {
                shares.interrupt(backend, share).await?;
            }
        }
    }
    let moving = std::io::Error::other("its shares are written all the time");
    Err(StoreError::transient("renaming a processor", moving))
}

/// Says which name it is to have: until then those who work on it give it back, and after that they stand by. `false` if
/// nothing has the old name.
async fn announce(
    backend: &dyn AnyBackend,
    old: &Build,
    new: &Build,
    lease: Duration,
) -> Result<bool, StoreError> {
    while has_shares(backend, &old.processor).await? {
        let mut row = made_by(backend, old).await?;
        row.value.renamed = Some(new.processor.to_string());
        row.value.until = believed_until(backend, lease).await?;
        if write_rows(backend, vec![codes().put(&row)?]).await?.is_yes() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The rows beside the shares have the new name already, all but those of the last commit: a portion at a time, while
/// nobody works on it. `false` if a worker of the old name still does, or another node moves them.
async fn move_rows(
    backend: &dyn AnyBackend,
    old: &Build,
    new: &Build,
    lease: Duration,
) -> Result<bool, StoreError> {
    let Some(mut portions) = Portions::begin(backend, old).await? else { return Ok(false) };
    if made_by(backend, old).await?.value.renamed.as_deref() != Some(&*new.processor) {
        let taken = std::io::Error::other("the program of before has taken its name back");
        return Err(StoreError::transient("renaming a processor", taken));
    }
    let mut moving = std::pin::pin!(all_tables(&mut portions, old, new));
    loop {
        tokio::select! {
            moved = &mut moving => return moved,
            // However long it takes, it is on its way.
            () = tokio::time::sleep(lease) => drop(announce(backend, old, new, lease).await?),
        }
    }
}

async fn all_tables(portions: &mut Portions<'_>, old: &Build, new: &Build) -> Result<bool, StoreError> {
    for (old, new) in old.tables().into_iter().zip(new.tables()) {
        if !portions.take(&old, Some(&new)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Nothing works under the other name. If it was announced that this one was to have it, whoever did that got no further:
/// the rows that have that name already come back, before anybody works on it again.
async fn take_back(backend: &dyn AnyBackend, from: &Build, to: &Build) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        // Over its first share: a node that would still move rows finds it changed, and then that it is to move none.
        let portions = Portions::begin(backend, to).await?;
        let mut code = made_by(backend, to).await?;
        if code.value.renamed.take().is_none() {
            return Ok(());
        }
        let kept = codes().put(&code)?;
        let done = match portions {
            None => write_rows(backend, vec![kept]).await?.is_yes(),
            Some(mut portions) => {
                all_tables(&mut portions, from, to).await? && portions.with(vec![kept]).await?
            }
        };
        if done {
            return Ok(());
        }
        Portions::give_way().await;
    }
    let moving = std::io::Error::other("other nodes change it all the time");
    Err(StoreError::transient("taking a name back", moving))
}

async fn is_worked_on(backend: &dyn AnyBackend, build: &Build) -> Result<bool, StoreError> {
    // Shares first: whoever has one has said before that it is alive.
    let shares = Shares::<Checkpoint>::checkpoints().of(backend, &build.to_string()).await?;
    let alive = cluster::alive(backend).await?;
    Ok(shares.iter().filter_map(|share| share.owner).any(|owner| alive.contains_key(&owner)))
}

/// The rows of one commit: what the old name had has the new one. A worker of before finds its share written, and so does
/// whoever has read what was parked.
async fn moved(
    backend: &dyn AnyBackend,
    runner: &dyn Runner,
    of_old: &[Share<Checkpoint>],
    before: Row<CodeRecord>,
    (old, new): (&Build, &Build),
    lease: Duration,
) -> Result<Vec<RowWrite>, StoreError> {
    let (shares, until) = (Shares::<Checkpoint>::checkpoints(), believed_until(backend, lease).await?);
    let mut rows = Vec::new();
    for share in of_old {
        let next = Share { group: new.to_string().into(), ..share.owned_by(None) };
        rows.push(shares.put(&shares.placed(backend, next).await?)?);
        rows.push(shares.retire(share)?);
    }
    for (old, new) in old.tables().into_iter().zip(new.tables()) {
        rows.extend(moved_table(backend, &old, &new).await?);
    }
    // Under the old name a row stays: whoever asks by what was read before finds another one, and looks for the name again.
    match control().get(backend, &old.processor).await? {
        Some(asked) => {
            let rev = control().get(backend, &new.processor).await?.map_or(0, |row| row.rev);
            let key = new.processor.to_string();
            let value = Control::default();
            let [old, new] = [Row { value, ..asked.clone() }, Row { key, rev, value: asked.value }];
            rows.extend([control().put(&old)?, control().put(&new)?]);
        }
        None => rows.push(control().put(&Row::new(&*old.processor, Control::default()))?),
    }
    let after_it = made_by(backend, new).await?;
    let from = of_old.iter().map(|share| share.progress.position).min().unwrap_or_default();
    let made = CodeRecord { until, ..after(before.value.known(), &runner.code(), from) };
    let renamed = CodeRecord { renamed: Some(new.processor.to_string()), ..before.value.clone() };
    rows.push(codes().put(&Row { value: made, ..after_it })?);
    rows.push(codes().put(&Row { value: renamed, ..before })?);
    Ok(rows)
}

/// All rows of a table, in another one.
async fn moved_table(
    rows: &dyn RowStore,
    old: &Arc<str>,
    new: &Arc<str>,
) -> Result<Vec<RowWrite>, StoreError> {
    let table = Table::<()>::own(old.clone());
    let stored = table.stored(rows).await?;
    let gone: Vec<_> = stored.iter().map(|row| table.delete_at(row.key.clone(), row.rev)).collect();
    Ok(gone.into_iter().chain(in_table(rows, stored, new).await?).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;
    use crate::memory::MemoryBackend;
    use crate::processor::kinds::runner::{Keeps, Opening, Session};
    use crate::store::{EventFilter, RecordedEvent};

    /// A reactor that has one name, and had another one.
    struct Named(&'static str, Option<&'static str>);

    #[async_trait::async_trait]
    impl Runner for Named {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn was(&self) -> Option<&'static str> {
            self.1
        }
        fn filter(&self) -> EventFilter {
            EventFilter::all()
        }
        fn keeps(&self) -> Keeps {
            Keeps::Nothing
        }
        fn keys(&self, _: &RecordedEvent) -> Result<Vec<String>, BoxError> {
            Ok(Vec::new())
        }
        fn open(&self, _: Opening<'_>) -> Box<dyn Session> {
            unreachable!("nothing works on it")
        }
    }

    #[tokio::test]
    async fn what_has_another_name_by_now_does_not_begin_at_the_head() {
        let (backend, lease) = (MemoryBackend::new(), Duration::from_secs(1));
        let [mails, letters] = [Named("mails", None), Named("letters", Some("mails"))];
        assert!(prepare(&backend, &mails).await.unwrap());
        for (from, to) in [(&mails, &letters), (&letters, &mails), (&mails, &letters)] {
            // The other program has looked, and is about to begin.
            assert!(!settle_name(&backend, from, lease, Backfill::Skip, &Taken::default()).await.unwrap());
            rename(&backend, to, from.0, lease, Backfill::Skip).await.unwrap();
            assert!(!prepare(&backend, from).await.unwrap());
            assert_eq!(
                [has_shares(&backend, from.0).await.unwrap(), has_shares(&backend, to.0).await.unwrap()],
                [false, true]
            );
        }
    }

    #[test]
    fn the_last_name_is_found_also_while_it_is_given_back() {
        let renames = |rows: &'static [(&str, &str)]| {
            move |name: &str| rows.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
        };
        let twice = renames(&[("mails", "letters"), ("letters", "post")]);
        assert_eq!([follow("mails", twice), follow("letters", twice)], [Some("post"); 2]);
        assert_eq!(follow("post", twice), None);
        // The first program is about to take it back.
        let back = renames(&[("mails", "letters"), ("letters", "post"), ("post", "mails")]);
        assert_eq!([follow("mails", back), follow("letters", back)], [Some("post"), Some("mails")]);
        // The second one is.
        let back = renames(&[("mails", "letters"), ("letters", "post"), ("post", "letters")]);
        assert_eq!([follow("mails", back), follow("letters", back)], [Some("post"); 2]);
    }
}

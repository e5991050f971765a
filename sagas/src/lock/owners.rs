//! Whether those who have locks, or wait for them, are still there: a run that has ended, or is gone, has none.

use std::collections::{BTreeMap, BTreeSet};

use es_core::store::{RowStore, StoreError, StoredRow};
use uuid::Uuid;

use crate::saga::Outcome;
use crate::transaction::{About, Kin, Record, RunStatus, Tables, Verb, head_key, journal_of};

/// How many sagas stand within each other, at most, as far as is looked.
const DEEP: usize = 16;

/// What is known of some runs.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Those that have ended, or are not there.
    pub(super) gone: BTreeSet<Uuid>,
    /// Those that go forward, as far as their heads say.
    pub(super) running: BTreeSet<Uuid>,
    /// The runs that those are steps of.
    parents: BTreeMap<Uuid, Parent>,
}

/// Whether a person has sent a run forward, as far as its journal can be read.
pub(super) async fn goes_forward(rows: &dyn RowStore, kin: &Kin) -> Result<bool, StoreError> {
    let Ok(tables) = Tables::of(&kin.saga, kin.version) else { return Ok(false) };
    let mut forward = false;
    for row in tables.journal.stored_below(rows, &journal_of(kin.run), None, usize::MAX).await? {
        let Ok(Record::Resolved { verb, .. }) = tables.journal.decode(row).map(|row| row.value.record) else {
            continue;
        };
        match verb {
            Verb::GoForward => forward = true,
            Verb::Cancel | Verb::Parent { ends: Outcome::Undone(_) } => forward = false,
            _ => {}
        }
    }
    Ok(forward)
}

#[derive(Clone, Debug)]
struct Parent {
    of: Kin,
    /// The child has run, and waits for it; else it waits for the child.
    is_waited_for: bool,
}

impl Owners {
    /// Looks some runs up: in one read for each saga. One whose head cannot be read is still there.
    pub(super) async fn look(rows: &dyn RowStore, runs: Vec<Kin>) -> Result<Self, StoreError> {
        let mut owners = Self::default();
        owners.add(rows, runs).await?;
        Ok(owners)
    }

    async fn add(&mut self, rows: &dyn RowStore, runs: Vec<Kin>) -> Result<(), StoreError> {
        let mut by_saga = BTreeMap::<String, BTreeSet<Uuid>>::new();
        for kin in runs {
            by_saga.entry(kin.saga).or_default().insert(kin.run);
        }
        for (saga, runs) in by_saga {
            // A name that is none has no heads: nobody knows of its runs.
            let Ok(tables) = Tables::of(&saga, 0) else { continue };
            let keys = runs.iter().map(|run| head_key(*run)).collect::<Result<Vec<_>, _>>()?;
            let heads = rows.rows(tables.heads.name(), &keys).await?;
            for (run, head) in runs.into_iter().zip(heads) {
                self.note(&tables, run, head);
            }
        }
        Ok(())
    }

    fn note(&mut self, tables: &Tables, run: Uuid, head: Option<StoredRow>) {
        let Some(head) = head.filter(|head| !About::of(tables, head).ended) else {
            self.gone.insert(run);
            return;
        };
        let Ok(head) = tables.heads.decode(head) else { return };
        if head.value.status == RunStatus::Running {
            self.running.insert(run);
        }
        let is_waited_for = head.value.waits_for_parent();
        self.parents.extend(head.value.parent.map(|parent| (run, Parent { of: parent.of, is_waited_for })));
    }

    /// Who waits for whom because one is a step of the other: also of those around them.
    pub(super) async fn families(
        &mut self,
        rows: &dyn RowStore,
    ) -> Result<Vec<(Uuid, Kin, bool)>, StoreError> {
        let (mut families, mut seen) = (Vec::new(), BTreeSet::new());
        for _ in 0..DEEP {
            let new = self.parents.iter().filter(|(run, _)| !seen.contains(*run));
            let new: Vec<(Uuid, Parent)> = new.map(|(run, parent)| (*run, parent.clone())).collect();
            if new.is_empty() {
                break;
            }
            seen.extend(new.iter().map(|(run, _)| *run));
            self.add(rows, new.iter().map(|(_, parent)| parent.of.clone()).collect()).await?;
            families.extend(new.into_iter().map(|(run, parent)| (run, parent.of, parent.is_waited_for)));
        }
        Ok(families)
    }
}

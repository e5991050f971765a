//! What was decided about a transaction, for whoever asks: who finds nothing decides.

use es_core::store::{BranchId, Fate, Row, RowWrite, StoreError, write_rows};
use es_core::{Backend, chain};
use uuid::Uuid;

use super::machine::Decision;
use super::manager::{Inner, TRIES};
use super::recovery::Failing;
use super::rows::{self, Decided, Floor, Open};

impl<B: Backend> Inner<B> {
    /// What was decided about a transaction, if anything was.
    pub(super) async fn decided(&self, txn: Uuid) -> Result<Option<Decision>, StoreError> {
        let row = self.tables.decisions.get(&self.backend, &rows::key(txn)?).await?;
        Ok(row.map(|row| row.value.decision))
    }

    /// What was decided about a transaction. If nothing was, it is now: to abort. What is committed all the same, by hand, is
    /// then found by the list of all who may have a branch of it.
    pub(super) async fn decision(&self, txn: Uuid) -> Result<Decision, StoreError> {
        for _ in 0..TRIES {
            // Whoever loses the insert reads the winner's in a statement behind it: in the same it would read nothing.
            if let Some(decision) = self.decided(txn).await? {
                return Ok(decision);
            }
            if self.abort(txn).await? {
                return Ok(Decision::Abort);
            }
        }
        Err(StoreError::transient("deciding", std::io::Error::other("others decide at the same time")))
    }

    /// Tries to insert the decision to abort.
    async fn abort(&self, txn: Uuid) -> Result<bool, StoreError> {
        // Written as it was read: a decision that is forgotten after that is not taken for none.
        let floor = self.floor().await?;
        if txn < floor.value.floor {
            return Err(StoreError::misuse(format!(
                "what was decided about transaction {txn} is not known any more: a person has to find out whether it was \
                 committed, and to end what is prepared of it (`TwoPhase::strays`)"
            )));
        }
        let open = Open::new(Decision::Abort, self.participants.keys().cloned(), self.ids.clock().now());
        let mut writes = self.decides(txn, open).await?;
        writes.push(self.tables.floor.put(&floor)?);
        Ok(write_rows(&self.backend, writes).await?.is_yes())
    }

    pub(super) async fn floor(&self) -> Result<Row<Floor>, StoreError> {
        let found = self.tables.floor.get(&self.backend, rows::FLOOR).await?;
        Ok(found.unwrap_or_else(|| Row::new(rows::FLOOR, Floor::default())))
    }

    /// What inserts a decision, with its list: what stands there by now stays on it.
    pub(super) async fn decides(&self, txn: Uuid, mut open: Open) -> Result<Vec<RowWrite>, StoreError> {
        let (key, tables) = (rows::key(txn)?, &self.tables);
        let branches = match open.decision {
            Decision::Commit => open.branches.keys().cloned().collect(),
            Decision::Abort => Vec::new(),
        };
        let decided = tables.decisions.insert(key.clone(), Decided { decision: open.decision, branches })?;
        let found = match tables.open.get(&self.backend, &key).await {
            // It is shown to people as it is.
            Err(StoreError::Corrupt { .. }) => return Ok(vec![decided]),
            found => found?,
        };
        let rev = found.as_ref().map_or(0, |row| row.rev);
        open.branches.extend(found.into_iter().flat_map(|row| row.value.branches));
        Ok(vec![tables.open.put(&Row { key, rev, value: open })?, decided])
    }

    /// What was decided about a transaction, or is now, unless a person has to decide: a branch is committed.
    pub(super) async fn asks_store(&self, txn: Uuid) -> Result<Decision, StoreError> {
        if let Some(decision) = self.decides_with_care(txn, None, &Failing::default()).await? {
            return Ok(decision);
        }
        for participant in self.participants.values() {
            let prepared = self.in_time(participant.prepared(self.backend.identity())).await?;
            if prepared.iter().any(|prepared| prepared.id.txn() == txn) {
                return Err(StoreError::misuse(format!(
                    "transaction {txn} is committed in one database and prepared in another, and nothing was decided: a \
                     person has to decide (`TwoPhase::strays`)"
                )));
            }
        }
        // There is nothing to decide any more: what is committed waits for a person on the list.
        self.decision(txn).await
    }

    /// What became of a transaction whose only writer is known.
    pub(super) async fn asks_one(&self, txn: Uuid, name: &str) -> Result<Decision, StoreError> {
        let (id, participant) = (self.branch(txn, name)?, self.named(name)?);
        committed(&id, self.in_time(participant.outcome(&id)).await?)
    }

    /// What became of a transaction of which nothing is known: it is decided, or was the commit of one writer alone.
    pub(super) async fn asks_all(&self, txn: Uuid) -> Result<Decision, StoreError> {
        if let Some(decision) = self.decided(txn).await? {
            return Ok(decision);
        }
        // No writer commits alone any more, once it was asked about here.
        for name in self.participants.keys() {
            if self.asks_one(txn, name).await? == Decision::Commit {
                return Ok(Decision::Commit);
            }
        }
        let decision = self.asks_store(txn).await?;
        if let Err(error) = self.settle(txn).await {
            tracing::debug!(%txn, error = chain(&error), "what is prepared of it is left to recovery");
        }
        Ok(decision)
    }
}

/// What the fate of the only writer says of its transaction.
fn committed(id: &BranchId, fate: Fate) -> Result<Decision, StoreError> {
    match fate {
        Fate::Committed => Ok(Decision::Commit),
        Fate::Aborted => Ok(Decision::Abort),
        Fate::Forgotten => Err(StoreError::misuse(format!(
            "participant {:?} does not go back to transaction {}: nobody can know",
            id.name(),
            id.txn()
        ))),
    }
}

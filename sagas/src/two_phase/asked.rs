//! What was decided about a transaction, for whoever asks: who finds nothing decides.

use std::collections::BTreeSet;

use es_core::store::{BranchId, Fate, Row, RowWrite, StoreError, StoredRow, write_rows};
use es_core::{Backend, chain};
use uuid::Uuid;

use super::machine::Decision;
use super::manager::{Inner, TRIES};
use super::recovery::{Care, Failing};
use super::rows::{self, Decided, Floor, Open, Waits};

/// What came of a try to decide.
enum Tried {
    Decided(Decided),
    /// It is noted that an operator is to.
    Noted,
    /// Others write its rows.
    Overtaken,
}

impl<B: Backend> Inner<B> {
    /// What was decided about a transaction, if anything was.
    pub(super) async fn decided(&self, txn: Uuid) -> Result<Option<Decided>, StoreError> {
        let row = self.tables.decisions.get(&self.backend, &rows::key(txn)?).await?;
        Ok(row.map(|row| row.value))
    }

    /// What was decided about a transaction. If nothing was, it is now: to abort. What is committed all the same, by hand, is
    /// then found by the list of all who may have a branch of it; also of those that could not be asked before. None: it is
    /// noted that an operator is to decide.
    pub(super) async fn decision(
        &self,
        txn: Uuid,
        unasked: &BTreeSet<String>,
    ) -> Result<Option<Decided>, StoreError> {
        self.decides_to_abort(txn, Some(unasked)).await
    }

    /// The same, by its coordinator, which has taken it back, whatever an operator is to decide.
    pub(super) async fn gives_up(&self, txn: Uuid) -> Result<Decision, StoreError> {
        let decided = self.decides_to_abort(txn, None).await?;
        Ok(decided.ok_or_else(|| theirs(txn))?.decision)
    }

    /// By its coordinator, or by others, who could not ask these.
    async fn decides_to_abort(
        &self,
        txn: Uuid,
        unasked: Option<&BTreeSet<String>>,
    ) -> Result<Option<Decided>, StoreError> {
        for n in 0..TRIES {
            // Whoever loses the insert reads the winner's in a statement behind it: in the same it would read nothing.
            if let Some(decided) = self.decided(txn).await? {
                return Ok(Some(decided));
            }
            match self.abort(txn, unasked).await? {
                Tried::Decided(decided) => return Ok(Some(decided)),
                Tried::Noted => return Ok(None),
                Tried::Overtaken => self.pause(n).await,
            }
        }
        Err(StoreError::transient("deciding", std::io::Error::other("others decide at the same time")))
    }

    /// Tries to insert the decision to abort.
    async fn abort(&self, txn: Uuid, unasked: Option<&BTreeSet<String>>) -> Result<Tried, StoreError> {
        // Written as it was read: a decision that is forgotten after that is not taken for none.
        let floor = self.floor(txn).await?;
        if txn < floor.value.floor {
            return Err(forgotten(txn));
        }
        let key = rows::key(txn)?;
        let found = self.tables.aside.get(&self.backend, &key).await?;
        if unasked.is_some() && found.as_ref().is_some_and(|row| row.value.decision.is_none()) {
            return Ok(Tried::Noted);
        }
        let mut open = Open::new(Decision::Abort, self.participants.keys().cloned(), self.ids.clock().now());
        open.branches.extend(unasked.into_iter().flatten().map(|name| (name.clone(), Waits::unasked())));
        let rev = found.as_ref().map_or(0, |row| row.rev);
        open.branches.extend(found.into_iter().flat_map(|row| row.value.branches));
        let decided = Decided { decision: Decision::Abort, branches: Vec::new(), adopted: false };
        let writes = vec![
            self.tables.aside.put(&Row { key: key.clone(), rev, value: open })?,
            self.tables.decisions.insert(key, decided.clone())?,
            self.tables.floor.put(&floor)?,
        ];
        let is_written = write_rows(&self.backend, writes).await?.is_yes();
        Ok(if is_written { Tried::Decided(decided) } else { Tried::Overtaken })
    }

    /// The floor, in the row that stands for it to this transaction.
    pub(super) async fn floor(&self, txn: Uuid) -> Result<Row<Floor>, StoreError> {
        let mut floors = self.floors(&[rows::floor_key(txn.as_u128())]).await?;
        floors
            .pop()
            .ok_or_else(|| StoreError::Corrupt { what: "a store that gives no row for a key".to_owned() })
    }

    /// The floor, in these rows.
    pub(super) async fn floors(&self, keys: &[String]) -> Result<Vec<Row<Floor>>, StoreError> {
        let table = &self.tables.floor;
        let asked: Vec<_> = keys.iter().cloned().chain([rows::FLOOR.to_owned()]).collect();
        let mut found = self.backend.rows(table.name(), &asked).await?;
        let decode = |row: Option<StoredRow>| row.map(|row| table.decode(row)).transpose();
        let before = decode(found.pop().flatten())?.map_or_else(Floor::default, |row| row.value);
        let rows = keys.iter().zip(found).map(|(key, row)| {
            let mut row = decode(row)?.unwrap_or_else(|| Row::new(key.as_str(), before));
            row.value.floor = row.value.floor.max(before.floor);
            Ok(row)
        });
        rows.collect()
    }

    /// Writes down that an operator has to decide, unless it was decided to abort; in the order in which the store takes it.
    /// What was decided by then.
    pub(super) async fn notes_torn(&self, txn: Uuid, open: Open) -> Result<Option<Decision>, StoreError> {
        let write: RowWrite = self.tables.aside.insert(rows::key(txn)?, open)?;
        match write_rows(&self.backend, vec![write]).await?.is_yes() {
            true => Ok(None),
            false => Ok(self.decided(txn).await?.map(|decided| decided.decision)),
        }
    }

    /// What was decided about a transaction, or is now, unless a person has to decide: a branch is committed.
    pub(super) async fn asks_store(&self, txn: Uuid) -> Result<Decision, StoreError> {
        match self.decides_with_care(txn, None, &Failing::default()).await? {
            Care::End(decision) => Ok(decision),
            Care::Waits(names) => {
                let why = format!("{names:?} cannot be asked whether it is committed there");
                Err(StoreError::transient("asking what became of it", std::io::Error::other(why)))
            }
            // Also where nothing is prepared any more: it was not aborted.
            Care::Torn if txn < self.floor(txn).await?.value.floor => Err(forgotten(txn)),
            Care::Torn => Err(theirs(txn)),
        }
    }

    /// What became of a transaction whose only writer is known.
    pub(super) async fn asks_one(&self, txn: Uuid, name: &str) -> Result<Decision, StoreError> {
        let (id, participant) = (self.branch(txn, name)?, self.named(name)?);
        committed(&id, self.in_time(participant.outcome(&id)).await?)
    }

    /// What became of a transaction of which nothing is known: it is decided, or was the commit of one writer alone.
    pub(super) async fn asks_all(&self, txn: Uuid) -> Result<Decision, StoreError> {
        if let Some(decided) = self.decided(txn).await? {
            return Ok(decided.decision);
        }
        // No writer commits alone any more, once it was asked about here.
        for name in self.participants.keys() {
            if self.asks_one(txn, name).await? == Decision::Commit {
                return Ok(Decision::Commit);
            }
        }
        let decision = self.asks_store(txn).await?;
        if let Err(error) = self.settle(txn, &Failing::default()).await {
            tracing::debug!(%txn, error = chain(&error), "what is prepared of it is left to recovery");
        }
        Ok(decision)
    }
}

/// That an operator has to decide.
fn forgotten(txn: Uuid) -> StoreError {
    StoreError::misuse(format!(
        "what was decided about transaction {txn} is not known any more: a person has to find out whether it was committed, and \
         to end what is prepared of it (`TwoPhase::strays`)"
    ))
}

pub(super) fn theirs(txn: Uuid) -> StoreError {
    StoreError::misuse(format!(
        "transaction {txn} is committed in one database and prepared in another, or was, and nothing was decided: a person has \
         to decide (`TwoPhase::strays`)"
    ))
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

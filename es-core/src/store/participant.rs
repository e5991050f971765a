//! What takes part in a transaction that spans several databases or services.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::limits::{self, LimitError};

/// Longest name of a branch: PostgreSQL has 199 bytes for all that names a prepared transaction.
const MAX_BRANCH: usize = 80;

/// Names a branch: the part of a transaction that one participant does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId {
    cluster: Uuid,
    txn: Uuid,
    name: Arc<str>,
}

impl BranchId {
    /// A branch of a transaction of a cluster, which is the identity of the store that has the decisions.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if the name is no stored name of at most 80 bytes, or has a `:`.
    pub fn new(cluster: Uuid, txn: Uuid, name: impl Into<Arc<str>>) -> Result<Self, LimitError> {
        let name = name.into();
        check_name(&name)?;
        Ok(Self { cluster, txn, name })
    }

    /// The store that has the decision.
    #[must_use]
    pub const fn cluster(&self) -> Uuid {
        self.cluster
    }

    /// The transaction.
    #[must_use]
    pub const fn txn(&self) -> Uuid {
        self.txn
    }

    /// The branch, among those of its transaction.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What [`Display`](fmt::Display) has written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let mut id = || Uuid::try_parse(parts.next()?).ok();
        let (cluster, txn) = (id()?, id()?);
        // Ids can be written in other ways, which would name something else.
        Self::new(cluster, txn, parts.next()?).ok().filter(|id| id.to_string() == text)
    }
}

/// `cluster:transaction:branch`, the ids in 32 digits.
impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.cluster.simple(), self.txn.simple(), self.name)
    }
}

fn check_name(name: &str) -> Result<(), LimitError> {
    const FIELD: &str = "name of a participant";
    limits::stored_name(FIELD, name)?;
    let wrong = |why| LimitError::Invalid { field: FIELD, value: limits::cut(name), why };
    match name.contains(':') {
        true => Err(wrong("has a `:`, which stands between the parts of a branch")),
        false if name.len() > MAX_BRANCH => Err(wrong("is longer than 80 bytes")),
        false => Ok(()),
    }
}

/// What became of a branch, by what its participant has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "each has to be judged against the decision")]
pub enum Fate {
    /// It is committed.
    Committed,
    /// Nothing of it is committed, and it is not prepared now.
    Aborted,
    /// The participant does not go back so far: nobody can know.
    Forgotten,
}

/// Which branches of a transaction are committed at a participant, by what it has kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "who asks has to do something about each")]
pub enum Marked {
    /// Those of these names, and no other. Each may have been begun under a name that the participant has no more.
    Committed(BTreeSet<String>),
    /// No mark is left, and the participant does not go back so far: nobody can know.
    Forgotten,
}

/// A branch that is prepared: it waits for a decision, and holds its locks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "which, and for how long")]
pub struct Prepared {
    /// Which.
    pub id: BranchId,
    /// For how long it has been prepared, by the participant's clock.
    pub age: Duration,
}

/// What takes part in transactions that span several: a resource manager, in the words of X/Open.
///
/// The law: what is prepared stays so, through crashes, until [`commit`](Self::commit) or [`abort`](Self::abort) of its id;
/// by itself it does neither. All methods but [`begin`](Self::begin) may be called from any process, at the same time and
/// again: what has been done is answered like the first time. An error means that it may have been done, or be done late.
///
/// `es-postgres` brings one for PostgreSQL. A service can be one, over any protocol: `begin` makes what the caller talks to
/// it with, under the id, and the service keeps what it was asked for until it is told.
#[async_trait]
pub trait Participant: fmt::Debug + Send + Sync + 'static {
    /// What the caller works with in a transaction.
    type Branch: Branch;

    /// Its name, which is stored: the same in every process, and for as long as a branch waits. Under another name what waits
    /// is not found by itself.
    fn name(&self) -> &str;

    /// Whether it can take part.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it never can, with what to do. [`StoreError::Transient`] if it cannot be asked now.
    async fn check(&self) -> Result<(), StoreError>;

    /// Begins a branch. Nothing of it lasts before it is prepared or committed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be begun now.
    async fn begin(&self, id: &BranchId) -> Result<Self::Branch, StoreError>;

    /// Commits a branch that was prepared, and says what became of it: [`Fate::Aborted`] if it is gone without a trace.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be done or found out now.
    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError>;

    /// Takes back a branch that may have been prepared, and may never have begun, and says what became of it:
    /// [`Fate::Committed`] only if it was prepared, and somebody has committed it since.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be done or found out now.
    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError>;

    /// Which branches of the transaction of this id were prepared here, and committed since, whatever their names. Of one that
    /// is not among them it says only that it is not committed: it may be prepared still, or not have begun. It ends nothing,
    /// and keeps nothing from being committed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be found out now: that says nothing of what is there.
    async fn was_committed(&self, id: &BranchId) -> Result<Marked, StoreError>;

    /// What became of a branch that was committed without being prepared ([`Branch::commit`]): [`Fate::Committed`] of no
    /// other. One that has not been committed so never will be.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be found out now.
    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError>;

    /// Every branch of a cluster that is prepared here, whoever has begun it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be asked: that says nothing of what is there.
    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError>;

    /// Every branch of any other cluster that is prepared here: a person may have to end it, should its own be gone. A
    /// participant that cannot tell says that there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be asked.
    async fn of_others(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        let _ = cluster;
        Ok(Vec::new())
    }
}

/// A branch that has begun. Dropping it takes it back.
#[async_trait]
pub trait Branch: Send + Sized + 'static {
    /// Whether it has written anything. One that has not is ended instead of prepared, and has no part in the outcome.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it has failed, or was ended by its own statements.
    async fn has_written(&mut self) -> Result<bool, StoreError>;

    /// Ends one that has written nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: then what it has read may not hold.
    async fn end(self) -> Result<(), StoreError>;

    /// Votes: if it is prepared, it can be committed from now on, whatever happens.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it is not prepared; or if nobody has heard, then it may be.
    async fn prepare(self) -> Result<(), StoreError>;

    /// Commits it, as the only one of its transaction that has written.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: it may be committed. [`Participant::outcome`] says so.
    async fn commit(self) -> Result<(), StoreError>;

    /// Takes it back.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: it is taken back without that.
    async fn rollback(self) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_read_back_from_its_name() {
        let id = BranchId::new(Uuid::from_u128(1), Uuid::from_u128(10), "stock").unwrap();
        let text = id.to_string();
        assert_eq!(text, "00000000000000000000000000000001:0000000000000000000000000000000a:stock");
        assert_eq!(BranchId::parse(&text), Some(id));
        for other in [
            "",
            "1:2:3",
            "stock",
            &text[..64],
            &format!("{text}:more"),
            &format!("{text}'"),
            &text.replace('a', "A"),
        ] {
            assert_eq!(BranchId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_fits_into_that_of_a_prepared_transaction() {
        let named = |name: &str| BranchId::new(Uuid::nil(), Uuid::nil(), name);
        assert!(named(&"x".repeat(80)).is_ok());
        for wrong in ["", "a:b", "a'b", "a b", &"x".repeat(81)] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}

//! The builds of a projection: several generations of its tables and rows, one of which queries read.

use async_trait::async_trait;

use super::{Commit, CommitError, Committed, RowStore, StoreError, StoredRow};

/// The versions and generations of a projection: its own tables, and its rows in [`RowStore`]. Object-safe.
#[async_trait]
pub trait Builds: RowStore {
    /// Makes the tables of one generation of a projection, if they are not there. Other versions of the projection stay
    /// as they are. The first version that is installed has the [plain names](Self::publish).
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the DDL does not run, its tables belong to another program, or this backend cannot have
    /// a second generation of them.
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError>;

    /// Whether [`install`](Self::install) would be refused. Nothing is changed: what has to be tried for that is undone.
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install).
    async fn check(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError>;

    /// Empties a generation (its tables, its [rows](Tables::rows) and those of tables below that name) and applies
    /// `commit`, which writes none of them, in one transaction.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done.
    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError>;

    /// The same as [`clear`](Self::clear), but the tables go as well. Harmless if there are none.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done. [`StoreError::Misuse`] for the generation that queries read.
    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError>;

    /// Makes a generation the one that queries of its version read, and applies `commit`, in one transaction. If its version
    /// has the plain names, they mean this generation then.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done.
    async fn switch(&self, tables: &Tables, to: Generation, commit: Commit)
    -> Result<Committed, CommitError>;

    /// Gives the plain names of a projection's tables to this version: they mean its current generation from then on, for
    /// [`begin`](super::Backend::begin) and for readers that are not apps. Applies `commit` in the same transaction.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done. [`StoreError::Misuse`] if the version is not installed.
    async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError>;

    /// Removes a version of a projection: the tables and [rows](Tables::rows) of all its generations, and what the backend
    /// knows of them. Applies `commit` in the same transaction. If it had the plain names, the highest version that is left
    /// has them then. What the framework notes about it (in tables of its own, such as `checkpoints`) stays: it fences its
    /// workers. Harmless if there is no such version.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done.
    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError>;

    /// The rows and tables of all builds as they are now: what is written after that is not seen through it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError>;

    /// How the tables of two generations differ, in a [snapshot](RowSnapshot::compare).
    ///
    /// # Errors
    ///
    /// As [`RowSnapshot::compare`].
    async fn compare(
        &self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError> {
        self.row_snapshot().await?.compare(tables, old, new, samples).await
    }
}

/// The rows and tables of builds at one moment.
#[async_trait]
pub trait RowSnapshot: std::fmt::Debug + Send {
    /// Rows of a table in key order (bytewise) after a key, at most `limit` of them. The table is the one that is written,
    /// not a name that stands for it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn scan(
        &mut self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError>;

    /// How the tables of two generations differ; nothing for a projection without tables. Keyed views are compared by the
    /// engine.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read; [`StoreError::Misuse`] if a generation is not installed.
    async fn compare(
        &mut self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError>;
}

/// Counts the builds of one version of a projection, from 1. Several may exist next to each other; queries read one.
pub type Generation = u32;

/// How a table of one generation differs from that of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct Difference {
    /// The table, as the projection names it.
    pub table: String,
    /// Rows of the new one whose key the old one has not.
    pub added: u64,
    /// Rows of the old one whose key the new one has not.
    pub removed: u64,
    /// Rows that both have and that differ. A table without a primary key has none: a change is a removal and an
    /// addition.
    pub changed: u64,
    /// Some of them, to be read by an operator; long ones may be cut, those of a report after 2,000 characters.
    pub samples: Vec<Sample>,
}

/// A row that differs, as text (JSON, where the backend has it).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "before and after")]
pub struct Sample {
    /// The row of the old generation, if it has it.
    pub old: Option<String>,
    /// The row of the new generation, if it has it.
    pub new: Option<String>,
}

/// What a projection keeps in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a projection is a name, a version and a schema")]
pub struct Tables {
    /// The projection's stored name.
    pub name: &'static str,
    /// Its version: another one is another projection.
    pub version: u32,
    /// The DDL of its own tables, in the backend's SQL; empty for none.
    pub schema: &'static str,
}

impl Tables {
    /// What queries and operators call it: `name/version`.
    #[must_use]
    pub fn stored_name(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }

    /// The table of [`RowStore`] that one generation of a keyed view has: `name/version~generation`. What else belongs
    /// to the generation is in tables below it: `name/version~generation/..`.
    #[must_use]
    pub fn rows(&self, generation: Generation) -> String {
        format!("{}/{}~{generation}", self.name, self.version)
    }
}

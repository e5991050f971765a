//! The builds of a projection: several generations of its tables and rows, one of which queries read.

use async_trait::async_trait;

use super::{Commit, CommitError, Committed, RowStore, StoreError};

/// The generations of a projection: its own tables, and its rows in [`RowStore`]. Object-safe.
#[async_trait]
pub trait Builds: RowStore {
    /// Makes the tables of one generation of a projection, if they are not there. With the first generation, the
    /// tables and rows of other versions of the projection go. What the framework notes about them (in tables of its
    /// own, such as `checkpoints`) stays: it fences their workers.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the DDL does not run, its tables belong to another program, or this backend cannot have
    /// a second generation of them.
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError>;

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

    /// Makes a generation the one that queries read and [`begin`](super::Backend::begin) writes, and applies `commit`, in one
    /// transaction.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done.
    async fn switch(&self, tables: &Tables, to: Generation, commit: Commit)
    -> Result<Committed, CommitError>;

    /// How the tables of two generations differ, in one snapshot; nothing for a projection without tables. Keyed views
    /// are compared by the engine.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn compare(
        &self,
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
    /// Some of them, to be read by an operator.
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

//! What steps leave in databases that only they know, for whoever compares that with journals.

use async_trait::async_trait;
use es_core::BoxError;
use es_core::guard::Standing;
use uuid::Uuid;

/// The guard rows of a step, one for each of its databases.
#[async_trait]
pub(crate) trait Traces: Send + Sync {
    /// The step that has run once all of them say so.
    fn step(&self) -> &'static str;

    /// What the rows are called, one in each database.
    fn names(&self) -> Vec<String>;

    /// What those of one database say of runs; those that may be forgotten there are left out.
    async fn rows(&self, database: usize, runs: &[Uuid]) -> Result<Vec<(Uuid, Option<Standing>)>, BoxError>;
}

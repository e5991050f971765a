//! The guard rows of links, for whoever compares them with journals.

use std::sync::Arc;

use async_trait::async_trait;
use es_core::BoxError;
use es_core::guard::Standing;
use uuid::Uuid;

use super::OF_CHAIN;
use super::link::DynLink;
use crate::transaction::Traces;

pub(super) struct OfLinks<In> {
    pub(super) step: &'static str,
    pub(super) chain: &'static str,
    pub(super) links: Vec<Arc<dyn DynLink<In>>>,
}

#[async_trait]
impl<In: Send + Sync> Traces for OfLinks<In> {
    fn step(&self) -> &'static str {
        self.step
    }

    fn names(&self) -> Vec<String> {
        self.links.iter().map(|link| format!("{OF_CHAIN}{}/{}", self.chain, link.name())).collect()
    }

    async fn rows(&self, database: usize, runs: &[Uuid]) -> Result<Vec<(Uuid, Option<Standing>)>, BoxError> {
        self.links[database].rows(runs, self.chain).await
    }
}

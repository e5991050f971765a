//! Work of an extension crate that an app runs beside its processors, shared out among the nodes that run it.
//!
//! A processor follows the log. An engine has rows of its own, and a [`Keeper`](crate::cluster::Keeper) for each group that
//! it shares with other nodes.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::BoxError;
use crate::cluster::{Cluster, Runs};
use crate::command::Sender;
use crate::id::Ids;
use crate::services::Services;

/// What an app runs for an extension crate: see [`AppBuilder::engine`](crate::AppBuilder::engine).
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What it shares with other nodes. Its shares are those of work without a log
    /// ([`Shares::default`](crate::cluster::Shares::default)).
    fn runs(&self) -> Vec<Runs>;

    /// Called once everything is wired, before anything runs, with what was provided: what is in the way of a start, a line
    /// each.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    async fn check(&self, services: &Services) -> Result<Vec<String>, BoxError> {
        let _nothing = services;
        Ok(Vec::new())
    }

    /// Called as the app starts, before [`run`](Self::run).
    fn connect(&self, node: Node);

    /// Works until `stop`, and gives back what it had. The node is alive for others until that is done.
    async fn run(&self, stop: CancellationToken);
}

/// The node that an engine is a part of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Node {
    /// The node among the others. One that [looks on](crate::AppBuilder::looks_on) is left no share.
    pub cluster: Arc<Cluster>,
    /// What was provided.
    pub services: Arc<Services>,
    /// Sends commands through the app.
    pub sender: Sender,
    /// Ids, and the app's clock.
    pub ids: Ids,
}

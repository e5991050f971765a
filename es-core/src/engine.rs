//! Work of an extension crate that an app runs beside its processors, shared out among the nodes that run it.
//!
//! A processor follows the log. An engine has rows of its own, and a [`Keeper`](crate::cluster::Keeper) for each group that
//! it shares with other nodes.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::BoxError;
use crate::clock::Timestamp;
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

    /// How its work is on this node, an entry for each of what it [runs](Self::runs): for [`Health`](crate::Health).
    fn status(&self) -> Vec<EngineStatus> {
        Vec::new()
    }

    /// What its crate gives out to look at it, or to have something done; its own, behind [`App::engines`](crate::App::engines).
    fn handle(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

/// How work of an engine is, on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStatus {
    /// What it is called among nodes.
    pub group: String,
    /// How many of the 1,024 slices are worked on here.
    pub slices: u16,
    /// When it last saw what there is to do, by the app's clock; when it began to work here, if it has not yet.
    pub looked: Option<Timestamp>,
    /// Why it does not see now what there is to do.
    pub failing: Option<String>,
    /// What it warns of.
    pub alerts: Vec<EngineAlert>,
}

impl EngineStatus {
    /// One that does nothing here.
    #[must_use]
    pub const fn idle(group: String) -> Self {
        Self { group, slices: 0, looked: None, failing: None, alerts: Vec::new() }
    }
}

/// What an engine warns of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "extensions make them")]
pub struct EngineAlert {
    /// The name of the rule.
    pub name: &'static str,
    /// Whether somebody is to look at it now, and not on the next working day.
    pub urgent: bool,
    /// Since when it is so, by the app's clock.
    pub since: Timestamp,
    /// What is so, and what to do.
    pub text: String,
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

//! Which versions of a definition have nodes that work on their runs.

use es_core::Backend;
use es_core::cluster::Shares;
use es_core::engine::Node;
use es_core::store::StoreError;

use super::drive::Desk;
use super::kind::groups_of;
use super::protocol::Acts;
use super::scheduler::NoLog;

/// The versions of a kind, as a node sees them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attended {
    /// Whether no live node has a newer version than this one: then it sees to what nobody else sees to.
    pub(super) is_newest: bool,
    /// Other versions, which no live node has.
    pub(super) alone: Vec<u32>,
}

/// Whether no live node works on runs of a version of a kind, as far as this one knows.
pub(super) fn has_no_node(node: &Node, kind: &str, version: u32) -> bool {
    let view = node.cluster.views().borrow().clone();
    view.is_some_and(|view| view.members(&format!("{}{version}", groups_of(kind))) == 0)
}

impl<B: Backend, P: Acts<B>> Desk<B, P> {
    /// The versions that there may be runs of; `None`: this node has not seen the others yet.
    pub(super) async fn attended(&self) -> Result<Option<Attended>, StoreError> {
        let Some(view) = self.node.cluster.views().borrow().clone() else { return Ok(None) };
        let prefix = groups_of(&self.kind);
        let groups = Shares::<NoLog>::default().names(&*self.backend, &prefix).await?;
        let version = |group: &String| group.strip_prefix(&prefix)?.parse::<u32>().ok();
        let mut attended = Attended { is_newest: true, alone: Vec::new() };
        for version in groups.iter().filter_map(version).filter(|version| *version != self.tables.version) {
            match view.members(&format!("{prefix}{version}")) {
                0 => attended.alone.push(version),
                _ => attended.is_newest &= version < self.tables.version,
            }
        }
        Ok(Some(attended))
    }
}

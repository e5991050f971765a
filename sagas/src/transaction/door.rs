//! How the engine's commits go to the store: in a test of crashes, past whoever lets them fail.

use es_core::Backend;
use es_core::engine::Node;
use es_core::store::{Commit, CommitError, Committed, Transaction};

#[cfg(feature = "testing")]
use crate::testing::crash::Probe;

/// Sends a commit.
#[cfg_attr(not(feature = "testing"), expect(unused_variables, reason = "nobody looks on"))]
pub(super) async fn commit<B: Backend>(
    backend: &B,
    node: &Node,
    commit: Commit,
) -> Result<Committed, CommitError> {
    #[cfg(feature = "testing")]
    if let Ok(probe) = node.services.get::<Probe>() {
        let mut commit = commit;
        let sent = probe.sent(&mut commit, false, || node.ids.next());
        return probe.commit(sent, backend.commit(commit)).await;
    }
    backend.commit(commit).await
}

/// Commits a transaction with what is staged. `is_open`: one of the database, which others may wait for.
#[cfg_attr(not(feature = "testing"), expect(unused_variables, reason = "nobody looks on"))]
pub(super) async fn commit_tx<T: Transaction>(
    node: &Node,
    tx: T,
    is_open: bool,
) -> Result<Committed, CommitError> {
    #[cfg(feature = "testing")]
    if let Ok(probe) = node.services.get::<Probe>() {
        let mut tx = tx;
        let sent = probe.sent(tx.staged(), is_open, || node.ids.next());
        return probe.commit(sent, tx.commit()).await;
    }
    tx.commit().await
}

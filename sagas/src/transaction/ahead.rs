//! A run that begins with steps that only stage: what they leave, and their records, are in the commit that begins it.
//!
//! They run before it is known whether the run begins: its key may stand for another one, whose start is then what counts. As
//! all such steps they have done nothing until that commit. One that takes long keeps no start waiting.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::engine::Node;
use es_core::store::RowWrite;
use es_core::{Backend, Timestamp};

use super::batch::{At, Batch, Joined};
use super::instance::{Change, Instance};
use super::kind::Kind;
use super::protocol::{Acts, Answer, Call, Site};
use super::staging::Staging;

/// For how long a start waits for steps.
const LONGEST: Duration = Duration::from_millis(100);

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// The first call of a run that begins, and where it is to be staged; `None`: it begins without its steps.
    pub(super) fn begins_with(
        &self,
        node: &Node,
        begun: &Instance<P>,
        now: Timestamp,
    ) -> Option<(Batch<P>, Call)> {
        if self.protocol.announces() {
            return None;
        }
        let (store, change) = (node.sender.store()?, self.unwritten(begun, now)?);
        let batch = Batch::new(store, self.backend.clone(), change);
        let first = batch.first::<B>(&self.protocol)?;
        Some((batch, first))
    }

    /// A run that begins, and what is to be done then.
    fn unwritten(&self, begun: &Instance<P>, now: Timestamp) -> Option<Change<P>> {
        let mut change = Change::of(begun.clone());
        change.add(&self.protocol, Vec::new(), &BTreeSet::new(), now).ok()?;
        Some(change)
    }

    /// The steps that a run [begins with](Self::begins_with), made: what they have staged, and what is written. `None`: it
    /// begins without. `begun`: the run, of which these rows say that it begins.
    pub(super) async fn ahead(
        &self,
        node: &Node,
        begun: &Instance<P>,
        (mut batch, first): (Batch<P>, Call),
        rows: &[RowWrite],
        now: Timestamp,
    ) -> Option<(Staging, Change<P>)> {
        let (key, sender) = (begun.head.value.key.clone(), node.sender.clone());
        let site = Site { run: begun.run, key, sender, services: node.services.clone() };
        let (desk, busy) = (self.desk(node), BTreeSet::new());
        let at = At { desk: &desk, site: &site, busy: &busy, alone: false };
        let lease = node.cluster.lease();
        let joined =
            tokio::time::timeout(LONGEST, batch.run(&at, first, || lease.holds())).await.ok()?.ok()?;
        let Batch { mut staging, mut change, .. } = batch;
        match joined {
            Joined::Yes => {}
            // It has failed once.
            Joined::NotDone(Answer::Failed(error)) if !self.backend.is_transient(&*error) => {
                change = self.unwritten(begun, now)?;
                let record = self.protocol.answered(&change.next.state, first, Answer::Failed(error));
                change.add(&self.protocol, vec![record], &busy, now).ok()?;
            }
            Joined::NotDone(_) | Joined::ThrownAway => return None,
        }
        let now = self.clock.now(&*self.backend).await.ok()?;
        let more = change.rows(&*self.protocol, &self.tables, &[], None, &node.ids, now).ok()?;
        staging.begin_with(rows, more);
        Some((staging, change))
    }
}

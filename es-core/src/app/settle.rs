//! What the start of an app does with what is in the store: all of it is judged, then it is changed. A start that is refused
//! has changed nothing, unless what it was judged by has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::inline::{Entry, Inline, Starting};
use crate::processor::{self, Looked, NodeContext, Taken, Wired};
use crate::store::{Backend, StoreError};

/// What an app is wired with.
pub(super) struct Settling<'a> {
    node: &'a NodeContext,
    processors: Vec<Wired>,
    /// Those of the processors that continue with what is retired here.
    successors: Vec<Wired>,
    inline: Vec<Wired>,
    retired: &'a BTreeSet<String>,
    looked: Looked,
    taken: Taken,
}

impl<'a> Settling<'a> {
    pub(super) fn new(
        node: &'a NodeContext,
        processors: Vec<Wired>,
        inline: Vec<Wired>,
        retired: &'a BTreeSet<String>,
    ) -> Self {
        let (successors, processors) =
            processors.into_iter().partition(|(runner, _)| retired.contains(&runner.name()));
        Self {
            node,
            processors,
            successors,
            inline,
            retired,
            looked: Looked::default(),
            taken: Taken::default(),
        }
    }

    /// Whether the app may start. Nothing is changed.
    ///
    /// # Errors
    ///
    /// What is in the way, a line each.
    pub(super) async fn judge(&self) -> Result<(), Vec<String>> {
        self.starting().judge().await?;
        // One that only looks on changes nothing.
        if self.node.settings.looks_on {
            return Ok(());
        }
        let backend = &*self.node.backend;
        let mut wrong = Vec::new();
        for (runner, _) in self.processors.iter().chain(&self.successors).chain(&self.inline) {
            let obstacle = processor::schema_obstacle(backend, &**runner).await.or_else(if_it_can_be_read);
            let obstacle = obstacle.unwrap_or_else(|error| Some(crate::chain(&error)));
            wrong.extend(obstacle.map(|line| format!("{}: {line}", runner.name())));
        }
        for wired in self.processors.iter().chain(&self.successors) {
            let name = wired.0.name();
            let found = wired.0.check().await.unwrap_or_else(|error| vec![crate::chain(&*error)]);
            wrong.extend(found.into_iter().map(|line| format!("{name}: {line}")));
            let obstacle = processor::name_obstacle(backend, wired).await.or_else(if_it_can_be_read);
            let obstacle = obstacle.unwrap_or_else(|error| Some(crate::chain(&error)));
            wrong.extend(obstacle.map(|line| format!("{name}: {line}")));
        }
        for wired in [&self.processors, &self.successors] {
            let judged = processor::judge(self.node, wired, &self.looked).await;
            wrong.extend(
                judged.map_or_else(|error| vec![crate::chain(&error)], |j| j.err().unwrap_or_default()),
            );
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Makes what is missing, takes over what older programs make, and makes projections inline. Gives what commits meet,
    /// and the processors of which a row cannot be read: that stops them, and no other. Until then other nodes see the
    /// codes that this one has.
    ///
    /// # Errors
    ///
    /// What cannot be done, a line each. What processors have taken over is given back then. What was made inline is not:
    /// programs of before that are refused by then have to be started again.
    pub(super) async fn take<B: Backend>(
        &self,
        backend: Arc<B>,
        entries: Vec<Entry<B::Tx>>,
        codes: BTreeMap<String, String>,
    ) -> Result<(Option<Inline<B>>, BTreeSet<String>), Vec<String>> {
        let (starting, is_unseen) = (self.starting(), codes.is_empty() || self.node.settings.looks_on);
        let change = async {
            let built = starting.build().await?;
            let mut unprepared = self.prepare(&self.processors).await?;
            // Last: once the inline projections have changed, programs of before cannot write any more.
            let inline = starting.start(backend, entries, built).await?;
            // What ends to be inline is a processor's only after that.
            unprepared.extend(self.prepare(&self.successors).await?);
            Ok((inline, unprepared))
        };
        // Boxed: what it needs would be in the future of everybody who starts an app.
        let take = Box::pin(async {
            let changed = change.await;
            if changed.is_err() {
                self.taken.give_back(self.node).await;
            }
            changed
        });
        if is_unseen { take.await } else { processor::alive_during(self.node, codes, take).await }
    }

    fn starting(&self) -> Starting<'_> {
        let Self { node, successors, inline: runners, retired, looked, taken, .. } = self;
        Starting { node, runners, retired, successors, looked, taken }
    }

    /// Makes the tables and rows of processors that are run for the first time, and takes over what older programs make.
    async fn prepare(&self, processors: &[Wired]) -> Result<BTreeSet<String>, Vec<String>> {
        let (mut wrong, mut unprepared) = (Vec::new(), BTreeSet::new());
        let (backend, settings) = (&*self.node.backend, self.node.settings);
        if settings.looks_on {
            return Ok(unprepared);
        }
        for (runner, backfill) in processors {
            let lease = settings.lease;
            match processor::prepare_named(backend, &**runner, lease, *backfill, &self.taken).await {
                Ok(()) => {}
                Err(error @ StoreError::Corrupt { .. }) => {
                    let (processor, error) = (runner.name(), crate::chain(&error));
                    tracing::error!(processor, error, "starts without it: its rows cannot be read");
                    unprepared.insert(processor);
                }
                Err(error) => wrong.push(format!("{}: {}", runner.name(), crate::chain(&error))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let prepared = processors.iter().filter(|(runner, _)| !unprepared.contains(&runner.name()));
        let prepared: Vec<Wired> = prepared.cloned().collect();
        let taken = processor::take_over_all(self.node, &prepared, &self.looked, &self.taken).await;
        let wrong = taken.unwrap_or_else(|error| vec![crate::chain(&error)]);
        if wrong.is_empty() { Ok(unprepared) } else { Err(wrong) }
    }
}

/// What cannot be read stops its processor, and not the start.
fn if_it_can_be_read<T: Default>(error: StoreError) -> Result<T, StoreError> {
    if matches!(error, StoreError::Corrupt { .. }) { Ok(T::default()) } else { Err(error) }
}

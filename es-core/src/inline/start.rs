//! The start of an app: what is stored becomes what the app is wired with, or the app does not start.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::handover::Becoming;
use super::{Entry, Inline, code, handover};
use crate::ErrorKind;
use crate::processor::{Looked, NodeContext, Taken, Wired};
use crate::retry::RetryPolicy;
use crate::state::InlineSet;
use crate::store::{Backend, StoreError};

/// What an app has inline, while it starts.
pub(crate) struct Starting<'a> {
    pub(crate) node: &'a NodeContext,
    pub(crate) runners: &'a [Wired],
    /// What ends to be inline.
    pub(crate) retired: &'a BTreeSet<String>,
    /// The processors that continue with some of that.
    pub(crate) successors: &'a [Wired],
    pub(crate) looked: &'a Looked,
    pub(crate) taken: &'a Taken,
}

impl Starting<'_> {
    /// Whether the app may start on the store, as far as its inline projections go. Nothing is changed: what the older or
    /// newer program does is none of the business of an app that does not start.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub(crate) async fn judge(&self) -> Result<(), Vec<String>> {
        let stored = self.known().await?;
        if code::changes(self, &stored).await?.left {
            // After an outage, nobody is seen for a while who is alive.
            tokio::time::sleep(self.node.settings.lease).await;
            code::changes(self, &stored).await?;
        }
        handover::judge(self, &stored).await
    }

    /// Builds what becomes inline up to the head, as its processor would: that takes long, may fail, and stops no writer.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub(crate) async fn build(&self) -> Result<Vec<Becoming<'_>>, Vec<String>> {
        let mut all = Vec::new();
        if self.runners.is_empty() {
            return Ok(all);
        }
        for wired in self.incoming(&self.known().await?) {
            all.push(handover::build(self, wired).await?);
        }
        Ok(all)
    }

    /// Makes projections inline, and ends that others are. `None` for a store that never had any: such an app needs nothing
    /// of this.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub(crate) async fn start<B: Backend>(
        &self,
        backend: Arc<B>,
        entries: Vec<Entry<B::Tx>>,
        built: Vec<Becoming<'_>>,
    ) -> Result<Option<Inline<B>>, Vec<String>> {
        let one = |error: StoreError| vec![crate::chain(&error)];
        let stored = self.known().await?;
        if stored.rev == 0 && entries.is_empty() {
            return Ok(None);
        }
        for name in self.retired.intersection(&stored.names) {
            handover::retire(self, name).await?;
        }
        for becoming in built {
            handover::make_inline(becoming).await?;
        }
        let stored = code::take_over(self).await?;
        if stored.names != self.names() {
            let what = "the inline projections were changed by another app while this one started: start it again with the \
                        same ones";
            return Err(vec![what.to_owned()]);
        }
        let mut hooks = Vec::with_capacity(entries.len());
        for Entry { runner, hook } in entries {
            hooks.push((hook, handover::current_rows(self.node, &*runner).await.map_err(one)?));
        }
        Ok(Some(Inline::new(backend, stored.rev, self.node.ids.clone(), hooks)))
    }

    /// What is not inline yet: in one order, for others wait for what this node has claimed.
    pub(super) fn incoming(&self, stored: &InlineSet) -> Vec<&Wired> {
        let mut new: Vec<&Wired> = self.runners.iter().collect();
        new.retain(|(runner, _)| !stored.names.contains(&runner.name()));
        new.sort_by_key(|(runner, _)| runner.name());
        new
    }

    fn names(&self) -> BTreeSet<String> {
        self.runners.iter().map(|(runner, _)| runner.name()).collect()
    }

    /// What is inline in the store, if that fits what the app is wired with.
    pub(super) async fn known(&self) -> Result<InlineSet, Vec<String>> {
        let (node, names) = (self.node, self.names());
        let read = patiently(node, || InlineSet::read(&*node.backend)).await;
        let stored = read.map_err(|error| vec![crate::chain(&error)])?;
        let mut wrong = wrong(&stored, &names, self.retired);
        if wrong.is_empty() && stored.names != names && node.settings.looks_on {
            wrong.push(
                "this app only looks on, and its inline projections are not those of the store: start one that works first"
                    .to_owned(),
            );
        }
        if wrong.is_empty() { Ok(stored) } else { Err(wrong) }
    }
}

/// Every app needs to know this to start, so a store that does not answer once is asked again.
pub(super) async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    node: &NodeContext,
    ask: impl Fn() -> F,
) -> Result<T, StoreError> {
    let policy = RetryPolicy::default();
    for tried in 1.. {
        match ask().await {
            Err(error) if error.kind() == ErrorKind::Transient => match policy.wait_after(tried, &node.ids) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            },
            outcome => return outcome,
        }
    }
    unreachable!("the policy ends the tries")
}

fn wrong(stored: &InlineSet, names: &BTreeSet<String>, retired: &BTreeSet<String>) -> Vec<String> {
    let both = names
        .intersection(retired)
        .map(|name| format!("{name} is registered as inline and retired: take one of the two away"));
    let missing = stored.names.iter().filter(|name| !names.contains(*name) && !retired.contains(*name)).map(|name| {
        format!(
            "{name} is inline in this store, so every app that writes it has to run it so: add `.inline_view::<..>()` or \
             `.inline_projection(..)` for it, or end that it is inline with `.retire_inline({name:?})`"
        )
    });
    both.chain(missing).collect()
}

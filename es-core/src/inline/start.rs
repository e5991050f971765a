//! The start of an app: what is stored becomes what the app is wired with, or the app does not start.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Entry, Inline, code, handover};
use crate::ErrorKind;
use crate::processor::{Backfill, NodeContext, Runner};
use crate::retry::RetryPolicy;
use crate::state::InlineSet;
use crate::store::{Backend, StoreError};

/// Makes projections inline, and ends that others are. `None` for a store that never had any: such an app needs nothing
/// of this.
///
/// # Errors
///
/// A line for each thing that is wrong.
pub(crate) async fn start<B: Backend>(
    node: &NodeContext,
    backend: Arc<B>,
    entries: Vec<(Entry<B::Tx>, Backfill)>,
    retired: &BTreeSet<String>,
) -> Result<Option<Inline<B>>, Vec<String>> {
    let one = |error: StoreError| vec![crate::chain(&error)];
    let names: BTreeSet<String> = entries.iter().map(|(entry, _)| entry.runner.name()).collect();
    let codes: Vec<_> = entries.iter().map(|(entry, backfill)| (entry.runner.clone(), *backfill)).collect();
    let stored = known(node, &names, retired).await?;
    if stored.rev == 0 && entries.is_empty() {
        return Ok(None);
    }
    if stored.names != names {
        // Before anything that takes long: programs which handle less are shut out, and pass nothing meanwhile.
        code::take_over(node, &codes).await?;
        let changes = async {
            for name in retired {
                handover::retire(node, name).await.map_err(|e| format!("{name}: {}", crate::chain(&e)))?;
            }
            for (Entry { runner, .. }, backfill) in &entries {
                let made = handover::make_inline(node, runner, *backfill).await;
                made.map_err(|e| format!("{}: {}", runner.name(), crate::chain(&e)))?;
            }
            Ok(())
        };
        handover::alive_during(node, changes).await.map_err(|line| vec![line])?;
    }
    let stored = code::take_over(node, &codes).await?;
    if stored.names != names {
        let what = "the inline projections were changed by another app while this one started: start it again with the \
                    same ones";
        return Err(vec![what.to_owned()]);
    }
    let mut hooks = Vec::with_capacity(entries.len());
    for (Entry { runner, hook }, _) in entries {
        hooks.push((hook, handover::current_rows(node, &*runner).await.map_err(one)?));
    }
    Ok(Some(Inline::new(backend, stored.rev, node.ids.clone(), hooks)))
}

/// Whether an app with these inline projections may start on the store. Asked before anything else is changed: what the older
/// or newer program does is none of the business of an app that does not start.
///
/// # Errors
///
/// A line for each thing that is wrong.
pub(crate) async fn may_start(
    node: &NodeContext,
    runners: &[(Arc<dyn Runner>, Backfill)],
    retired: &BTreeSet<String>,
) -> Result<(), Vec<String>> {
    let names: BTreeSet<String> = runners.iter().map(|(runner, _)| runner.name()).collect();
    let stored = known(node, &names, retired).await?;
    if code::changes(node, runners, &stored).await?.left {
        // After an outage, nobody is seen for a while who is alive.
        tokio::time::sleep(node.settings.lease).await;
        code::changes(node, runners, &stored).await?;
    }
    Ok(())
}

/// What is inline in the store, if that fits what the app is wired with.
async fn known(
    node: &NodeContext,
    names: &BTreeSet<String>,
    retired: &BTreeSet<String>,
) -> Result<InlineSet, Vec<String>> {
    let stored = read(node).await.map_err(|error| vec![crate::chain(&error)])?;
    let mut wrong = wrong(&stored, names, retired);
    if wrong.is_empty() && stored.names != *names && node.settings.looks_on {
        wrong.push(
            "this app only looks on, and its inline projections are not those of the store: start one that works first"
                .to_owned(),
        );
    }
    if wrong.is_empty() { Ok(stored) } else { Err(wrong) }
}

/// The set that is stored.
pub(super) async fn read(node: &NodeContext) -> Result<InlineSet, StoreError> {
    patiently(node, || InlineSet::read(&*node.backend)).await
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

//! Whether what came to each instance explains it.

use es_core::prelude::*;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sagas::{Instances, Life};

use crate::holder::CardHolder;
use crate::report::{self, thousands};
use crate::sale::Sale;

const PAGE: usize = 500;
/// Instances that are folded at the same time.
const AT_ONCE: usize = 8;

/// Folds every instance again from its inputs, and compares it with its row. Nothing is written, and nothing is sent.
pub(crate) async fn audit<B: Backend + Clone>(backend: B) -> anyhow::Result<()> {
    let processes = [
        ("sale", Instances::of::<Sale>(backend.clone())?),
        ("holder", Instances::of::<CardHolder>(backend)?),
    ];
    let mut other = Vec::new();
    for (name, instances) in processes {
        other.extend(of(name, &instances).await?);
    }
    match other.first() {
        None => Ok(()),
        Some(first) => anyhow::bail!("{first}"),
    }
}

/// Says how many there are; gives those that their inputs make something else of.
async fn of(name: &str, instances: &Instances) -> anyhow::Result<Vec<String>> {
    let (mut all, mut open, mut other, mut after) = (0, 0, Vec::new(), None);
    loop {
        let page = instances.page(after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        all += page.len() as u64;
        open += page.iter().filter(|instance| instance.life != Life::Ended).count() as u64;
        let keys: Vec<String> = page.into_iter().map(|instance| instance.key).collect();
        let rebuilt = stream::iter(&keys).map(|key| async move { Ok((key, instances.rebuild(key).await?)) });
        let rebuilt: Vec<_> = rebuilt
            .buffered(AT_ONCE)
            .try_collect()
            .await
            .map_err(|error: BoxError| anyhow::anyhow!(error))?;
        let differ = rebuilt.iter().filter_map(|(key, rebuilt)| {
            let rebuilt = rebuilt.as_ref().filter(|rebuilt| rebuilt.stored != rebuilt.folded)?;
            Some(format!("{name} {key} is {}, and its inputs make {} of it", rebuilt.stored, rebuilt.folded))
        });
        other.extend(differ);
    }
    let [all, open, differ] = [all, open, other.len() as u64].map(thousands);
    report::line(&format!("{name}: {all} instances, {open} open, {differ} that their inputs do not explain"));
    Ok(other)
}

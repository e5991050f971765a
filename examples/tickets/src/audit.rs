//! Whether what came to each instance explains it.

use std::pin::pin;

use es_core::prelude::*;
use futures::{StreamExt as _, stream};
use sagas::{Instances, Life};

use crate::holder::CardHolder;
use crate::report::{self, thousands};
use crate::sale::Sale;
use crate::show::plain;

const PAGE: usize = 500;
/// Instances that are folded at the same time.
const AT_ONCE: usize = 8;

/// Folds every instance again from its inputs, and compares it with its row. Nothing is written, and nothing is sent.
pub(crate) async fn audit<B: Backend + Clone>(backend: B) -> anyhow::Result<()> {
    let sale = of("sale", &Instances::of::<Sale>(backend.clone())?).await?;
    let holder = of("holder", &Instances::of::<CardHolder>(backend)?).await?;
    sale.or(holder).map_or(Ok(()), |other| Err(anyhow::anyhow!(other)))
}

/// Says how many there are, and gives the first that its inputs make something else of.
async fn of(name: &str, instances: &Instances) -> anyhow::Result<Option<String>> {
    let (mut all, mut open, mut others, mut first, mut after) = (0, 0, 0, None, None);
    loop {
        let page = instances.page(after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        all += page.len() as u64;
        open += page.iter().filter(|instance| instance.life != Life::Ended).count() as u64;
        let keys = stream::iter(page.into_iter().map(|instance| instance.key));
        let rebuilt = keys.map(|key| async { (instances.rebuild(&key).await, key) });
        let mut rebuilt = pin!(rebuilt.buffered(AT_ONCE));
        while let Some((rebuilt, key)) = rebuilt.next().await {
            let rebuilt = rebuilt.map_err(plain)?;
            if let Some(other) = rebuilt.filter(|rebuilt| rebuilt.stored != rebuilt.folded) {
                others += 1;
                let said = || format!("{name} {key} is {}, its inputs make {}", other.stored, other.folded);
                first.get_or_insert_with(said);
            }
        }
    }
    let [all, open, others] = [all, open, others].map(thousands);
    report::line(&format!("{name}: {all} instances, {open} open, {others} that their inputs do not explain"));
    Ok(first)
}

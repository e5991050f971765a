//! Live views: nothing is stored, each read folds the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::BoxError;
use crate::projection::{View, fold, tables_of};
use crate::store::{EventStore, Position, RecordedEvent};

/// Events read at once. The next page is read once this one is folded.
const PAGE: usize = 2_500;

/// Which views are live, and the log that they are folded from.
#[derive(Clone)]
pub(crate) struct Live {
    log: Arc<dyn EventStore>,
    names: Arc<BTreeSet<String>>,
}

impl Live {
    pub(crate) const fn new(log: Arc<dyn EventStore>, names: Arc<BTreeSet<String>>) -> Self {
        Self { log, names }
    }

    /// The log, if this view is live.
    pub(crate) fn log_of<V: View>(&self) -> Option<Arc<dyn EventStore>> {
        let is_live = !self.names.is_empty() && self.names.contains(&tables_of::<V>().stored_name());
        is_live.then(|| self.log.clone())
    }
}

/// The row of one key: every event of the view is read and decoded, and those of the key are folded.
pub(crate) async fn row<V: View>(log: &dyn EventStore, key: &V::Key) -> Result<Option<V>, BoxError> {
    let key = key.to_string();
    let rows = fold_log::<V>(log, |of| of == key).await?;
    Ok(rows.into_values().next())
}

/// All rows in the order of the keys' texts. They are in memory together.
pub(crate) async fn all<V: View>(log: &dyn EventStore) -> Result<Vec<(V::Key, V)>, BoxError> {
    use crate::AggregateId as _;
    let typed = |(key, row): (String, V)| {
        let parsed = V::Key::parse(&key);
        let wrong = || format!("{key:?} is not a key of view {}", tables_of::<V>().stored_name());
        Ok((parsed.ok_or_else(wrong)?, row))
    };
    fold_log::<V>(log, |_| true).await?.into_iter().map(typed).collect()
}

async fn fold_log<V: View>(
    log: &dyn EventStore,
    wanted: impl Fn(&str) -> bool + Send + Sync,
) -> Result<BTreeMap<String, V>, BoxError> {
    let (filter, mut after) = (V::filter(), Position(0));
    let mut rows = BTreeMap::new();
    loop {
        let page = log.read(&filter, after, PAGE).await?;
        for event in &page.events {
            take_in(event, &wanted, &mut rows).map_err(|e| {
                let name = tables_of::<V>().stored_name();
                format!(
                    "live view {name} cannot take in event {} at {}: {}",
                    event.name,
                    event.place(),
                    crate::chain(&*e)
                )
            })?;
        }
        if !page.more {
            return Ok(rows);
        }
        after = page.through;
        tokio::task::yield_now().await;
    }
}

fn take_in<V: View>(
    event: &RecordedEvent,
    wanted: &impl Fn(&str) -> bool,
    rows: &mut BTreeMap<String, V>,
) -> Result<(), BoxError> {
    for (key, change) in fold::changes::<V>(event)? {
        if wanted(&key) {
            let row = rows.remove(&key);
            if let Some(row) = fold::apply(event, change, row)? {
                rows.insert(key, row);
            }
        }
    }
    Ok(())
}

//! What a start has taken over, and gives back if it is refused after that: older programs continue now, and not only once it
//! is believed in no more.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::context::NodeContext;
use crate::cluster::{self, Shares};
use crate::retry::RetryPolicy;
use crate::state::{Build, Checkpoint, CodeRecord, NodeRecord, codes};
use crate::store::{Row, StoreError, write_rows};

/// How often in all it is tried to give builds back that could not be.
const TRIES: u32 = 16;

/// The builds that one start has changed, by name; each with the row of the code that made it before, if nothing was made of
/// it since.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<BTreeMap<String, Option<Row<CodeRecord>>>>);

impl Taken {
    /// A build was taken over from the code of this row.
    pub(crate) fn from(&self, before: Row<CodeRecord>) {
        self.add(before.key.clone(), Some(before));
    }

    /// A build cannot be made again what it was: it has another name, or rows of this program.
    pub(crate) fn changed(&self, build: &Build) {
        self.add(build.to_string(), None);
    }

    fn add(&self, build: String, before: Option<Row<CodeRecord>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(build, before);
    }

    /// The program does not start. What cannot be given back is free once its lease has run out.
    pub(crate) async fn give_back(&self, node: &NodeContext) {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (policy, mut tried) = (RetryPolicy::default().with_attempts(TRIES), 0);
        for (build, before) in taken {
            loop {
                let done = give_back(node, &build, before.as_ref()).await;
                if matches!(done, Ok(true)) {
                    break;
                }
                tried += 1;
                let Some(wait) = policy.wait_after(tried, &node.ids) else {
                    let error = done.err().map(|error| crate::chain(&error));
                    tracing::warn!(build, error, "the start that was refused does not give it back");
                    break;
                };
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The code of before makes a build again, if a node runs it, and this program's has made nothing of the build here and
/// elsewhere. Else that one is only not kept away any longer: what is started again, because the store failed, need not take
/// the build over again. `false` if it was changed at the same time.
async fn give_back(
    node: &NodeContext,
    build: &str,
    before: Option<&Row<CodeRecord>>,
) -> Result<bool, StoreError> {
    let (backend, me, shares) = (&*node.backend, node.node, Shares::<Checkpoint>::checkpoints());
    let Some(Row { key, rev, value }) = codes().get(backend, build).await? else { return Ok(true) };
    if before.is_some_and(|before| rev != before.rev + 1) {
        return Ok(true);
    }
    let of_build = shares.of(backend, build).await?;
    let alive = cluster::alive(backend).await?;
    let processor = Build::parse(build).map(|build| build.processor).unwrap_or_default();
    let others: Vec<&NodeRecord> =
        alive.iter().filter(|(other, _)| **other != me).map(|(_, node)| node).collect();
    let run = |code: &String| others.iter().any(|node| node.codes.get(&*processor) == Some(code));
    let before = before.filter(|before| run(&before.value.code) && !run(&value.code));
    let mut rows = Vec::new();
    for share in of_build {
        // One that is claimed meanwhile is found changed.
        if share.owner == Some(me) || before.is_some() && share.owner.is_none() {
            rows.push(shares.put(&share.owned_by(None))?);
        }
    }
    let value = before.map_or(CodeRecord { until: 0, ..value }, |before| before.value.clone());
    rows.push(codes().put(&Row { key, rev, value })?);
    Ok(write_rows(backend, rows).await?.is_yes())
}

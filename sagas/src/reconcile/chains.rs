//! Journals of chains against the rows of their links.

use std::collections::BTreeMap;
use std::sync::Arc;

use es_core::cluster::StateStore;
use es_core::guard::Standing;
use es_core::limits::LimitError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use super::merge::{Entry, Pair};
use super::run::{ReconcileError, Reconciliation};
use crate::overview::Overview;
use crate::transaction::{Claim, Claims, Runs, Traces};

/// The [chains](crate::chain) of an app: left what their journals say, right the guard row of each link, in the database of
/// the link. What is missing right has committed, as the journal says, and the database has lost it. Its name is `chains`.
///
/// Compared are runs that have ended. Not compared are those that are old enough to be forgotten in that database, that a person
/// has abandoned, or has said the outcome of, and those of a version of the definition that this app has not; and rows of
/// runs that this store has lost are not looked for.
///
/// # Errors
///
/// None that can be met: its name, `chains`, is good.
pub fn chains(all: &Overview, store: impl StateStore) -> Result<Reconciliation<String, String>, LimitError> {
    let all = all.clone();
    Reconciliation::of_pairs("chains", store, move || {
        let chains = all.runs().into_iter().filter(|runs| runs.traces().values().any(|all| !all.is_empty()));
        stream::iter(chains.collect::<Vec<_>>()).flat_map(of_chain).boxed()
    })
}

type Pairs = BoxStream<'static, Result<Pair<String, String>, ReconcileError>>;

fn of_chain(runs: Runs) -> Pairs {
    let pages = stream::try_unfold((runs, Some(None::<String>)), |(runs, after)| async move {
        let read = |error| ReconcileError::Read(Box::new(error));
        let Some(after) = after else { return Ok::<_, ReconcileError>(None) };
        let (ended, next) = runs.0.ended(after.as_deref()).await.map_err(read)?;
        let claims = runs.0.claims(&ended).await.map_err(read)?;
        let mut pairs = Vec::new();
        for (version, all) in runs.traces() {
            let of_version = || claims.iter().filter(|(_, of)| of.version == version && !of.abandoned);
            for traces in all {
                compare(&of_version().collect(), &traces, &mut pairs).await?;
            }
        }
        let pairs = stream::iter(pairs.into_iter().map(Ok::<_, ReconcileError>));
        Ok::<_, ReconcileError>(Some((pairs, (runs, next.map(Some)))))
    });
    pages.try_flatten().boxed()
}

async fn compare(
    claims: &BTreeMap<&Uuid, &Claims>,
    traces: &Arc<dyn Traces>,
    pairs: &mut Vec<Pair<String, String>>,
) -> Result<(), ReconcileError> {
    let runs: Vec<Uuid> = claims.keys().map(|run| **run).collect();
    if runs.is_empty() {
        return Ok(());
    }
    for (database, name) in traces.names().into_iter().enumerate() {
        for (run, row) in traces.rows(database, &runs).await.map_err(ReconcileError::Read)? {
            let of = claims[&run];
            let Some((left, right)) = sides(of.calls.get(traces.step()).copied(), row.as_ref()) else {
                continue;
            };
            let key = format!("{name} {run}");
            let entry = |value| Entry { key: key.clone(), value, changed: None, live: of.live };
            pairs.push(Pair::new(key.clone(), Some(entry(left)), right.map(entry)));
        }
    }
    Ok(())
}

/// What a journal says, and a row; `None`: there is nothing to compare.
fn sides(claim: Option<Claim>, row: Option<&Standing>) -> Option<(String, Option<String>)> {
    let says = row.map(|standing| standing.stored().0.to_owned());
    let has_run = matches!(claim, Some(Claim::Done | Claim::Confirmed));
    match row {
        _ if claim == Some(Claim::Said) => None,
        _ if has_run => Some(("done".to_owned(), says)),
        // Only the first database keeps a no, and what an undo did not come to has no row.
        None => None,
        Some(Standing::Undone | Standing::Tomb(_)) => says.clone().map(|left| (left, says)),
        Some(_) => Some(("not run".to_owned(), says)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_too_much_is_a_difference() {
        let differs = |claim, row: Option<Standing>| {
            sides(claim, row.as_ref()).is_some_and(|(left, right)| right != Some(left))
        };
        let done = || Some(Standing::Done("null".to_owned()));
        for (claim, row, is_one) in [
            (Some(Claim::Done), done(), false),
            (Some(Claim::Done), None, true),
            (Some(Claim::Done), Some(Standing::Undone), true),
            (Some(Claim::Done), Some(Standing::Intent), true),
            (Some(Claim::Undone), done(), true),
            (Some(Claim::Undone), Some(Standing::Undone), false),
            (Some(Claim::Refused), Some(Standing::Tomb(None)), false),
            (Some(Claim::Refused), None, false),
            (None, done(), true),
            (Some(Claim::Said), None, false),
        ] {
            assert_eq!(differs(claim, row.clone()), is_one, "{claim:?} {row:?}");
        }
    }
}

//! What is stored of runs against their journals.

use es_core::cluster::StateStore;
use es_core::limits::LimitError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use super::merge::{Entry, Pair};
use super::run::{ReconcileError, Reconciliation};
use crate::overview::Overview;
use crate::transaction::{Audited, Runs};

/// Runs of every saga and TCC of an app: left what their heads say, which lists and operators go by, right what their journals
/// come to. They are written together, so a difference is damage: a row that somebody has changed, or a part of a backup.
///
/// A run that goes on, or is being forgotten, is pending; so is one that a newer program has written, as far as this one can
/// read its head. Of runs of another
/// version than this program begins, and of an earlier one, only what they have ended as and their number of records is compared.
///
/// # Errors
///
/// None that can be met: its name, `journals`, is good.
pub fn journals(
    all: &Overview,
    store: impl StateStore,
) -> Result<Reconciliation<String, String>, LimitError> {
    let all = all.clone();
    Reconciliation::of_pairs("journals", store, move || stream::iter(all.runs()).flat_map(of_kind).boxed())
}

type Pairs = BoxStream<'static, Result<Pair<String, String>, ReconcileError>>;

fn of_kind(runs: Runs) -> Pairs {
    let pages = stream::try_unfold((runs, Some(None::<String>)), |(runs, after)| async move {
        let Some(after) = after else { return Ok::<_, ReconcileError>(None) };
        let (page, next) =
            runs.0.audit(after.as_deref()).await.map_err(|error| ReconcileError::Read(error.into()))?;
        let pairs = stream::iter(page.into_iter().map(|run| Ok::<_, ReconcileError>(pair(run))));
        Ok::<_, ReconcileError>(Some((pairs, (runs, next.map(Some)))))
    });
    pages.try_flatten().boxed()
}

fn pair(run: Audited) -> Pair<String, String> {
    let Audited { name, head, journal, live, changed } = run;
    let entry = |value: String| Entry { key: name.clone(), value, changed, live };
    Pair::new(name.clone(), head.map(entry), journal.map(entry))
}

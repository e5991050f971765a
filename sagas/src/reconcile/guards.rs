//! Journals of runs against the guard rows of a database.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use es_core::BoxError;
use es_core::cluster::StateStore;
use es_core::guard::{GuardKey, GuardRow, GuardRows as _, GuardedDatabase, Standing};
use es_core::limits::LimitError;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use super::merge::{Entry, Pair};
use super::run::{ReconcileError, Reconciliation};
use crate::overview::Overview;
use crate::transaction::{Claim, Claims, Runs};

/// Guard rows that are read together.
const PAGE: usize = 200;

/// The calls of sagas, TCCs and half messages to a database with guard rows: left what their journals say, right the guard rows. What is
/// missing right has run, as its journal says, and the database has lost it; what is missing left is of a run that this store
/// has lost. The name is that of the reconciliation.
///
/// `database` is of the type that the steps name, [`Guarded<D>`](crate::saga::Guarded), and has to
/// [list](es_core::guard::GuardRows::page) its rows. Runs that go on are pending. Not compared are rows of kinds that this app
/// has not, markers of two-phase commit and [those of chains](super::chains()) among them; of runs that are old enough to be forgotten
/// here; of runs that a person has abandoned; and what a person has said of a step. For how long runs are kept is what this
/// program says: if that is longer than it was, rows of runs that were forgotten by then are missing left, until they are
/// forgotten as well. If another store calls the database with sagas of the same names, its rows
/// are missing left.
///
/// # Errors
///
/// The name cannot be one.
pub fn guards<D: GuardedDatabase>(
    all: &Overview,
    store: impl StateStore,
    name: &str,
    database: Arc<D>,
) -> Result<Reconciliation<String, String>, LimitError> {
    let all = all.clone();
    Reconciliation::of_pairs(name, store, move || {
        let kinds: BTreeMap<String, Runs> =
            all.runs().into_iter().map(|runs| (runs.name().to_owned(), runs)).collect();
        let here = there(Arc::new(kinds.clone()), database.clone());
        let lives = |runs: &Runs| !runs.guarded(TypeId::of::<D>()).is_empty();
        let claimed: Vec<_> = kinds.into_values().filter(lives).collect();
        let database = database.clone();
        let lost = stream::iter(claimed).flat_map(move |runs| claimed_of(runs, database.clone()));
        here.chain(lost).boxed()
    })
}

type Pairs = BoxStream<'static, Result<Pair<String, String>, ReconcileError>>;

fn read(error: impl Into<BoxError>) -> ReconcileError {
    ReconcileError::Read(error.into())
}

/// What the database has, and what journals say of it.
fn there<D: GuardedDatabase>(kinds: Arc<BTreeMap<String, Runs>>, database: Arc<D>) -> Pairs {
    let begin = (kinds, database, Some(None::<GuardKey>));
    let pages = stream::try_unfold(begin, |(kinds, database, after)| async move {
        let Some(after) = after else { return Ok::<_, ReconcileError>(None) };
        let mut tx = database.begin().await.map_err(read)?;
        let page = tx.page(after.as_ref(), PAGE).await.map_err(read)?;
        tx.rollback().await.map_err(read)?;
        let next = page.last().filter(|_| page.len() == PAGE).map(|(key, _)| Some(key.clone()));
        let pairs = compared(&kinds, page).await?;
        let pairs = stream::iter(pairs.into_iter().map(Ok::<_, ReconcileError>));
        Ok::<_, ReconcileError>(Some((pairs, (kinds, database, next))))
    });
    pages.try_flatten().boxed()
}

async fn compared(
    kinds: &BTreeMap<String, Runs>,
    page: Vec<(GuardKey, GuardRow)>,
) -> Result<Vec<Pair<String, String>>, ReconcileError> {
    let kind = |key: &GuardKey| key.call().split_once('/').map(|(kind, _)| kind.to_owned());
    let mut runs = BTreeMap::<String, BTreeSet<Uuid>>::new();
    for (key, _) in &page {
        if let Some(kind) = kind(key).filter(|kind| kinds.contains_key(kind)) {
            runs.entry(kind).or_default().insert(key.run());
        }
    }
    let mut known = BTreeMap::new();
    for (kind, runs) in &runs {
        let runs: Vec<Uuid> = runs.iter().copied().collect();
        known.insert(kind.clone(), kinds[kind].0.claims(&runs).await.map_err(read)?);
    }
    let mut pairs = Vec::new();
    for (key, row) in page {
        let Some(of_kind) = kind(&key).and_then(|kind| Some((known.get(&kind)?, kinds.get(&kind)?))) else {
            continue;
        };
        match of_kind.0.get(&key.run()) {
            Some(claims) => pairs.extend(of_row(&key, &row.standing, claims)),
            None if of_kind.1.0.may_be_forgotten(key.run()).await.map_err(read)? => {}
            None => pairs.push(pair(&key, None, Some(word(&row.standing)), false)),
        }
    }
    Ok(pairs)
}

/// A row of a run that is known. What its journal agrees with is said in the words of the row.
fn of_row(key: &GuardKey, standing: &Standing, claims: &Claims) -> Option<Pair<String, String>> {
    let step = key.call().split_once('/').map_or("", |(_, step)| step);
    let (claim, row) = (claims.calls.get(step).copied(), word(standing));
    if claims.abandoned {
        return None;
    }
    let left = match agrees(claim, standing) {
        true => row.clone(),
        false => claim.map_or_else(|| "not run".to_owned(), said),
    };
    Some(pair(key, Some(left), Some(row), claims.live || *standing == Standing::Intent))
}

fn agrees(claim: Option<Claim>, standing: &Standing) -> bool {
    match claim {
        Some(Claim::Said) => true,
        Some(Claim::Done) => matches!(standing, Standing::Done(_)),
        Some(Claim::Confirmed) => matches!(standing, Standing::Confirmed(_)),
        // What has not run is barred, or was undone.
        Some(Claim::Undone | Claim::Refused) | None => {
            matches!(standing, Standing::Undone | Standing::Tomb(_))
        }
    }
}

fn said(claim: Claim) -> String {
    match claim {
        Claim::Done => "done",
        Claim::Confirmed => "confirmed",
        Claim::Undone => "undone",
        Claim::Refused => "refused",
        Claim::Said => "said by a person",
    }
    .to_owned()
}

fn word(standing: &Standing) -> String {
    standing.stored().0.to_owned()
}

fn pair(key: &GuardKey, left: Option<String>, right: Option<String>, live: bool) -> Pair<String, String> {
    let name = format!("{} {}", key.call(), key.run());
    let entry = |value| Entry { key: name.clone(), value, changed: None, live };
    Pair::new(name.clone(), left.map(entry), right.map(entry))
}

/// What journals say has run in the database, and it knows nothing of.
fn claimed_of<D: GuardedDatabase>(runs: Runs, database: Arc<D>) -> Pairs {
    let steps = runs.guarded(TypeId::of::<D>());
    let begin = (runs, database, steps, Some(None::<String>));
    let pages = stream::try_unfold(begin, |(runs, database, steps, after)| async move {
        let Some(after) = after else { return Ok::<_, ReconcileError>(None) };
        let (ended, next) = runs.0.ended(after.as_deref()).await.map_err(read)?;
        let claims = runs.0.claims(&ended).await.map_err(read)?;
        let mut pairs = Vec::new();
        let mut tx = database.begin().await.map_err(read)?;
        let floor = tx.floor().await.map_err(read)?;
        for (run, claims) in claims.into_iter().filter(|(run, of)| *run >= floor && !of.abandoned) {
            for (step, claim) in &claims.calls {
                if !steps.contains(step) || !matches!(claim, Claim::Done | Claim::Confirmed) {
                    continue;
                }
                let key = GuardKey::new(run, format!("{}/{step}", runs.name())).map_err(read)?;
                if tx.find(&key).await.map_err(read)?.is_none() {
                    pairs.push(pair(&key, Some(said(*claim)), None, claims.live));
                }
            }
        }
        tx.rollback().await.map_err(read)?;
        let pairs = stream::iter(pairs.into_iter().map(Ok::<_, ReconcileError>));
        Ok::<_, ReconcileError>(Some((pairs, (runs, database, steps, next.map(Some)))))
    });
    pages.try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_journal_says_agrees_with_one_kind_of_row() {
        let done = || Standing::Done("1".to_owned());
        let all = [
            done(),
            Standing::Confirmed("1".to_owned()),
            Standing::Undone,
            Standing::Tomb(None),
            Standing::Intent,
        ];
        let agree = |claim| all.each_ref().map(|standing| agrees(claim, standing));
        assert_eq!(agree(Some(Claim::Done)), [true, false, false, false, false]);
        assert_eq!(agree(Some(Claim::Confirmed)), [false, true, false, false, false]);
        for claim in [Some(Claim::Undone), Some(Claim::Refused), None] {
            assert_eq!(agree(claim), [false, false, true, true, false]);
        }
        assert_eq!(agree(Some(Claim::Said)), [true; 5]);
    }

    #[test]
    fn what_an_abandoned_run_has_left_is_no_difference_and_what_goes_on_is_pending() {
        let key = GuardKey::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001), "order/reserve")
            .unwrap();
        let abandoned = Claims { abandoned: true, ..Claims::default() };
        assert_eq!(of_row(&key, &Standing::Done(String::new()), &abandoned), None);
        let live = Claims { live: true, ..Claims::default() };
        let pair = of_row(&key, &Standing::Done(String::new()), &live).unwrap();
        assert!(pair.left.as_ref().is_some_and(|of| of.live && of.value == "not run"));
        assert!(pair.right.as_ref().is_some_and(|of| of.live && of.value == "done"));
    }
}

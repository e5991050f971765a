//! The oldest run of a store that goes on, whichever definition it is of: what other databases keep of older ones can go.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::cluster::Shares;
use es_core::processor::SLICES;
use es_core::store::keys::Key;
use es_core::store::{RowStore, Span, StoreError, StoredRow};
use es_core::{Backend, Timestamp};
use uuid::Uuid;

use super::kind::Kind;
use super::outcome::RunError;
use super::protocol::Acts;
use super::rows::{Head, Status, Tables, run_of};
use super::scheduler::NoLog;

/// The least that is kept: a run that begins in a transaction which is still open has its id already, and clocks differ.
const LEAST: Duration = Duration::from_hours(24);
/// Slices that are read together, and rows of each.
const SLICES_AT_ONCE: usize = 64;
const ROWS: usize = 100;

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Before which time no run of this store began that may still call anybody; `keep` ago at most.
    pub(super) async fn oldest_that_goes_on(&self, keep: Duration) -> Result<Timestamp, RunError> {
        if keep < LEAST {
            return Err(StoreError::misuse(format!("{keep:?} is too brief: keep {LEAST:?} at least")).into());
        }
        let now = self.backend.now().await?;
        let Ok(until) = now.checked_sub(keep) else { return Ok(Timestamp::UNIX_EPOCH) };
        let mut oldest = until;
        for kind in kinds(&*self.backend).await? {
            let tables = Tables::of(&kind, 0)?;
            let mut slices = (0..SLICES).collect::<Vec<_>>();
            while !slices.is_empty() {
                let some = slices.split_off(slices.len().saturating_sub(SLICES_AT_ONCE));
                oldest = oldest_of(&*self.backend, &tables, some, oldest).await?;
            }
        }
        Ok(oldest)
    }
}

/// The kinds that have, or had, nodes in this store.
async fn kinds(rows: &dyn RowStore) -> Result<BTreeSet<String>, StoreError> {
    let groups = Shares::<NoLog>::default().names(rows, "txn.").await?;
    let kind = |group: &String| Some(group.strip_prefix("txn.")?.rsplit_once(".v")?.0.to_owned());
    Ok(groups.iter().filter_map(kind).collect())
}

/// Heads stand still as long as their runs are there, in the order of their ages: so none of them is missed.
async fn oldest_of(
    rows: &dyn RowStore,
    tables: &Tables,
    slices: Vec<u16>,
    mut oldest: Timestamp,
) -> Result<Timestamp, StoreError> {
    let mut places: Vec<(u16, String)> =
        slices.into_iter().map(|slice| (slice, Key::in_slice(slice).prefix())).collect();
    while !places.is_empty() {
        let span = |(slice, after): &(u16, String)| {
            let before = Key::in_slice(*slice).id(first_of(oldest)).build()?;
            Ok(Span { after: after.clone(), before: Some(before), limit: ROWS })
        };
        let spans = places.iter().map(span).collect::<Result<Vec<_>, StoreError>>()?;
        let pages = rows.scan_many(tables.heads.name(), &spans).await?;
        let mut left = Vec::new();
        for ((slice, _), page) in places.into_iter().zip(pages) {
            let Some(last) = page.last().map(|row| row.key.clone()) else { continue };
            match page.into_iter().find_map(|row| goes_on(tables, row)) {
                Some(run) => oldest = oldest.min(born(run)),
                None => left.push((slice, last)),
            }
        }
        places = left;
    }
    Ok(oldest)
}

/// The run of a head, if it has not ended as far as is known.
fn goes_on(tables: &Tables, row: StoredRow) -> Option<Uuid> {
    let run = run_of(&row.key)?;
    let head: Result<Head, _> = tables.heads.decode(row).map(|head| head.value);
    head.map_or(true, |head| head.status != Status::Ended).then_some(run)
}

/// When a run began, to the millisecond: as ids say it.
fn born(run: Uuid) -> Timestamp {
    let time = run.get_timestamp().map(|time| time.to_unix());
    let millis = time.map(|(seconds, nanos)| seconds * 1_000 + u64::from(nanos) / 1_000_000);
    let millis = millis.and_then(|millis| i64::try_from(millis).ok()).unwrap_or_default();
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The first id of a time.
fn first_of(time: Timestamp) -> Uuid {
    let millis = u64::try_from(time.as_millisecond()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

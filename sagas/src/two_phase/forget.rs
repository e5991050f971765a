//! Decisions to commit are forgotten, long after all of their branches have ended.
//!
//! Whoever finds no decision inserts one to abort: of a transaction that was committed and forgotten that would be wrong. So
//! a floor is raised in the commit that deletes decisions, and whoever inserts an abort writes the floor in the commit with
//! it, as it was read: one of the rows that stand for it, so that few who decide meet. Decisions to abort stay: a coordinator that was slow for ever would find nothing, and commit.

use std::time::Duration;

use es_core::store::{Row, RowWrite, StoreError, StoredRow, write_rows};
use es_core::{Backend, Timestamp, chain};
use futures::future::try_join;
use tokio::time::Instant;
use uuid::Uuid;

use super::machine::Decision;
use super::manager::Inner;
use super::rows::{self, Floor};
use crate::keeping::ended_before;

/// Decisions that are looked at together.
const PORTION: usize = 256;
/// For how long it is gone on with at a time: others have the store as well.
const LONGEST: Duration = Duration::from_secs(1);

/// When all of them are gone through again: what was kept may be over by then.
const ROUND: Duration = Duration::from_mins(10);

/// Where it is on its way through the decisions.
#[derive(Debug, Default)]
pub(super) struct Place {
    after: Option<String>,
    /// Up to here there are only decisions to abort, which stay.
    behind: Option<String>,
    /// When it was through.
    done: Option<Instant>,
}

impl<B: Backend> Inner<B> {
    /// Forgets some decisions, if there are any to forget.
    pub(super) async fn forget(&self, place: &mut Place) {
        let begun = Instant::now();
        while begun.elapsed() < LONGEST && place.done.is_none_or(|done| done.elapsed() >= ROUND) {
            match self.forget_portion(place).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "decisions are forgotten later");
                    break;
                }
            }
        }
    }

    /// Whether it goes on at once.
    async fn forget_portion(&self, place: &mut Place) -> Result<bool, StoreError> {
        let clocks = [self.backend.now().await?, self.ids.clock().now()];
        let Some(end) = ended_before(clocks, self.remember).and_then(first_of) else { return Ok(false) };
        let floors: Vec<_> = (0..rows::FLOORS).map(rows::floor_key).collect();
        let floors = self.floors(&floors).await?;
        let end = rows::key(end)?;
        let mut page =
            self.tables.decisions.stored_page(&self.backend, place.after.as_deref(), PORTION).await?;
        let is_full = page.len() == PORTION;
        page.retain(|row| row.key < end);
        if place.after == place.behind
            && let Some(last) = page.iter().take_while(|row| self.is_abort(row)).last()
        {
            place.behind = Some(last.key.clone());
        }
        let next = page.last().map(|row| row.key.clone()).filter(|_| is_full && page.len() == PORTION);
        let (gone, to) = self.over(page).await?;
        if let Some(to) = to {
            let raised = |floor: Row<Floor>| {
                let floor = Row { value: Floor { floor: floor.value.floor.max(to) }, ..floor };
                self.tables.floor.put(&floor)
            };
            let raised: Vec<_> = floors.into_iter().map(raised).collect::<Result<_, _>>()?;
            let writes = gone.into_iter().chain(raised).collect();
            // Another node does the same, or has decided something: it is looked at again.
            if !write_rows(&self.backend, writes).await?.is_yes() {
                return Ok(false);
            }
        }
        place.done = next.is_none().then(Instant::now);
        place.after = next.or_else(|| place.behind.clone());
        Ok(true)
    }

    fn is_abort(&self, row: &StoredRow) -> bool {
        let row = self.tables.decisions.decode(row.clone());
        row.is_ok_and(|row| row.value.decision == Decision::Abort)
    }

    /// Those that may go, and the floor then.
    async fn over(&self, page: Vec<StoredRow>) -> Result<(Vec<RowWrite>, Option<Uuid>), StoreError> {
        let (mut gone, mut to) = (Vec::new(), None);
        let keys: Vec<_> = page.iter().map(|row| row.key.clone()).collect();
        let [open, aside] = self.tables.lists().map(|table| self.backend.rows(table.name(), &keys));
        let (open, aside) = try_join(open, aside).await?;
        for ((stored, open), aside) in page.into_iter().zip(open).zip(aside) {
            // What cannot be read stays, and so does what is not done.
            let (Ok(row), None, None) = (self.tables.decisions.decode(stored), open, aside) else { continue };
            if row.value.decision == Decision::Commit {
                to = Some(Uuid::from_u128(rows::txn_of(&row.key)?.as_u128().saturating_add(1)));
                gone.push(self.tables.decisions.delete(&row));
            }
        }
        Ok((gone, to))
    }
}

/// The first transaction that may have begun at a time: their names begin with it.
fn first_of(time: Timestamp) -> Option<Uuid> {
    let millis = u128::try_from(time.as_millisecond()).ok()?;
    Some(Uuid::from_u128(millis << 80))
}

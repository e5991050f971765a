//! Counts the runs of a share that have not ended, a few rows at a time: of each there is a wake-up.

use std::time::Duration;

use es_core::Timestamp;
use es_core::processor::Slices;
use es_core::store::keys::{Key, behind};
use es_core::store::{RowStore, Span, StoreError, StoredRow, is_full};
use tokio::time::Instant;
use uuid::Uuid;

use super::numbers::Tally;
use super::rows::Tables;

/// Rows that are read at once, and the shortest pause before the next ones are.
const PAGE: usize = 500;
const PAUSE: Duration = Duration::from_secs(1);
/// How often it begins anew, if it is so fast.
const ROUND: Duration = Duration::from_secs(15);

/// A count that is under way.
#[derive(Debug)]
pub(crate) struct Census {
    slices: Slices,
    tally: Tally,
    /// The key of the last row that was counted; whether it was among those that wait for a person.
    after: Option<String>,
    parked: bool,
    begun: Instant,
    /// When it goes on.
    next: Instant,
}

impl Census {
    pub(crate) fn new(slices: Slices) -> Self {
        let now = Instant::now();
        Self { slices, tally: Tally::default(), after: None, parked: false, begun: now, next: now }
    }

    /// Goes on, if it is time for that. Gives the count once it is complete.
    pub(crate) async fn go_on(
        &mut self,
        rows: &dyn RowStore,
        tables: &Tables,
    ) -> Result<Option<Tally>, StoreError> {
        let now = Instant::now();
        if now < self.next {
            return Ok(None);
        }
        self.next = now + PAUSE;
        let of = |slice| Key::in_slice(slice).prefix();
        let after = self.after.clone().unwrap_or_else(|| of(self.slices.first));
        let table = if self.parked { tables.attention.name() } else { tables.wakes.table().name() };
        let span = Span { after, before: Some(behind(&of(self.slices.last))), limit: PAGE };
        let page = rows.scan_many(table, &[span]).await?.pop().unwrap_or_default();
        let more = is_full(&page, PAGE);
        self.after = page.last().map(|row| row.key.clone()).filter(|_| more);
        for row in page {
            self.count(tables, row);
        }
        Ok(match (more, self.parked) {
            (true, _) => None,
            (false, false) => {
                self.parked = true;
                self.next = now;
                None
            }
            (false, true) => {
                let tally = std::mem::take(&mut self.tally);
                (self.parked, self.next) = (false, (self.begun + ROUND).max(now + PAUSE));
                self.begun = self.next;
                Some(tally)
            }
        })
    }

    fn count(&mut self, tables: &Tables, row: StoredRow) {
        let tally = &mut self.tally;
        if self.parked {
            // Those of other versions are counted by them.
            let row = tables.attention.decode(row).ok().map(|row| row.value);
            if row.as_ref().is_none_or(|row| row.version == tables.version) {
                tally.parked += 1;
                tally.damaged += u64::from(row.is_none_or(|row| row.damaged));
            }
        } else if let Ok(wake) = tables.wakes.table().decode(row)
            && wake.value.asked.is_none()
        {
            tally.open += 1;
            // One that waits for its parent is as old as that makes it.
            let born = born(wake.value.run).filter(|_| !wake.value.waits);
            tally.oldest = tally.oldest.into_iter().chain(born).min();
        }
    }
}

/// When an id was made.
fn born(run: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = run.get_timestamp()?.to_unix();
    Timestamp::new(seconds.try_into().ok()?, nanos.try_into().ok()?).ok()
}

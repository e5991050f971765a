//! Counts the runs of a share that have not ended, a few rows at a time: of each there is a wake-up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use es_core::processor::Slices;
use es_core::store::keys::{Key, behind};
use es_core::store::{Span, StoreError, StoredRow, is_full};
use es_core::{Backend, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use super::attended::has_no_node;
use super::damaged::About;
use super::drive::Desk;
use super::family::Parent;
use super::numbers::Tally;
use super::protocol::Acts;
use super::rows::{Tables, Wake, head_key, run_of};

/// Rows that are read at once, and the shortest pause before the next ones are.
const PAGE: usize = 500;
const PAUSE: Duration = Duration::from_secs(1);
/// So many pages are read at once the first time: until it is over, nobody knows anything of the share.
const FIRST: usize = 10;
/// How often it begins anew, if it is so fast.
const ROUND: Duration = Duration::from_secs(15);

/// What is counted now.
#[derive(Debug)]
enum Counts {
    /// Runs that go on.
    Open,
    /// Those that wait for a person.
    Parked,
    /// Which versions no node has, to count their runs.
    Versions,
    /// Runs of these versions.
    Alone(Vec<u32>),
}

/// A count that is under way.
#[derive(Debug)]
pub(crate) struct Census {
    slices: Slices,
    tally: Tally,
    /// The key of the last row that was counted.
    after: Option<String>,
    counts: Counts,
    is_first: bool,
    begun: Instant,
    /// When it goes on.
    next: Instant,
}

impl Census {
    pub(crate) fn new(slices: Slices) -> Self {
        let now = Instant::now();
        let (tally, after, counts) = (Tally::default(), None, Counts::Open);
        Self { slices, tally, after, counts, is_first: true, begun: now, next: now }
    }

    /// Goes on, if it is time for that. Gives the count once it is complete.
    pub(crate) async fn go_on<B: Backend, P: Acts<B>>(
        &mut self,
        desk: &Desk<B, P>,
    ) -> Result<Option<Tally>, StoreError> {
        let now = Instant::now();
        if now < self.next {
            return Ok(None);
        }
        self.next = now + PAUSE;
        for _ in 0..if self.is_first { FIRST } else { 1 } {
            if self.step(desk).await? {
                (self.counts, self.is_first) = (Counts::Open, false);
                self.next = (self.begun + ROUND).max(now + PAUSE);
                self.begun = self.next;
                return Ok(Some(std::mem::take(&mut self.tally)));
            }
        }
        Ok(None)
    }

    /// Whether that was the last one.
    async fn step<B: Backend, P: Acts<B>>(&mut self, desk: &Desk<B, P>) -> Result<bool, StoreError> {
        let alone = match &self.counts {
            Counts::Open => {
                self.count_open(desk).await?;
                if self.after.is_none() {
                    self.counts = Counts::Parked;
                }
                return Ok(false);
            }
            Counts::Parked => {
                let page = self.page(desk, desk.tables.attention.name()).await?;
                page.into_iter().for_each(|row| self.count_parked(&desk.tables, row));
                if self.after.is_none() {
                    self.counts = Counts::Versions;
                }
                return Ok(false);
            }
            Counts::Versions => {
                let attended = desk.attended().await?.filter(|attended| attended.is_newest);
                attended.map(|attended| attended.alone).unwrap_or_default()
            }
            Counts::Alone(alone) => {
                let mut alone = alone.clone();
                let Some(version) = alone.last() else { return Ok(true) };
                self.count_alone(desk, &Tables::of(&desk.kind, *version)?).await?;
                if self.after.is_none() {
                    alone.pop();
                }
                alone
            }
        };
        let is_over = alone.is_empty();
        self.counts = Counts::Alone(alone);
        Ok(is_over)
    }

    /// The next rows of a table; there are more if there is a key to go on behind.
    async fn page<B: Backend, P: Acts<B>>(
        &mut self,
        desk: &Desk<B, P>,
        table: &Arc<str>,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let of = |slice| Key::in_slice(slice).prefix();
        let after = self.after.clone().unwrap_or_else(|| of(self.slices.first));
        let span = Span { after, before: Some(behind(&of(self.slices.last))), limit: PAGE };
        let page = desk.backend.scan_many(table, &[span]).await?.pop().unwrap_or_default();
        self.after = page.last().map(|row| row.key.clone()).filter(|_| is_full(&page, PAGE));
        Ok(page)
    }

    async fn count_open<B: Backend, P: Acts<B>>(&mut self, desk: &Desk<B, P>) -> Result<(), StoreError> {
        let (before, wakes) = (self.after.clone(), desk.tables.wakes.table());
        let page = self.page(desk, wakes.name()).await?;
        let page = page.into_iter().filter_map(|row| Some(wakes.decode(row).ok()?.value));
        let open: Vec<Wake> = page.filter(|wake| wake.asked.is_none()).collect();
        let left = left_by_parents(desk, &open).await.inspect_err(|_| self.after = before)?;
        for Wake { run, waits, .. } in open {
            self.tally.open += 1;
            // One that waits for its parent is as old as that makes it.
            let born = born(run).filter(|_| !waits || left.contains(&run));
            self.tally.oldest = self.tally.oldest.into_iter().chain(born).min();
        }
        Ok(())
    }

    fn count_parked(&mut self, tables: &Tables, row: StoredRow) {
        // Those of other versions are counted by them.
        let row = tables.attention.decode(row).ok().map(|row| row.value);
        if row.as_ref().is_none_or(|row| row.version == tables.version) {
            self.tally.parked += 1;
            self.tally.damaged += u64::from(row.is_none_or(|row| row.damaged));
        }
    }

    /// Runs that nobody works on. A wake-up of one that has ended stays if nobody is there to delete it: that is none.
    async fn count_alone<B: Backend, P: Acts<B>>(
        &mut self,
        desk: &Desk<B, P>,
        tables: &Tables,
    ) -> Result<(), StoreError> {
        let before = self.after.clone();
        let page = self.page(desk, tables.wakes.table().name()).await?;
        let wakes = page.into_iter().filter_map(|row| tables.wakes.table().decode(row).ok());
        let runs = wakes.filter(|wake| wake.value.asked.is_none()).map(|wake| head_key(wake.value.run));
        let keys: BTreeSet<String> = runs.collect::<Result<_, _>>()?;
        let keys: Vec<String> = keys.into_iter().collect();
        let heads = desk.backend.rows(tables.heads.name(), &keys).await;
        let heads = heads.inspect_err(|_| self.after = before)?;
        let go_on = heads.into_iter().flatten().filter(|head| !About::of(tables, head).ended);
        self.tally.unattended += go_on.count() as u64;
        Ok(())
    }
}

/// Those of them that wait for a parent of a version that no node has.
async fn left_by_parents<B: Backend, P: Acts<B>>(
    desk: &Desk<B, P>,
    open: &[Wake],
) -> Result<BTreeSet<Uuid>, StoreError> {
    let waiting = open.iter().filter(|wake| wake.waits).map(|wake| head_key(wake.run));
    let keys: Vec<String> = waiting.collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Ok(BTreeSet::new());
    }
    let heads = desk.backend.rows(desk.tables.heads.name(), &keys).await?;
    let heads = heads.into_iter().flatten().filter_map(|head| desk.tables.heads.decode(head).ok());
    let left = heads.filter(|head| {
        let parent = head.value.parent.as_ref();
        parent.is_some_and(|Parent { of, .. }| has_no_node(&desk.node, &of.saga, of.version))
    });
    Ok(left.filter_map(|head| run_of(&head.key)).collect())
}

/// When an id was made.
pub(crate) fn born(run: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = run.get_timestamp()?.to_unix();
    Timestamp::new(seconds.try_into().ok()?, nanos.try_into().ok()?).ok()
}

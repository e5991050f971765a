//! Instances that ended long ago are forgotten: a few at a time, found by when they ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::limits::PAGE_BYTES;
use es_core::store::keys::{Key, behind};
use es_core::store::{PageItem, Row, Span, StoreError, StoredRow, Table, is_full};
use es_core::{Backend, BoxError, Timestamp};
use jiff::SignedDuration;
use tokio::time::Instant;
use uuid::Uuid;

use super::{LOOK, ProcessSession, SPANS};
use crate::damaged::read;
use crate::instance::Moment;
use crate::keeping::ended_before;
use crate::rows::{id_of_ended, of_instance};

/// Instances that are forgotten at once, and rows of one of them that go together.
const AT_ONCE: usize = 100;
const PORTION: usize = 100;
/// How often it is looked whether there are any.
const OFTEN: SignedDuration = SignedDuration::from_secs(60);

/// When instances are looked for that are to be forgotten, and from where on.
#[derive(Debug)]
pub(super) struct Forgets {
    next: Timestamp,
    /// Not before this: others have the store, too.
    pause: Instant,
    /// By slice: up to here they were passed, since they cannot be forgotten now.
    passed: BTreeMap<u16, String>,
}

impl Default for Forgets {
    fn default() -> Self {
        Self { next: Timestamp::MIN, pause: Instant::now(), passed: BTreeMap::new() }
    }
}

impl Forgets {
    /// Whether it is too soon to look. A clock that has gone back since keeps nobody from it.
    fn rests(&self, now: Timestamp) -> bool {
        let waits = now < self.next && self.next.duration_since(now) <= OFTEN;
        waits || Instant::now() < self.pause
    }
}

/// An instance that ended, by the row that says when.
struct Ended {
    row: Row<String>,
    id: Uuid,
}

impl<B: Backend> ProcessSession<B> {
    /// For how long instances are kept that have ended; `None`: for ever.
    fn keeps(&self) -> Option<Duration> {
        self.book.definitions()[0].keep_ended()
    }

    /// When those have ended that end with the next flush: by the clock that is ahead, so that they are not forgotten early.
    pub(super) async fn ended_at(&self) -> Result<Timestamp, StoreError> {
        let app = self.ids.clock().now();
        match self.keeps().is_some() && self.book.any_ended() {
            true => Ok(self.clock.now(&*self.backend).await?.max(app)),
            false => Ok(app),
        }
    }

    /// Forgets some of the instances that ended long enough ago: what came to them, what was asked of them, and then their
    /// tombstones. Not those of which events are set aside: a start among them would begin them again.
    pub(super) async fn forget_ended(
        &mut self,
        moment: Moment,
        parked: &(dyn for<'k> Fn(&'k str) -> bool + Sync),
    ) -> Result<(), BoxError> {
        let Some(keep) = self.keeps() else { return Ok(()) };
        if self.forgets.rests(moment.at) {
            return Ok(());
        }
        // Asked anew each time: what is not found now is looked for in a minute.
        let clocks = [self.backend.now().await?, moment.at];
        let found = match ended_before(clocks, keep) {
            Some(until) => self.ended_before(until).await?,
            None => Vec::new(),
        };
        if found.is_empty() {
            self.forgets.passed.clear();
            self.forgets.next = moment.at.saturating_add(OFTEN)?;
            return Ok(());
        }
        self.forgets.pause = Instant::now() + LOOK;
        let mut ended = Vec::new();
        for row in found {
            let (key, id) = (row.key.clone(), id_of_ended(&row.key));
            match (read(&self.tables.ended, row), id) {
                (Ok(row), Some(id)) => ended.push(Ended { row, id }),
                _ => self.pass(&key),
            }
        }
        let keys: BTreeSet<String> = ended.iter().map(|ended| ended.row.value.clone()).collect();
        self.load(keys).await?;
        let is_left = |key: &str| parked(key) || self.unreadable.contains_key(key);
        let (left, ended): (Vec<_>, Vec<_>) = ended.into_iter().partition(|ended| is_left(&ended.row.value));
        left.iter().for_each(|ended| self.pass(&ended.row.key));
        let inputs = self.rows_of(&self.tables.inputs, &ended).await?;
        let asked = self.rows_of(&self.tables.answered, &ended).await?;
        // Each has the same part of the bytes of a page, and may have been cut by that.
        let share = PAGE_BYTES / ended.len().max(1);
        for ((ended, inputs), asked) in ended.into_iter().zip(inputs).zip(asked) {
            if self.is_full() {
                break;
            }
            self.forget(&ended, share, inputs, asked);
        }
        Ok(())
    }

    /// One of them, or the next part of it.
    fn forget(&mut self, ended: &Ended, share: usize, inputs: Vec<StoredRow>, asked: Vec<StoredRow>) {
        let bytes = |rows: &[StoredRow]| rows.iter().map(PageItem::size).sum::<usize>();
        let is_part = [&inputs, &asked].iter().any(|rows| is_full(rows, PORTION) || bytes(rows) >= share);
        let (noted, answered) = (self.tables.inputs.clone(), self.tables.answered.clone());
        self.rows.extend(inputs.into_iter().map(|row| noted.delete_at(row.key, row.rev)));
        self.rows.extend(asked.into_iter().map(|row| answered.delete_at(row.key, row.rev)));
        if !is_part {
            self.rows.push(self.tables.ended.delete(&ended.row));
            self.book.forget_ended(&ended.row.value, ended.id);
        }
    }

    /// It is looked at again once all others were.
    fn pass(&mut self, row: &str) {
        if let Some(slice) = row.split(':').next().and_then(|slice| slice.parse().ok()) {
            self.forgets.passed.insert(slice, row.to_owned());
        }
    }

    /// Rows of instances that ended before a time, some of each slice.
    async fn ended_before(&self, until: Timestamp) -> Result<Vec<StoredRow>, BoxError> {
        let slices: Vec<u16> = (self.slices.first..=self.slices.last).collect();
        let (mut found, limit) = (Vec::new(), AT_ONCE.div_ceil(slices.len()));
        for slices in slices.chunks(SPANS) {
            let span = |slice: &u16| {
                let first = || Key::in_slice(*slice).prefix();
                let after = self.forgets.passed.get(slice).cloned().unwrap_or_else(first);
                Ok(Span { after, before: Some(Key::in_slice(*slice).time(until).build()?), limit })
            };
            let spans = slices.iter().map(span).collect::<Result<Vec<_>, StoreError>>()?;
            let pages = self.backend.scan_many(self.tables.ended.name(), &spans).await?;
            found.extend(pages.into_iter().flatten());
            if found.len() >= AT_ONCE {
                break;
            }
        }
        found.truncate(AT_ONCE);
        Ok(found)
    }

    /// Rows of each of them in a table, as many as go together.
    async fn rows_of<T>(&self, table: &Table<T>, of: &[Ended]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let span = |Ended { row, id }: &Ended| {
            let after = of_instance(&row.value, *id);
            Span { before: Some(behind(&after)), after, limit: PORTION }
        };
        let spans: Vec<Span> = of.iter().map(span).collect();
        self.backend.scan_many(table.name(), &spans).await
    }
}

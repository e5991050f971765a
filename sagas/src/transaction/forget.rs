//! Runs that ended long ago are forgotten, by whoever has their slice: when, and how fast.

use std::sync::Arc;
use std::time::Duration;

use es_core::processor::Slices;
use es_core::store::keys::behind;
use es_core::store::{Span, StoreError, StoredRow};
use es_core::{Backend, ErrorKind, Timestamp, chain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::drive::Desk;
use super::portion;
use super::protocol::Acts;
use super::rows::{day, ended_in, ended_on, ended_place};

/// For how long runs are kept that have ended.
pub(crate) const REMEMBER: Duration = Duration::from_hours(30 * 24);
/// The least of that: whoever waits for an end looks at it in between.
const SHORTEST: Duration = Duration::from_hours(1);
/// By so much the clock of the store may have gone wrong between the end of a run and now, and nothing goes too early.
const OFF: Duration = Duration::from_mins(30);
/// Between two looks at whether there is something to forget.
const LOOK: Duration = Duration::from_secs(1);
/// When all of it is gone through again: what was kept may be over by then.
const ROUND: Duration = Duration::from_mins(10);
/// The shortest pause behind a portion, and how much longer it is than that took: others have the rest of the time.
const PACE: (Duration, u32) = (Duration::from_millis(50), 4);
/// Runs that are looked at together.
const TOGETHER: usize = 64;
/// How often one is looked at again with which another program was faster: then it is left to the next round.
const LOST: u32 = 3;

/// Why this is too brief for runs to be remembered.
pub(crate) fn brief(remember: Duration) -> Option<String> {
    let is_brief = remember < SHORTEST;
    is_brief.then(|| format!("remembers runs for {remember:?}: it has to be an hour at least"))
}

/// The first day of which everything is kept. All that ended on an earlier one has done so for long enough: so no row of a
/// day is read that may not go yet.
fn first_kept(now: Timestamp, remember: Duration) -> Option<u64> {
    Some(day(now.checked_sub(remember).ok()?.checked_sub(OFF).ok()?))
}

/// Forgets the runs of a share, for as long as that is this node's.
pub(super) struct Forgetter<B: Backend, P: Acts<B>> {
    desk: Arc<Desk<B, P>>,
    slices: Slices,
    /// Up to which day it has gone through all of them, and when.
    done: Option<(u64, Instant)>,
}

/// Where a round is.
struct Round {
    /// Behind this key it goes on.
    after: String,
    /// Before this day it ends.
    before: u64,
    /// So many are taken one by one: somebody else has written one of them.
    singly: usize,
    /// How often in a row somebody else was faster with the next one.
    lost: u32,
}

impl Round {
    fn goes_on(&mut self, after: String) {
        (self.after, self.singly, self.lost) = (after, self.singly.saturating_sub(1), 0);
    }
}

impl<B: Backend, P: Acts<B>> Forgetter<B, P> {
    pub(super) const fn new(desk: Arc<Desk<B, P>>, slices: Slices) -> Self {
        Self { desk, slices, done: None }
    }

    /// Until `stop`. A portion that is on its way then goes, or does not.
    pub(super) async fn work(mut self, stop: &CancellationToken) {
        let rounds = async {
            loop {
                match self.due().await {
                    Ok(Some(before)) => self.round(before).await,
                    Ok(None) => {}
                    Err(error) => self.later(&error),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = rounds => {}
            () = stop.cancelled() => {}
        }
    }

    fn later(&self, error: &StoreError) {
        tracing::debug!(kind = %self.desk.kind, error = chain(error), "runs that have ended are forgotten later");
    }

    /// Up to which day there may be something to forget now.
    async fn due(&mut self) -> Result<Option<u64>, StoreError> {
        let (remember, done) = (self.desk.protocol.remember(), self.done);
        let is_new = |before: &u64| done.is_none_or(|(day, since)| *before > day || since.elapsed() >= ROUND);
        // The store is asked if the clock of the app says so.
        if first_kept(self.desk.node.ids.clock().now(), remember).filter(is_new).is_none() {
            return Ok(None);
        }
        let (before, is_newest) = self.judged().await?;
        let Some(before) = before.filter(is_new) else { return Ok(None) };
        match is_newest {
            Some(true) => return Ok(Some(before)),
            Some(false) => self.done = Some((before, Instant::now())),
            None => {}
        }
        Ok(None)
    }

    /// Up to which day there may be something to forget by the clocks of the store and of the app, whichever is behind; and
    /// whether this version forgets, if that is known.
    async fn judged(&self) -> Result<(Option<u64>, Option<bool>), StoreError> {
        let store = self.desk.clock.now(&*self.desk.backend).await?;
        let now = store.min(self.desk.node.ids.clock().now());
        // The newest version forgets the runs of all before it: there may be no node for those.
        let is_newest = self.desk.attended().await?.map(|attended| attended.is_newest);
        Ok((first_kept(now, self.desk.protocol.remember()), is_newest))
    }

    /// The same, in the middle of a round: a newer program may have come, and a clock may have been wrong.
    async fn may_go_on(&self, round: &Round) -> Result<bool, StoreError> {
        let (before, is_newest) = self.judged().await?;
        Ok(is_newest == Some(true) && before.is_some_and(|before| before >= round.before))
    }

    /// All that ended before a day, once.
    async fn round(&mut self, before: u64) {
        let mut round = Round { after: String::new(), before, singly: 0, lost: 0 };
        loop {
            let begun = Instant::now();
            let done = match self.may_go_on(&round).await {
                Ok(true) => self.portion(&mut round).await,
                Ok(false) => return,
                Err(error) => Err(error),
            };
            match done {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.later(&error);
                    // What is not known is seen at the next look.
                    if !matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown) {
                        break;
                    }
                }
            }
            tokio::time::sleep(PACE.0.max(begun.elapsed() * PACE.1)).await;
        }
        self.done = Some((before, Instant::now()));
    }

    /// The next ones, in one commit. Whether there may be more.
    async fn portion(&self, round: &mut Round) -> Result<bool, StoreError> {
        let Desk { backend, tables, node, numbers, .. } = &*self.desk;
        let together = if round.singly > 0 { 1 } else { TOGETHER };
        let page = self.page(&mut round.after, round.before, together).await?;
        let Some(last) = page.last().map(|row| row.key.clone()) else { return Ok(false) };
        let n = page.len();
        let portion = portion::of(&**backend, tables, page).await?;
        if !node.cluster.lease().holds() {
            let lease = std::io::Error::other("the lease of this node does not hold");
            return Err(StoreError::transient("forgetting runs", lease));
        }
        match portion.write(&**backend).await? {
            Some(forgotten) => {
                numbers.forgotten(forgotten.runs);
                round.goes_on(forgotten.through.unwrap_or(last));
            }
            // Another program was faster with one of them: the others go without it.
            None if n > 1 => round.singly = n,
            None if round.lost < LOST => round.lost += 1,
            None => round.goes_on(last),
        }
        Ok(true)
    }

    /// The next rows of these slices behind a key, in key order: none of a day that is kept.
    async fn page(
        &self,
        after: &mut String,
        before: u64,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let Slices { first, last } = self.slices;
        loop {
            let next = self.rows(after.clone(), ended_on(before), 1).await?.pop();
            let Some(StoredRow { key, .. }) = next else { return Ok(Vec::new()) };
            *after = match ended_place(&key) {
                None => key,
                // What is left of that day belongs to others.
                Some((day, slice)) if slice > last => behind(&ended_on(day)),
                Some((day, slice)) if slice < first => ended_in(day, first),
                Some((day, _)) => {
                    let after = after.clone().max(ended_in(day, first));
                    let page = self.rows(after, behind(&ended_in(day, last)), limit).await?;
                    if !page.is_empty() {
                        return Ok(page);
                    }
                    // Another program was faster.
                    key
                }
            };
        }
    }

    async fn rows(&self, after: String, before: String, limit: usize) -> Result<Vec<StoredRow>, StoreError> {
        let Desk { backend, tables, .. } = &*self.desk;
        let span = Span { after, before: Some(before), limit };
        Ok(backend.scan_many(tables.ended.name(), &[span]).await?.pop().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_forgotten_late_and_never_early_though_clocks_are_off() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let remember = Duration::from_hours(24);
        let is_forgotten =
            |ended: &str, now: &str| first_kept(at(now), remember).is_some_and(|kept| day(at(ended)) < kept);
        // It has ended at the very end of a day, by a clock that was ten minutes behind, and is judged by one ten ahead.
        assert!(!is_forgotten("2026-01-01T23:59:59Z", "2026-01-03T00:20:00Z"));
        assert!(is_forgotten("2026-01-01T23:59:59Z", "2026-01-03T00:30:00Z"));
        assert!(!is_forgotten("2026-01-02T00:00:00Z", "2026-01-03T23:59:59Z"));
        // A clock that has gone back keeps all of it.
        assert!(!is_forgotten("2026-01-01T12:00:00Z", "2025-12-01T00:00:00Z"));
        assert_eq!(first_kept(at("2026-01-01T00:00:00Z"), Duration::MAX), None);
        assert!(brief(Duration::from_mins(59)).is_some() && brief(SHORTEST).is_none());
    }
}

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
use crate::keeping::ended_before;

/// For how long runs are kept that have ended.
pub(crate) const REMEMBER: Duration = Duration::from_hours(30 * 24);
/// Between two looks at whether there is something to forget.
const LOOK: Duration = Duration::from_secs(1);
/// When all of it is gone through again: what was kept may be over by then.
const ROUND: Duration = Duration::from_mins(10);
/// The same if something has failed.
const SOON: Duration = Duration::from_mins(2);
/// The shortest pause behind a portion, and how much longer it is than that took: others have the rest of the time.
const PACE: (Duration, u32) = (Duration::from_millis(50), 4);
/// The longest pause while it fails; it is twice as long with each failure.
const SLOWEST: Duration = Duration::from_secs(10);
/// The most runs that are looked at together.
const TOGETHER: usize = 64;
/// How often one is looked at again that did not go: then it is left to the next round.
const LOST: u32 = 3;

/// The first day of which everything is kept. All that ended on an earlier one has done so for long enough: so no row of a
/// day is read that may not go yet.
fn first_kept(clocks: [Timestamp; 2], remember: Duration) -> Option<u64> {
    ended_before(clocks, remember).map(day)
}

/// Forgets the runs of a share, for as long as that is this node's.
pub(super) struct Forgetter<B: Backend, P: Acts<B>> {
    desk: Arc<Desk<B, P>>,
    slices: Slices,
    /// Up to which day it has gone through all of them, and when it does so again.
    done: Option<(u64, Instant)>,
}

/// Where a round is.
struct Round {
    /// Behind this key it goes on.
    after: String,
    /// Before this day it ends.
    before: u64,
    /// So many are looked at together: fewer behind one that did not go as a whole, then ever more again.
    together: usize,
    /// How often the next one did not go, which was alone.
    lost: u32,
    /// How often in a row it has failed.
    failures: u32,
    /// Runs that have failed, and were left behind.
    left: u64,
}

impl Round {
    fn new(before: u64) -> Self {
        Self { after: String::new(), before, together: TOGETHER, lost: 0, failures: 0, left: 0 }
    }

    /// So many of these were seen to.
    fn went(&mut self, keys: &[String], through: usize) {
        if let Some(last) = keys[..through].last() {
            self.after.clone_from(last);
        }
        self.together = match through == keys.len() {
            true => (self.together * 2).min(TOGETHER),
            false => through.max(1),
        };
        (self.lost, self.failures) = (0, 0);
    }

    /// None of these did go. Whether one is left behind: it did not go alone either.
    fn stays(&mut self, keys: &[String]) -> bool {
        let leaves = keys.len() == 1 && self.lost == LOST;
        match leaves {
            true => (self.after, self.lost) = (keys[0].clone(), 0),
            false => self.lost += u32::from(keys.len() == 1),
        }
        self.together = 1;
        leaves
    }

    /// Others have the rest of the time.
    fn pause(&self, took: Duration) -> Duration {
        let pause = PACE.0.max(took * PACE.1);
        if self.failures == 0 {
            pause
        } else {
            pause.max(SLOWEST.min(PACE.0 * 2_u32.pow(self.failures.min(16))))
        }
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
        let is_new = |before: &u64| done.is_none_or(|(day, again)| *before > day || Instant::now() >= again);
        // The store is asked if the clock of the app says so.
        let app = self.desk.node.ids.clock().now();
        if first_kept([app, app], remember).filter(is_new).is_none() {
            return Ok(None);
        }
        let (before, is_newest) = self.judged().await?;
        let Some(before) = before.filter(is_new) else { return Ok(None) };
        match is_newest {
            Some(true) => return Ok(Some(before)),
            Some(false) => {
                self.desk.numbers.unforgotten(self.slices.first, 0);
                self.done = Some((before, Instant::now() + ROUND));
            }
            None => {}
        }
        Ok(None)
    }

    /// Up to which day there may be something to forget by the clocks of the store and of the app, whichever is behind; and
    /// whether this version forgets, if that is known.
    async fn judged(&self) -> Result<(Option<u64>, Option<bool>), StoreError> {
        let clocks = [self.desk.clock.now(&*self.desk.backend).await?, self.desk.node.ids.clock().now()];
        // The newest version forgets the runs of all before it: there may be no node for those.
        let is_newest = self.desk.attended().await?.map(|attended| attended.is_newest);
        Ok((first_kept(clocks, self.desk.protocol.remember()), is_newest))
    }

    /// The same, in the middle of a round: a newer program may have come, and a clock may have been wrong.
    async fn may_go_on(&self, round: &Round) -> Result<bool, StoreError> {
        let (before, is_newest) = self.judged().await?;
        Ok(is_newest == Some(true) && before.is_some_and(|before| before >= round.before))
    }

    /// All that ended before a day, once.
    async fn round(&mut self, before: u64) {
        let mut round = Round::new(before);
        loop {
            let begun = Instant::now();
            let went = match self.may_go_on(&round).await {
                Ok(true) => self.portion(&mut round).await,
                Ok(false) => return,
                Err(error) => Err(error),
            };
            match went {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.later(&error);
                    round.failures += 1;
                    let is_over = !matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown);
                    if is_over || round.failures == LOST {
                        self.stays(1, &error, "what can be forgotten cannot be read");
                    }
                    if is_over {
                        round.left = round.left.max(1);
                        break;
                    }
                }
            }
            tokio::time::sleep(round.pause(begun.elapsed())).await;
        }
        self.desk.numbers.unforgotten(self.slices.first, round.left);
        self.done = Some((before, Instant::now() + if round.left == 0 { ROUND } else { SOON }));
    }

    /// The next ones, in one commit. Whether there may be more.
    async fn portion(&self, round: &mut Round) -> Result<bool, StoreError> {
        let Desk { backend, tables, node, numbers, .. } = &*self.desk;
        let page = self.page(&mut round.after, round.before, round.together).await?;
        if page.is_empty() {
            return Ok(false);
        }
        let keys: Vec<String> = page.iter().map(|row| row.key.clone()).collect();
        let written = match portion::of(&**backend, tables, page).await {
            Ok(portion) if node.cluster.lease().holds() => portion.write(&**backend).await,
            Ok(_) => {
                let lease = std::io::Error::other("the lease of this node does not hold");
                return Err(StoreError::transient("forgetting runs", lease));
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(Some(forgotten)) => {
                numbers.forgotten(forgotten.runs);
                round.went(&keys, forgotten.through);
            }
            // Another program was faster with one of them: the others go without it.
            Ok(None) => drop(round.stays(&keys)),
            // What is not known is seen at the next look.
            Err(error) => {
                self.later(&error);
                round.failures += 1;
                if round.stays(&keys) {
                    round.left += 1;
                    self.stays(round.left, &error, &format!("{} cannot be forgotten", keys[0]));
                }
            }
        }
        Ok(true)
    }

    /// Tells people that so many stay which are to be forgotten: of the first.
    fn stays(&self, n: u64, error: &StoreError, what: &str) {
        self.desk.numbers.unforgotten_yet(self.slices.first, n);
        if n == 1 {
            let (kind, error) = (&self.desk.kind, chain(error));
            tracing::warn!(%kind, error, "runs that have ended stay: {what}, and is tried again; others go meanwhile");
        }
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
        let is_forgotten = |ended: &str, now: &str| {
            first_kept([at(now); 2], remember).is_some_and(|kept| day(at(ended)) < kept)
        };
        // It has ended at the very end of a day, by a clock that was ten minutes behind, and is judged by one ten ahead.
        assert!(!is_forgotten("2026-01-01T23:59:59Z", "2026-01-03T00:20:00Z"));
        assert!(is_forgotten("2026-01-01T23:59:59Z", "2026-01-03T00:30:00Z"));
        assert!(!is_forgotten("2026-01-02T00:00:00Z", "2026-01-03T23:59:59Z"));
        // A clock that has gone back keeps all of it.
        assert!(!is_forgotten("2026-01-01T12:00:00Z", "2025-12-01T00:00:00Z"));
        assert_eq!(first_kept([at("2026-01-01T00:00:00Z"); 2], Duration::MAX), None);
    }
}

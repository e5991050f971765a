//! Recovery: whatever node has begun a transaction, any node brings it to its end.
//!
//! What is prepared at a participant, under the name of this store, is committed or rolled back as was decided; if nothing was
//! decided, recovery decides to roll back, by the same insert that the coordinator would have to make, unless another branch
//! is committed, or was once seen to be: that is left to a person. A participant that cannot be asked is waited for, for a
//! while. What was decided and is not done is on a list in the store. Whether a branch that is not prepared was committed is
//! known by its marker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use es_core::store::{BranchId, Marked, Prepared, StoreError};
use es_core::{Backend, chain};
use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::erased::DynParticipant;
use super::machine::{Decision, Knows, Step, judge, recover};
use super::manager::{Inner, TwoPhase};
use super::rows::{self, Open, Waits};

/// What one look of recovery has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// How many branches that were prepared it has committed.
    pub committed: u64,
    /// How many branches that were prepared it has rolled back.
    pub aborted: u64,
    /// How many branches it has taken off the list: they are committed, as was decided.
    pub settled: u64,
    /// What is prepared still, by participant: of those that could be asked.
    pub in_doubt: BTreeMap<String, Waiting>,
    /// Why a participant could not be asked, or a branch not ended; by participant. If it is not in
    /// [`in_doubt`](Self::in_doubt), what is prepared there is not known.
    pub failed: BTreeMap<String, String>,
    /// Why the store could not be asked what was decided, if it could not.
    pub store: Option<String>,
    /// Branches that are decided, and not committed yet, by participant.
    pub unfinished: BTreeMap<String, u64>,
    /// Those participants of them that are not configured here.
    pub missing: BTreeSet<String>,
    /// Participants that are not configured here, where something may be prepared that was decided to be rolled back.
    pub abandoned: BTreeSet<String>,
    /// Branches that wait for an operator, by participant.
    pub parked: BTreeMap<String, u64>,
    /// Why a row of the list cannot be read, by its key.
    pub unread: BTreeMap<String, String>,
    /// Transactions that an operator has to decide about: one branch is committed and another one prepared, and nothing was
    /// decided; or they are older than what is remembered. [`TwoPhase::strays`] says more.
    pub torn: BTreeSet<Uuid>,
}

/// Branches that are prepared, and wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// How many.
    pub branches: u64,
    /// For how long the oldest has, of those that an operator does not have to decide about.
    pub oldest: Duration,
}

impl Waiting {
    fn add(&mut self, age: Duration) {
        self.branches += 1;
        self.oldest = self.oldest.max(age);
    }

    /// What is prepared, but for the age of what an operator has to decide about.
    pub(super) fn of(found: &[Prepared], torn: &BTreeSet<Uuid>) -> Self {
        let mut all = Self::default();
        for Prepared { id, age } in found {
            all.add(if torn.contains(&id.txn()) { Duration::ZERO } else { *age });
        }
        all
    }

    /// The same, if it was so for as long.
    pub(super) fn later(self, since: Duration) -> Self {
        Self { oldest: self.oldest.saturating_add(since), ..self }
    }
}

/// By this much at most a participant is away for longer than when it was last asked in vain: longer than between two looks.
const BETWEEN: Duration = Duration::from_secs(10);
/// What was not asked for so long begins to be away anew.
const AGAIN: Duration = Duration::from_mins(10);

/// What recovery has found at a participant.
#[derive(Debug, Default)]
struct AtOne {
    committed: u64,
    aborted: u64,
    waiting: Waiting,
    torn: BTreeSet<Uuid>,
}

/// What failed in a look, and who is not asked any more in it. An answer that is late costs a look its time, and so do many
/// that are slow: a branch that fails at once keeps no other.
#[derive(Debug, Default)]
pub(super) struct Failing {
    failed: Mutex<Failed>,
    /// Whoever answers is asked, however long all of it takes.
    is_patient: bool,
}

#[derive(Debug, Default)]
struct Failed {
    whys: BTreeMap<String, String>,
    silent: BTreeSet<String>,
    /// For how long each participant was waited for.
    spent: BTreeMap<String, Duration>,
    /// For how long the store was, for the branches of each participant and for the list.
    store_spent: BTreeMap<String, Duration>,
    store: Option<String>,
    /// The store does not answer.
    is_mute: bool,
}

/// Stands for the list among those that the store is asked for: no participant has this name.
pub(super) const LIST: &str = "";

impl Failing {
    /// Of a question that somebody waits for, until it is answered.
    pub(super) fn patient() -> Self {
        Self { is_patient: true, ..Self::default() }
    }

    /// What was asked of a participant at this time was answered, or has failed.
    pub(super) fn took(&self, name: &str, error: Option<&StoreError>, begun: Instant, limit: Duration) {
        let mut failed = self.lock();
        let spent = failed.spent.entry(name.to_owned()).or_default();
        *spent += begun.elapsed();
        if error.is_some() && begun.elapsed() >= limit {
            failed.silent.insert(name.to_owned());
        }
        if let Some(error) = error {
            failed.whys.insert(name.to_owned(), chain(error));
        }
    }

    /// What was asked of the store at this time has failed.
    fn store(&self, error: &StoreError, begun: Instant, limit: Duration) {
        let mut failed = self.lock();
        failed.is_mute |= begun.elapsed() >= limit;
        failed.store = Some(chain(error));
    }

    pub(super) fn silence(&self, name: &str) {
        self.lock().silent.insert(name.to_owned());
    }

    pub(super) fn is_silent(&self, name: &str) -> bool {
        self.lock().silent.contains(name)
    }

    /// Whether a participant has had its share of this look, though it may answer.
    fn is_spent(&self, name: &str, limit: Duration) -> bool {
        !self.is_patient && is_spent(&self.lock().spent, name, limit)
    }

    /// Whether the store has, for these branches.
    pub(super) fn is_store_spent(&self, of: &str, limit: Duration) -> bool {
        !self.is_patient && is_spent(&self.lock().store_spent, of, limit)
    }

    /// Why participants could not be asked, each in the words of the last time.
    pub(super) fn whys(self) -> BTreeMap<String, String> {
        self.failed.into_inner().unwrap_or_else(PoisonError::into_inner).whys
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_spent(spent: &BTreeMap<String, Duration>, of: &str, limit: Duration) -> bool {
    spent.get(of).is_some_and(|spent| *spent >= limit.saturating_mul(2))
}

/// Where a transaction is prepared: the participant, and the name of the branch.
type Found<'a> = Option<(&'a str, &'a str)>;

/// What recovery has come to.
#[derive(Debug)]
pub(super) enum Care {
    End(Decision),
    /// A person has to decide.
    Torn,
    /// These cannot be asked, and are waited for.
    Waits(BTreeSet<String>),
}

/// Where a transaction is committed.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The branches that are, each with the participant where it was found.
    pub(super) committed: BTreeMap<String, String>,
    /// Their databases do not go back so far.
    pub(super) forgotten: BTreeSet<String>,
    pub(super) unasked: BTreeSet<String>,
    /// Whether one of those is waited for.
    is_waited_for: bool,
}

impl Marks {
    /// What a participant says. Of two in one database, each has its own branch.
    fn takes(&mut self, name: &str, marked: Marked) {
        match marked {
            Marked::Committed(branches) => {
                for branch in branches {
                    if branch == name || !self.committed.contains_key(&branch) {
                        self.committed.insert(branch, name.to_owned());
                    }
                }
            }
            Marked::Forgotten => drop(self.forgotten.insert(name.to_owned())),
        }
    }
}

/// What came of asking a participant what is committed there.
enum Asked {
    Says(Marked),
    Fails,
    /// It has had its share of this look, and may answer in the next.
    Later,
}

/// For how long it could not be asked of each participant what is committed there.
#[derive(Debug, Default)]
pub(super) struct Away(Mutex<BTreeMap<String, Gone>>);

/// A participant that could not be asked.
#[derive(Debug)]
struct Gone {
    /// For how long, as far as anybody has asked.
    time: Duration,
    last: Instant,
}

impl Away {
    /// It could not be asked now. For how long that is so: single failures that are far from each other are no outage.
    fn fails(&self, name: &str) -> Duration {
        let (now, mut all) = (Instant::now(), self.lock());
        let gone = all.entry(name.to_owned()).or_insert(Gone { time: Duration::ZERO, last: now });
        let since = now - gone.last;
        gone.time = if since > AGAIN { Duration::ZERO } else { gone.time + since.min(BETWEEN) };
        gone.last = now;
        gone.time
    }

    fn answers(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Gone>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> TwoPhase<B> {
    /// Looks once at every participant and at what is on the list, and ends what can be. An app does so by itself.
    ///
    /// Any number of nodes may do so at the same time. A participant that cannot be asked keeps no other from being looked
    /// at, and is never taken for one where nothing is prepared.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the list cannot be read, or takes no writes: participants were looked at all the same.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let (found, failed) = self.0.look(|_| {}).await;
        failed.map_or(Ok(found), Err)
    }
}

impl<B: Backend> Inner<B> {
    /// What one look has found, also if the list could not be seen to: then with why. `scanned` is told what is prepared, of
    /// those that could be asked, before anything is done about it.
    pub(super) async fn look(
        &self,
        scanned: impl Fn(&BTreeMap<String, Vec<Prepared>>),
    ) -> (Recovered, Option<StoreError>) {
        let (mut all, failing) = (Recovered::default(), Failing::default());
        let scans = self.participants.iter().map(async |(name, participant)| {
            let found = self.scan(name, participant.as_ref(), &failing).await?;
            Some((name.clone(), found))
        });
        let mut scans: BTreeMap<_, _> = join_all(scans).await.into_iter().flatten().collect();
        leave_to_their_own(&mut scans);
        scanned(&scans);
        let n = self.looks.fetch_add(1, Ordering::Relaxed);
        let ends = scans.into_iter().map(async |(name, found)| {
            let participant = self.named(&name).ok()?;
            let at = self.end_all(participant.as_ref(), found, n, &failing).await;
            Some((name, at))
        });
        for (name, at) in join_all(ends).await.into_iter().flatten() {
            all.committed += at.committed;
            all.aborted += at.aborted;
            all.in_doubt.insert(name, at.waiting);
            all.torn.extend(at.torn);
        }
        let listed = self.work_off(&mut all, n, &failing).await;
        let mut failed = failing.lock();
        (all.failed, all.store) = (std::mem::take(&mut failed.whys), failed.store.take());
        drop(failed);
        (all, listed.err())
    }

    async fn scan(
        &self,
        name: &str,
        participant: &dyn DynParticipant,
        failing: &Failing,
    ) -> Option<Vec<Prepared>> {
        let begun = Instant::now();
        let found = self.in_time(participant.prepared(self.backend.identity())).await;
        failing.took(name, found.as_ref().err(), begun, self.limit);
        // Whatever the reason, it is left alone in this look.
        found.inspect_err(|_| failing.silence(name)).ok()
    }

    async fn end_all(
        &self,
        participant: &dyn DynParticipant,
        mut found: Vec<Prepared>,
        n: usize,
        failing: &Failing,
    ) -> AtOne {
        let (mut all, name) = (AtOne::default(), participant.named());
        // One that hangs is not the first each time.
        let first = n.checked_rem(found.len()).unwrap_or_default();
        found.rotate_left(first);
        for Prepared { id, age } in found {
            let is_left =
                age < self.grace || self.is_left(name, failing) || self.is_store_left(name, failing);
            match if is_left { None } else { self.end(participant, &id, failing).await } {
                Some(Care::End(Decision::Commit)) => all.committed += 1,
                Some(Care::End(Decision::Abort)) => all.aborted += 1,
                Some(Care::Torn) => {
                    all.waiting.add(Duration::ZERO);
                    all.torn.insert(id.txn());
                }
                Some(Care::Waits(_)) | None => all.waiting.add(age),
            }
        }
        all
    }

    /// Whether a participant is asked nothing more in this look.
    pub(super) fn is_left(&self, name: &str, failing: &Failing) -> bool {
        failing.is_silent(name) || failing.is_spent(name, self.limit)
    }

    /// Whether the store is asked nothing more in this look, for these branches.
    pub(super) fn is_store_left(&self, of: &str, failing: &Failing) -> bool {
        failing.lock().is_mute || failing.is_store_spent(of, self.limit)
    }

    /// Asks the store. What that takes counts against these branches.
    pub(super) async fn of_store<T>(
        &self,
        of: &str,
        failing: &Failing,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let answer = self.in_time(asked).await;
        *failing.lock().store_spent.entry(of.to_owned()).or_default() += begun.elapsed();
        answer
    }

    /// Ends a branch that is prepared, as was decided, or is now. None: it has failed.
    async fn end(&self, participant: &dyn DynParticipant, id: &BranchId, failing: &Failing) -> Option<Care> {
        let (begun, name) = (Instant::now(), participant.named());
        let decision = match self.decides_with_care(id.txn(), Some((name, id.name())), failing).await {
            Ok(Care::End(decision)) => decision,
            Ok(Care::Torn) => {
                tracing::error!(branch = %id, "it is prepared, another branch is committed, and nothing was decided");
                return Some(Care::Torn);
            }
            Ok(Care::Waits(away)) => {
                tracing::warn!(branch = %id, ?away, "it is prepared, and others cannot be asked whether they are committed");
                return Some(Care::Waits(away));
            }
            Err(error) => {
                tracing::warn!(branch = %id, error = chain(&error), "the store cannot be asked what was decided");
                failing.store(&error, begun, self.limit);
                return None;
            }
        };
        let begun = Instant::now();
        let fate = self.ends(participant, id, decision).await;
        failing.took(name, fate.as_ref().err(), begun, self.limit);
        match fate {
            Ok(fate) => {
                if let Some(odd) = judge(decision, fate) {
                    self.park(id.txn(), id.name(), decision, odd).await;
                }
                Some(Care::End(decision))
            }
            Err(error) => {
                tracing::warn!(branch = %id, error = chain(&error), "a branch could not be ended");
                None
            }
        }
    }

    /// What was decided, or is now, unless a branch is committed: one that is not this. An error is one of the store.
    pub(super) async fn decides_with_care(
        &self,
        txn: Uuid,
        found: Found<'_>,
        failing: &Failing,
    ) -> Result<Care, StoreError> {
        let of = found.map_or(LIST, |(participant, _)| participant);
        let decided = async || {
            let found = self.of_store(of, failing, self.decided(txn)).await?;
            Ok::<_, StoreError>(found.map(|decided| decided.decision))
        };
        let (mut knows, mut marks) =
            (decided().await?.map_or(Knows::Nothing, Knows::Decided), Marks::default());
        loop {
            knows = match recover(knows) {
                Step::Trace => self.traces(txn, found, &mut marks, failing).await?,
                Step::Read => decided().await?.map_or(Knows::Torn, Knows::Decided),
                Step::Ask => {
                    let decided = self.of_store(of, failing, self.decision(txn, &marks.unasked)).await?;
                    decided.map_or(Knows::Noted, |decided| Knows::Decided(decided.decision))
                }
                Step::Note => {
                    let noted = self.of_store(of, failing, self.notes(txn, found, &marks)).await?;
                    noted.map_or(Knows::Noted, Knows::Decided)
                }
                Step::End(decision) => return Ok(Care::End(decision)),
                Step::Leave => return Ok(Care::Torn),
                Step::Wait => return Ok(Care::Waits(marks.unasked)),
            }
        }
    }

    /// Whether it is noted that an operator has to decide, and whether another branch is committed.
    async fn traces(
        &self,
        txn: Uuid,
        found: Found<'_>,
        marks: &mut Marks,
        failing: &Failing,
    ) -> Result<Knows, StoreError> {
        let of = found.map_or(LIST, |(participant, _)| participant);
        let (aside, key) = (&self.tables.aside, rows::key(txn)?);
        let noted = self.of_store(of, failing, aside.get(&self.backend, &key)).await?;
        if noted.is_some_and(|row| row.value.decision.is_none()) {
            return Ok(Knows::Noted);
        }
        let is_forgotten = txn < self.of_store(of, failing, self.floor(txn)).await?.value.floor;
        let cluster = self.backend.identity();
        *marks = self.marks(cluster, txn, |name| found.is_none_or(|(own, _)| own != name), failing).await;
        let is_marked = is_forgotten || !marks.committed.is_empty() || !marks.forgotten.is_empty();
        Ok(match (is_marked, marks.is_waited_for) {
            (true, _) => Knows::Marked,
            (false, true) => Knows::Unasked,
            (false, false) => Knows::Unmarked,
        })
    }

    /// Writes down that an operator has to decide about what is prepared. What was decided by then.
    async fn notes(
        &self,
        txn: Uuid,
        found: Found<'_>,
        marks: &Marks,
    ) -> Result<Option<Decision>, StoreError> {
        let Some((participant, branch)) = found else { return Ok(None) };
        let committed = marks.committed.iter().map(|(name, at)| (name.clone(), Waits::found(name, at)));
        let own = (branch.to_owned(), Waits::found(branch, participant));
        let open = Open::torn(committed.chain([own]).collect(), self.ids.clock().now());
        self.notes_torn(txn, open).await
    }

    /// Where a transaction is committed, after it was prepared, of these participants.
    pub(super) async fn marks(
        &self,
        cluster: Uuid,
        txn: Uuid,
        of: impl Fn(&str) -> bool,
        failing: &Failing,
    ) -> Marks {
        let asks = self.participants.iter().filter(|(name, _)| of(name));
        let asks = asks.map(async |(name, participant)| {
            if self.is_left(name, failing) {
                return (name, if failing.is_silent(name) { Asked::Fails } else { Asked::Later });
            }
            let begun = Instant::now();
            let asked =
                async { participant.was_committed(&BranchId::new(cluster, txn, name.as_str())?).await };
            let marked = self.in_time(asked).await;
            failing.took(name, marked.as_ref().err(), begun, self.limit);
            (name, marked.map_or(Asked::Fails, Asked::Says))
        });
        let mut marks = Marks::default();
        for (name, asked) in join_all(asks).await {
            match asked {
                Asked::Says(marked) => {
                    self.away.answers(name);
                    marks.takes(name, marked);
                }
                Asked::Fails => {
                    marks.is_waited_for |= self.away.fails(name) < self.outage;
                    marks.unasked.insert(name.clone());
                }
                Asked::Later => {
                    marks.is_waited_for = true;
                    marks.unasked.insert(name.clone());
                }
            }
        }
        marks
    }
}

/// Of two participants in one database, each finds what both have prepared: a branch is left to the one of its own name, if that
/// has found it.
fn leave_to_their_own(scans: &mut BTreeMap<String, Vec<Prepared>>) {
    let own = |(name, found): (&String, &Vec<Prepared>)| {
        let own = found.iter().filter(|prepared| prepared.id.name() == name);
        own.map(|prepared| prepared.id.clone()).collect::<Vec<_>>()
    };
    let own: BTreeSet<BranchId> = scans.iter().flat_map(own).collect();
    for (name, found) in scans {
        found.retain(|prepared| prepared.id.name() == name || !own.contains(&prepared.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn single_failures_are_no_outage() {
        let (away, minute) = (Away::default(), Duration::from_mins(1));
        let fails_after = async |pause| {
            tokio::time::advance(pause).await;
            away.fails("stock")
        };
        assert_eq!(fails_after(Duration::ZERO).await, Duration::ZERO);
        // Others have ended what it was asked about: nobody has asked since.
        assert_eq!(fails_after(minute * 50).await, Duration::ZERO);
        assert_eq!(fails_after(minute * 11).await, Duration::ZERO);
        assert!(fails_after(minute).await < minute / 2);
        assert!(fails_after(minute).await < minute / 2);
        // In each look, that is an outage.
        let before = away.fails("stock");
        for _ in 0..20 {
            fails_after(Duration::from_secs(5)).await;
        }
        assert_eq!(away.fails("stock"), before + Duration::from_secs(100));
        away.answers("stock");
        assert_eq!(away.fails("stock"), Duration::ZERO);
    }
}

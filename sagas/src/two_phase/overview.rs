//! Transactions across databases, in the [list of all](crate::overview).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::{Prepared, StoreError, StoredRow, Table, is_full};
use es_core::{Backend, Timestamp, chain};
use futures::future::{join, join_all};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::machine::Decision;
use super::manager::{Inner, TwoPhase};
use super::pending::{PendingBranch, PendingState};
use super::recovery::Failing;
use super::rows::{self, Open, Waits};
use super::strays::{Stray, Strays};
use crate::overview::{
    Act, ActError, ActName, Filter, Listed, Part, Pattern, READS, Source, Status, Unasked, Which,
};
use crate::reconcile::{Entry, Pair};
use crate::transaction::{born, fingerprint};

/// How many rows are read at once.
const AT_ONCE: usize = 500;
/// Where the parts of the list begin in a cursor: what was decided and is not done, in two tables; what is prepared and undecided; what is
/// done.
const OPEN: &str = "open/";
const ASIDE: &str = "aside/";
const PREPARED: &str = "prepared/";
const DECIDED: &str = "decided/";

/// For how long the list waits for what is prepared: less than all of a source is waited for.
const PATIENCE: Duration = Duration::from_secs(25);
const ALL_OF_IT: &str = "all of a transaction is tried again, or nothing";

/// What is prepared of one transaction that nothing is known to be decided about.
struct Doubt {
    txn: Uuid,
    prepared: BTreeMap<String, Duration>,
    /// A person has to decide.
    stray: bool,
}

#[async_trait]
impl<B: Backend> Source for TwoPhase<B> {
    fn pattern(&self) -> Pattern {
        Pattern::TWO_PHASE
    }

    fn kind(&self) -> &str {
        Pattern::TWO_PHASE.name()
    }

    fn knows(&self) -> &'static [ActName] {
        &[ActName::Retry, ActName::Skip, ActName::Decide]
    }

    async fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Part, StoreError> {
        let open = [Status::Committing, Status::Undoing, Status::Parked, Status::Damaged];
        let parts = [
            (OPEN, filter.wants_any(&open)),
            (ASIDE, filter.wants_any(&open)),
            (PREPARED, filter.wants_any(&[Status::InDoubt, Status::Torn])),
            (DECIDED, filter.wants_any(&[Status::Done, Status::Undone])),
        ];
        let (at, within) = match after.map(|after| (after, after.find('/'))) {
            None => (OPEN, ""),
            Some((after, Some(slash))) => after.split_at(slash + 1),
            Some((after, None)) => return Err(StoreError::misuse(format!("{after:?} is no cursor"))),
        };
        let mut part = Part::default();
        for (name, _) in parts.iter().skip_while(|(name, _)| *name != at).filter(|(_, wants)| *wants) {
            let (within, left) = (if *name == at { within } else { "" }, limit - part.listed.len());
            if left == 0 {
                part.next = Some((*name).to_owned());
                break;
            }
            let next = match *name {
                PREPARED => self.doubts_in_time(filter, within, left, &mut part).await,
                table => self.rows(table, filter, within, left, &mut part).await?,
            };
            if let Some(next) = next {
                part.next = Some(format!("{name}{next}"));
                break;
            }
        }
        Ok(part)
    }

    async fn waits_for(&self, which: &Which) -> Result<Vec<String>, ActError> {
        let txn = txn_of(which)?;
        let said = self.0.undone_of(txn).await?.into_iter().map(|branch| {
            let why = branch.why.map(|why| format!(": {why}")).unwrap_or_default();
            format!(
                "branch {:?} is not what was decided, or not yet ({:?}){why}",
                branch.branch, branch.state
            )
        });
        let mut said: Vec<String> = said.collect();
        if let Some(doubt) =
            self.0.doubts(&mut Part::default(), self).await?.into_iter().find(|of| of.txn == txn)
        {
            said.push(doubt.says());
        }
        if said.is_empty() && self.0.decided(txn).await?.is_none() {
            return Err(ActError::Missing(which.clone()));
        }
        Ok(said)
    }

    async fn ask(
        &self,
        which: &Which,
        act: Act,
        (actor, reason): (String, String),
        limit: Duration,
    ) -> Result<(), ActError> {
        let txn = txn_of(which)?;
        match act {
            Act::Skip { part } => self.accept(txn, &part, &actor, &reason).await.map_err(ActError::of_store),
            Act::Decide(decision) => {
                let stray = self.stray(which, txn).await?;
                self.adopt(&stray, decision, &actor, &reason).await.map_err(ActError::of_store)
            }
            Act::Retry { part: Some(_) } => Err(ActError::declined(ALL_OF_IT)),
            _ => {
                tracing::info!(%txn, actor, reason, "a transaction across databases is tried again");
                let late = |late| StoreError::transient("trying a transaction again", late);
                timeout(limit, self.retries(which, txn)).await.map_err(late)?
            }
        }
    }

    async fn dry_run(&self, which: &Which, act: Act, _: (String, String)) -> Result<String, ActError> {
        let txn = txn_of(which)?;
        match act {
            Act::Skip { part } => {
                let pending = self.pending().await?;
                let mut of = pending.iter().filter(|branch| branch.txn == txn && branch.branch == part);
                let none = || ActError::declined(format!("branch {part:?} is not on the list"));
                let state = of.next().ok_or_else(none)?.state;
                Ok(format!("branch {part:?} is taken off the list as it is: {state:?}"))
            }
            Act::Decide(decision) => {
                let stray = self.stray(which, txn).await?;
                let to = if decision == Decision::Commit { "committed" } else { "rolled back" };
                Ok(format!("what is prepared at {} is {to}", names(&stray.prepared)))
            }
            Act::Retry { part: Some(_) } => Err(ActError::declined(ALL_OF_IT)),
            _ if self.is_open(txn).await? => Ok("its branches are ended as was decided".to_owned()),
            _ => {
                self.is_known(which, txn).await?;
                Ok("participants are asked what is prepared, and recovery ends what it may".to_owned())
            }
        }
    }
}

impl<B: Backend> TwoPhase<B> {
    /// Transactions of a table, behind a key. Where the next ones begin, if it ends before they do.
    async fn rows(
        &self,
        of: &str,
        filter: &Filter,
        after: &str,
        limit: usize,
        part: &mut Part,
    ) -> Result<Option<String>, StoreError> {
        let (inner, full) = (&self.0, part.listed.len() + limit);
        let list = match of {
            OPEN => Some(&inner.tables.open),
            ASIDE => Some(&inner.tables.aside),
            _ => None,
        };
        let table = list.map_or_else(|| inner.tables.decisions.name(), |list| list.name());
        let (mut last, mut n) = (after.to_owned(), 0);
        loop {
            let behind = Some(last.as_str()).filter(|last| !last.is_empty());
            let rows = inner.backend.scan(table, behind, AT_ONCE).await?;
            n += rows.len();
            let more = is_full(&rows, AT_ONCE);
            let unfinished = match list {
                Some(_) => vec![false; rows.len()],
                None => inner.unfinished(&rows).await?,
            };
            for (row, unfinished) in rows.into_iter().zip(unfinished) {
                last.clone_from(&row.key);
                let listed = match list {
                    Some(list) => inner.of_list(list, row),
                    // It is listed by what is not done.
                    None if unfinished => None,
                    None => inner.done(row),
                };
                part.listed.extend(listed.filter(|listed| filter.wants(listed)));
                if part.listed.len() == full {
                    return Ok(Some(last));
                }
            }
            match more {
                false => return Ok(None),
                true if n >= READS => return Ok(Some(last)),
                true => {}
            }
        }
    }

    /// What is prepared and undecided, behind a transaction.
    async fn doubts(
        &self,
        filter: &Filter,
        after: &str,
        limit: usize,
        part: &mut Part,
    ) -> Result<Option<String>, StoreError> {
        let (full, now) = (part.listed.len() + limit, self.0.backend.now().await?);
        for doubt in self.0.doubts(part, self).await? {
            let key = doubt.txn.simple().to_string();
            if key.as_str() <= after {
                continue;
            }
            part.listed.extend(Some(doubt.listed(now)).filter(|listed| filter.wants(listed)));
            if part.listed.len() == full {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The same, for as long as the list may wait for it: what was read before is listed, whoever does not answer.
    async fn doubts_in_time(
        &self,
        filter: &Filter,
        after: &str,
        limit: usize,
        part: &mut Part,
    ) -> Option<String> {
        let why = match timeout(PATIENCE, self.doubts(filter, after, limit, part)).await {
            Ok(Ok(next)) => return next,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("that was not said within {PATIENCE:?}"),
        };
        part.unasked.push(Unasked::of(self, Some("what is prepared".to_owned()), why));
        None
    }

    /// What is listed is tried again; what is prepared, with all else that is. What is left of it then is an error.
    async fn retries(&self, which: &Which, txn: Uuid) -> Result<(), ActError> {
        let is_open = self.is_open(txn).await?;
        if !is_open {
            self.is_known(which, txn).await?;
            self.recover().await.map_err(ActError::of_store)?;
        }
        if let Some(left) = self.0.settle(txn, &Failing::default()).await.map_err(ActError::of_store)? {
            return Err(ActError::declined(left_of(&left)));
        }
        if is_open && self.0.decided(txn).await?.is_some() {
            return Ok(());
        }
        match self.doubt(txn).await? {
            Some(doubt) => Err(ActError::declined(doubt.says())),
            None => Ok(()),
        }
    }

    /// One that was decided, or is prepared somewhere.
    async fn is_known(&self, which: &Which, txn: Uuid) -> Result<(), ActError> {
        match self.0.decided(txn).await?.is_some() || self.doubt(txn).await?.is_some() {
            true => Ok(()),
            false => Err(ActError::Missing(which.clone())),
        }
    }

    /// What is prepared of it and undecided. If it is not found, and somebody could not be asked, that is an error.
    async fn doubt(&self, txn: Uuid) -> Result<Option<Doubt>, StoreError> {
        let mut part = Part::default();
        let found = self.0.doubts(&mut part, self).await?.into_iter().find(|doubt| doubt.txn == txn);
        match part.unasked.first().filter(|_| found.is_none()) {
            None => Ok(found),
            Some(unasked) => {
                let why = std::io::Error::other(unasked.to_string());
                Err(StoreError::transient("asking what is prepared", why))
            }
        }
    }

    async fn is_open(&self, txn: Uuid) -> Result<bool, StoreError> {
        let key = [rows::key(txn)?];
        for list in self.0.tables.lists() {
            if self.0.backend.rows(list.name(), &key).await?.iter().any(Option::is_some) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn stray(&self, which: &Which, txn: Uuid) -> Result<Stray, ActError> {
        let mut strays = self.strays().await?.found.into_iter().filter(|stray| stray.txn == txn);
        match (strays.next(), strays.next()) {
            (Some(stray), None) => return Ok(stray),
            (Some(one), Some(other)) => {
                let (one, other) = (one.cluster, other.cluster);
                return Err(ActError::declined(format!(
                    "two stores have begun one of this id, {one} and {other}: adopt each by itself (`TwoPhase::adopt`)"
                )));
            }
            (None, _) => {}
        }
        match self.0.decided(txn).await? {
            Some(decided) => Err(ActError::declined(format!("it was decided: {:?}", decided.decision))),
            None => Err(ActError::Missing(which.clone())),
        }
    }
}

impl<B: Backend> Inner<B> {
    /// One that is decided and not done, if it is on the list.
    fn of_list(&self, list: &Table<Open>, row: StoredRow) -> Option<Listed> {
        let (key, open) = (row.key.clone(), list.decode(row.clone()).map(|row| row.value));
        let (since, decision) = open.map_or((None, None), |open| (open.since, open.decision));
        // Also of what is rolled back, of which most is shown to nobody else.
        let branches = self.shown(list, row);
        let is = |state: fn(PendingState) -> bool| branches.iter().any(|branch| state(branch.state));
        let status = match decision {
            // What is not decided is among the doubts.
            None if branches.is_empty() => return None,
            _ if is(|state| state == PendingState::Unread) => Status::Damaged,
            _ if is(|state| matches!(state, PendingState::Parked(_) | PendingState::Missing)) => {
                Status::Parked
            }
            Some(Decision::Abort) => Status::Undoing,
            _ => Status::Committing,
        };
        let whys: Vec<String> = branches.iter().filter_map(why).collect();
        let reason = Some(whys.join("; ")).filter(|reason| !reason.is_empty());
        let error = reason.as_deref().map(fingerprint::of);
        let listed = match rows::txn_of(&key) {
            Ok(txn) => of_txn(txn, status),
            Err(_) => Listed::new(Which::new(Pattern::TWO_PHASE, Pattern::TWO_PHASE.name(), key), 0, status),
        };
        Some(Listed { reason, error, since, ..listed })
    }

    /// Which of these decisions are not done.
    async fn unfinished(&self, decisions: &[StoredRow]) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<String> = decisions.iter().map(|row| row.key.clone()).collect();
        let mut unfinished = vec![false; keys.len()];
        if keys.is_empty() {
            return Ok(unfinished);
        }
        for list in self.tables.lists() {
            let found = self.backend.rows(list.name(), &keys).await?;
            unfinished.iter_mut().zip(found).for_each(|(is, found)| *is |= found.is_some());
        }
        Ok(unfinished)
    }

    /// One of which nothing is left to do.
    fn done(&self, row: StoredRow) -> Option<Listed> {
        let txn = rows::txn_of(&row.key).ok()?;
        Some(match self.tables.decisions.decode(row) {
            Ok(row) if row.value.decision == Decision::Commit => of_txn(txn, Status::Done),
            Ok(_) => of_txn(txn, Status::Undone),
            Err(error) => {
                let reason = chain(&error);
                let error = Some(fingerprint::of(&reason));
                Listed { error, reason: Some(reason), ..of_txn(txn, Status::Damaged) }
            }
        })
    }

    /// All that is prepared and undecided, in the order of when it was begun. Who cannot be asked is named.
    async fn doubts(&self, part: &mut Part, source: &TwoPhase<B>) -> Result<Vec<Doubt>, StoreError> {
        let mut found: BTreeMap<Uuid, BTreeMap<String, Duration>> = BTreeMap::new();
        // At the same time: one that hangs takes no time of another's.
        let scans = self.participants.iter().map(async |(name, participant)| {
            (name, self.in_time(participant.prepared(self.backend.identity())).await)
        });
        let (scans, strays_of) = join(join_all(scans), source.strays()).await;
        for (name, scan) in scans {
            match scan {
                Ok(all) => {
                    for Prepared { id, age } in all.into_iter().filter(|prepared| prepared.id.name() == name)
                    {
                        found.entry(id.txn()).or_default().insert(name.clone(), age);
                    }
                }
                Err(error) => part.unasked.push(Unasked::new(source, Some(name.clone()), &error)),
            }
        }
        let (mut strays, Strays { found: left, unasked }) = (BTreeSet::new(), strays_of?);
        for Stray { txn, prepared, .. } in left {
            strays.insert(txn);
            found.entry(txn).or_default().extend(prepared);
        }
        for (name, why) in unasked {
            if part.unasked.iter().all(|unasked| unasked.part.as_ref() != Some(&name)) {
                part.unasked.push(Unasked::of(source, Some(name), why));
            }
        }
        let keys = found.keys().map(|txn| rows::key(*txn)).collect::<Result<Vec<_>, _>>()?;
        let decided = match keys.is_empty() {
            true => Vec::new(),
            false => self.backend.rows(self.tables.decisions.name(), &keys).await?,
        };
        let is_left = |txn: &Uuid, decided: &Option<StoredRow>| decided.is_none() || strays.contains(txn);
        let undecided = found.into_iter().zip(decided).filter(|((txn, _), decided)| is_left(txn, decided));
        let doubt = |((txn, prepared), _)| Doubt { txn, prepared, stray: strays.contains(&txn) };
        Ok(undecided.map(doubt).collect())
    }
}

impl<B: Backend> TwoPhase<B> {
    /// Left what was decided, right what is at the participants: of what is not done, and of what is prepared.
    pub(crate) fn audited(&self) -> BoxStream<'static, Result<Pair<String, String>, StoreError>> {
        let begin = (self.clone(), Some((0, None::<String>)));
        let pages = stream::try_unfold(begin, |(this, after)| async move {
            let Some((n, after)) = after else { return Ok::<_, StoreError>(None) };
            let inner = &this.0;
            let Some(list) = inner.tables.lists().get(n).copied() else {
                let pairs = this.prepared().await?;
                return Ok(Some((stream::iter(pairs.into_iter().map(Ok::<_, StoreError>)), (this, None))));
            };
            let rows = list.stored_page(&inner.backend, after.as_deref(), AT_ONCE).await?;
            let next = rows.last().filter(|_| is_full(&rows, AT_ONCE)).map(|row| row.key.clone());
            let pairs: Vec<_> = rows.into_iter().flat_map(|row| inner.undone(list, row)).collect();
            let place = if next.is_some() { (n, next) } else { (n + 1, None) };
            Ok(Some((stream::iter(pairs.into_iter().map(Ok::<_, StoreError>)), (this, Some(place)))))
        });
        pages.try_flatten().boxed()
    }

    /// What is prepared, and what was decided about it. Who cannot be asked is an error.
    async fn prepared(&self) -> Result<Vec<Pair<String, String>>, StoreError> {
        let (inner, mut pairs) = (&self.0, Vec::new());
        let Strays { found, unasked } = self.strays().await?;
        if let Some((name, why)) = unasked.into_iter().next() {
            let why = std::io::Error::other(format!("participant {name:?}: {why}"));
            return Err(StoreError::transient("asking what is prepared", why));
        }
        for stray in found {
            let at = format!("prepared at {}, committed at {:?}", names(&stray.prepared), stray.committed);
            pairs.push(pair(&stray.txn.simple().to_string(), None, Some(at), false));
        }
        for (name, participant) in &inner.participants {
            for Prepared { id, age } in inner.in_time(participant.prepared(inner.backend.identity())).await? {
                // Of two participants in one database, each has its own.
                if id.name() != name && inner.participants.contains_key(id.name()) {
                    continue;
                }
                let (txn, key) = (id.txn(), format!("{} at {name:?}", id.txn().simple()));
                let decided = inner.decided(txn).await?;
                let is_young = age < inner.grace;
                // What is undecided is decided by recovery, or is among the strays; what is on the list is ended by it.
                let (Some(decided), false) = (decided, self.is_open(txn).await?) else { continue };
                let left = format!("{:?}, and done", decided.decision);
                pairs.push(pair(&key, Some(left), Some("prepared".to_owned()), is_young));
            }
        }
        Ok(pairs)
    }
}

impl<B: Backend> Inner<B> {
    /// The branches of one that is decided and not done. One that is torn is among the strays.
    fn undone(&self, list: &Table<Open>, row: StoredRow) -> Vec<Pair<String, String>> {
        let key = row.key.clone();
        let open = match list.decode(row) {
            Ok(row) => row.value,
            Err(error) => return vec![pair(&key, Some(chain(&error)), None, false)],
        };
        let Some(decision) = open.decision else { return Vec::new() };
        let is_young = self.is_young(&open);
        let of = |(name, waits): (String, Waits)| {
            let (left, key) = (Some(format!("{decision:?}")), format!("{key} at {name:?}"));
            let is_known = self.participants.contains_key(waits.participant(&name));
            match waits.odd {
                Some(odd) => pair(&key, left, Some(format!("{odd:?}")), false),
                // Recovery is at it, and nobody waits for an abort.
                None => pair(&key, left, None, is_known || is_young || decision == Decision::Abort),
            }
        };
        open.branches.into_iter().map(of).collect()
    }
}

/// What a retry has left, and what helps.
fn left_of(open: &Open) -> String {
    let of = |(name, waits): (&String, &Waits)| match (waits.odd, &waits.why) {
        (Some(odd), _) => {
            format!("branch {name:?} is not what was decided ({odd:?}): see to it, then skip it")
        }
        (None, Some(why)) => format!("branch {name:?} is not done: {why}"),
        (None, None) => {
            format!("branch {name:?} is not done: its participant does not answer, or is not configured here")
        }
    };
    open.branches.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// Why a branch is not what was decided, if that is known.
fn why(branch: &PendingBranch) -> Option<String> {
    let PendingBranch { branch, state, why, .. } = branch;
    match (state, why) {
        (PendingState::Unread, why) => why.clone(),
        (PendingState::Parked(odd), _) => Some(format!("{branch:?} is not what was decided: {odd:?}")),
        (PendingState::Missing, None) => Some(format!("{branch:?} is not configured here")),
        (_, Some(why)) => Some(format!("{branch:?}: {why}")),
        (PendingState::Waits, None) => None,
    }
}

fn pair(key: &str, left: Option<String>, right: Option<String>, live: bool) -> Pair<String, String> {
    let entry = |value| Entry::new(key.to_owned(), value).live(live);
    Pair::new(key.to_owned(), left.map(entry), right.map(entry))
}

impl Doubt {
    fn says(&self) -> String {
        let Self { prepared, stray, .. } = self;
        let who = if *stray { "a person has to decide" } else { "nothing is decided yet" };
        match prepared.is_empty() {
            true => format!("a part of it was prepared, and {who}"),
            false => format!("it is prepared at {}, and {who}", names(prepared)),
        }
    }

    fn listed(&self, now: Timestamp) -> Listed {
        let status = if self.stray { Status::Torn } else { Status::InDoubt };
        let oldest = self.prepared.values().max().copied().unwrap_or_default();
        let (reason, since) = (Some(self.says()), now.checked_sub(oldest).ok());
        let error = reason.as_deref().map(fingerprint::of).filter(|_| self.stray);
        Listed { reason, since, error, ..of_txn(self.txn, status) }
    }
}

fn of_txn(txn: Uuid, status: Status) -> Listed {
    let which = Which::new(Pattern::TWO_PHASE, Pattern::TWO_PHASE.name(), txn.simple().to_string());
    Listed { begun: born(txn), ..Listed::new(which.with_id(txn), 0, status) }
}

fn txn_of(which: &Which) -> Result<Uuid, ActError> {
    let txn = Uuid::try_parse(&which.key).ok().filter(|txn| which.is(*txn));
    txn.ok_or_else(|| ActError::Missing(which.clone()))
}

fn names(prepared: &BTreeMap<String, Duration>) -> String {
    prepared.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use es_core::id::Ids;
    use es_core::memory::MemoryBackend;
    use es_core::store::{Branch, BranchId, Fate, Marked, Participant, write_rows};
    use tokio::time::Instant;

    use super::super::machine::Odd;
    use super::*;

    /// A database that takes part, and does not answer.
    #[derive(Debug)]
    struct Hangs(&'static str);

    struct Nothing;

    #[async_trait]
    impl Branch for Nothing {
        async fn has_written(&mut self) -> Result<bool, StoreError> {
            std::future::pending().await
        }
        async fn end(self) -> Result<(), StoreError> {
            std::future::pending().await
        }
        async fn prepare(self) -> Result<(), StoreError> {
            std::future::pending().await
        }
        async fn commit(self) -> Result<(), StoreError> {
            std::future::pending().await
        }
        async fn rollback(self) -> Result<(), StoreError> {
            std::future::pending().await
        }
    }

    #[async_trait]
    impl Participant for Hangs {
        type Branch = Nothing;

        fn name(&self) -> &str {
            self.0
        }
        async fn check(&self) -> Result<(), StoreError> {
            std::future::pending().await
        }
        async fn begin(&self, _: &BranchId) -> Result<Nothing, StoreError> {
            std::future::pending().await
        }
        async fn commit(&self, _: &BranchId) -> Result<Fate, StoreError> {
            std::future::pending().await
        }
        async fn abort(&self, _: &BranchId) -> Result<Fate, StoreError> {
            std::future::pending().await
        }
        async fn was_committed(&self, _: &BranchId) -> Result<Marked, StoreError> {
            std::future::pending().await
        }
        async fn outcome(&self, _: &BranchId) -> Result<Fate, StoreError> {
            std::future::pending().await
        }
        async fn prepared(&self, _: Uuid) -> Result<Vec<Prepared>, StoreError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn participants_that_hang_hide_nothing_of_what_is_stored() {
        let builder = TwoPhase::on(MemoryBackend::new()).unwrap();
        let builder =
            ["a", "b", "c"].into_iter().fold(builder, |builder, name| builder.participant(Hangs(name)));
        let two_phase = builder.build().unwrap();
        let (inner, txn) = (&two_phase.0, Ids::default().next());
        let mut open = Open::new(Decision::Commit, ["a".to_owned()], Timestamp::UNIX_EPOCH);
        open.branches.get_mut("a").unwrap().odd = Some(Odd::RolledBack);
        let row = inner.tables.aside.insert(rows::key(txn).unwrap(), open).unwrap();
        assert!(write_rows(&inner.backend, vec![row]).await.unwrap().is_yes());

        let begun = Instant::now();
        let part = Source::page(&two_phase, &Filter::needs_person(), None, 10).await.unwrap();
        // The list of all waits for 30 seconds for a source, and has nothing of it then.
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let keys: Vec<_> = part.listed.iter().map(|listed| (&*listed.which.key, listed.status)).collect();
        assert_eq!(keys, [(&*txn.simple().to_string(), Status::Parked)]);
        assert!(!part.unasked.is_empty(), "who does not answer is named");
    }
}

//! The coordinator at work: does what the machine says, and tells it what came of that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::{self, BranchId, CommitError, StoreError, Transaction, Won, write_rows};
use es_core::{Backend, ErrorKind, chain};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use uuid::Uuid;

use super::asked::theirs;
use super::committed::Committed;
use super::erased::{DynBranch, DynParticipant};
use super::error::{AbortedBy, InDoubt, KnownBy, TwoPhaseError};
use super::global::{GlobalTx, Held};
use super::machine::{Act, Answer, Coordinator, Decided, Decision, Heard, Next};
use super::manager::{Inner, in_time};
use super::recovery::Failing;

/// A transaction on its way to an end.
pub(super) struct Drive<B: Backend> {
    inner: Arc<Inner<B>>,
    txn: Uuid,
    coordinator: Coordinator,
    journal: Option<B::Tx>,
    held: Vec<Held>,
    /// What the journal's part came to.
    done: Option<store::Committed>,
    /// The first reason to go back.
    why: Option<AbortedBy>,
    /// Whether there is such a part.
    with_journal: bool,
    /// The only writer, if it was asked for what became of it.
    alone: Option<String>,
}

/// What became of an act.
struct Met {
    heard: Heard,
    /// A branch that goes on.
    branch: Option<(usize, Box<dyn DynBranch>)>,
    done: Option<store::Committed>,
    why: Option<AbortedBy>,
}

impl From<Heard> for Met {
    fn from(heard: Heard) -> Self {
        Self { heard, branch: None, done: None, why: None }
    }
}

impl Met {
    fn because(heard: Heard, why: AbortedBy) -> Self {
        Self { why: Some(why), ..heard.into() }
    }
}

impl<B: Backend> Drive<B> {
    pub(super) fn new(tx: GlobalTx<B>) -> Self {
        let GlobalTx { inner, txn, journal, branches: held } = tx;
        let with_journal = journal.is_some();
        let coordinator = Coordinator::new(held.len(), with_journal);
        Self { inner, txn, coordinator, journal, held, done: None, why: None, with_journal, alone: None }
    }

    pub(super) async fn run(mut self) -> Result<Committed<B>, TwoPhaseError> {
        loop {
            let acts = match self.coordinator.next() {
                Next::Do(acts) => acts,
                Next::End(answer) => return self.answer(answer),
            };
            let acts: Vec<_> = acts.into_iter().map(|act| self.start(act)).collect();
            for met in join_all(acts).await {
                let Met { heard, branch, done, why } = met;
                self.coordinator.heard(heard);
                self.why = self.why.take().or(why);
                self.done = self.done.take().or(done);
                if let Some((i, branch)) = branch {
                    self.held[i].branch = Some(branch);
                }
            }
        }
    }

    pub(super) async fn roll_back(mut self) {
        self.start(Act::LeaveJournal).await;
        let ends: Vec<_> = (0..self.held.len()).map(|i| self.start(Act::RollBack(i))).collect();
        join_all(ends).await;
    }

    fn answer(self, answer: Answer) -> Result<Committed<B>, TwoPhaseError> {
        let txn = self.txn;
        match answer {
            Answer::Committed => {
                let pending = self.names(self.coordinator.pending());
                Ok(Committed { inner: self.inner, txn, journal: self.done, pending })
            }
            Answer::Aborted => {
                Err(TwoPhaseError::Aborted { txn, why: self.why.unwrap_or(AbortedBy::Overtaken) })
            }
            Answer::Unknown => {
                let known_by = self.alone.map_or(KnownBy::Store, KnownBy::Participant);
                Err(TwoPhaseError::Unknown(InDoubt { txn, known_by, journal: self.with_journal }))
            }
            Answer::Parked => {
                Err(TwoPhaseError::Parked { txn, branches: self.names(self.coordinator.taken_back()) })
            }
            Answer::WithoutJournal => Err(TwoPhaseError::WithoutJournal {
                txn,
                branches: self.names(self.coordinator.taken_back()),
            }),
        }
    }

    fn names(&self, branches: impl Iterator<Item = usize>) -> Vec<String> {
        branches.map(|i| self.held[i].id.name().to_owned()).collect()
    }

    /// An act, with all that it needs: acts go on at the same time.
    fn start(&mut self, act: Act) -> BoxFuture<'static, Met> {
        let (inner, txn) = (self.inner.clone(), self.txn);
        match act {
            Act::Look(i) | Act::Leave(i) | Act::Prepare(i) | Act::Alone(i) | Act::RollBack(i) => {
                let name = self.held[i].id.name().to_owned();
                match self.held[i].branch.take() {
                    Some(branch) => of_session(inner.limit, act, i, branch, name).boxed(),
                    None => unreachable!("a branch is ended once"),
                }
            }
            Act::Commit(i) | Act::Abort(i) => {
                ended(inner, act, i, self.held[i].participant.clone(), self.held[i].id.clone()).boxed()
            }
            Act::AskAlone(i) => {
                let (participant, id) = (self.held[i].participant.clone(), self.held[i].id.clone());
                self.alone = Some(id.name().to_owned());
                async move {
                    let fate = inner.patiently(|| participant.outcome(&id)).await;
                    Heard::AskedAlone(i, unheard(txn, fate)).into()
                }
                .boxed()
            }
            Act::Decide => {
                let branches = self.names(self.coordinator.prepared());
                decide(inner, txn, branches, self.journal.take()).boxed()
            }
            Act::Ask => asks(inner, txn, self.names(self.coordinator.prepared())).boxed(),
            Act::GiveUp => {
                let (back, silent) =
                    (self.names(self.coordinator.taken_back()), self.names(self.coordinator.pending()));
                gives_up(inner, txn, back, silent).boxed()
            }
            Act::LeaveJournal => leave(txn, self.journal.take()).boxed(),
            Act::Forget => async move {
                inner.forget_open(txn).await;
                Heard::Forgotten.into()
            }
            .boxed(),
        }
    }
}

/// What goes over the connection of a branch. If that fails, or takes too long, the branch is dropped, which takes it back.
async fn of_session(
    limit: Duration,
    act: Act,
    i: usize,
    mut branch: Box<dyn DynBranch>,
    name: String,
) -> Met {
    let of = |source| AbortedBy::Branch { branch: name, source };
    let (done, heard): (_, fn(usize, bool) -> Heard) = match act {
        Act::Leave(_) => (in_time(limit, branch.end()).await, Heard::Left),
        Act::Prepare(_) => (in_time(limit, branch.prepare()).await, Heard::Prepared),
        Act::Alone(_) => (in_time(limit, branch.commit()).await, Heard::Alone),
        Act::RollBack(_) => (in_time(limit, branch.rollback()).await, |i, _| Heard::RolledBack(i)),
        _ => match in_time(limit, branch.has_written()).await {
            Ok(wrote) => {
                let met = Met::from(Heard::Looked(i, Some(wrote)));
                return Met { branch: Some((i, branch)), ..met };
            }
            Err(error) => (Err(error), |i, _| Heard::Looked(i, None)),
        },
    };
    match done {
        Ok(()) => heard(i, true).into(),
        Err(error) => Met::because(heard(i, false), of(error)),
    }
}

/// Rolls back what the journal's database has of the transaction.
async fn leave<T: Transaction>(txn: Uuid, journal: Option<T>) -> Met {
    if let Some(tx) = journal
        && let Err(error) = tx.rollback().await
    {
        // The backend rolls back by itself.
        tracing::debug!(%txn, error = chain(&error), "a transaction was not rolled back at once");
    }
    Heard::JournalLeft.into()
}

/// Ends a branch that is prepared, or may be.
async fn ended<B: Backend>(
    inner: Arc<Inner<B>>,
    act: Act,
    i: usize,
    participant: Arc<dyn DynParticipant>,
    id: BranchId,
) -> Met {
    let decision = if let Act::Commit(_) = act { Decision::Commit } else { Decision::Abort };
    let told = inner.ends(participant.as_ref(), &id, decision).await.inspect_err(|error| {
        tracing::info!(branch = %id, error = chain(error), "a branch waits to be ended");
    });
    Heard::Fate(i, told.ok()).into()
}

/// Hears what was decided, of branches that are prepared.
async fn asks<B: Backend>(inner: Arc<Inner<B>>, txn: Uuid, branches: Vec<String>) -> Met {
    let ask = async || {
        let decided = inner.decision(txn, &BTreeSet::new()).await?.ok_or_else(|| theirs(txn))?;
        if decided.decision == Decision::Commit && decided.adopted {
            // The operator may not have seen all of them.
            inner.adds(txn, &branches).await?;
            return Ok(Heard::Adopted);
        }
        Ok::<_, StoreError>(Heard::Asked(Some(decided.decision)))
    };
    let asked = inner.patiently(|| ask().boxed()).await;
    unheard(txn, asked).unwrap_or(Heard::Asked(None)).into()
}

/// Decides to abort what was taken back, and what is left of it. Those that do not answer are left to recovery.
async fn gives_up<B: Backend>(
    inner: Arc<Inner<B>>,
    txn: Uuid,
    back: Vec<String>,
    silent: Vec<String>,
) -> Met {
    let give_up = async || {
        let decision = inner.gives_up(txn).await?;
        if decision == Decision::Commit {
            inner.adds(txn, &back).await?;
        }
        Ok::<_, StoreError>(decision)
    };
    let decision = unheard(txn, inner.patiently(|| give_up().boxed()).await);
    if decision.is_some() {
        let failing = Failing::default();
        silent.iter().for_each(|name| failing.silence(name));
        if let Err(error) = inner.settle(txn, &failing).await {
            tracing::debug!(%txn, error = chain(&error), "what is left of it is left to recovery");
        }
    }
    Heard::GaveUp(decision).into()
}

/// Inserts the decision to commit, with the journal's part if there is one.
async fn decide<B: Backend>(
    inner: Arc<Inner<B>>,
    txn: Uuid,
    branches: Vec<String>,
    journal: Option<B::Tx>,
) -> Met {
    let rows = match inner.tables.to_commit(txn, branches, inner.ids.clock().now()) {
        Ok(rows) => rows,
        Err(error) => {
            return Met::because(Heard::Decided(Decided::Refused), AbortedBy::Journal(error.into()));
        }
    };
    let Some(mut tx) = journal else {
        return match write_rows(&inner.backend, rows).await {
            Ok(Won::Yes(_)) => Heard::Decided(Decided::Yes).into(),
            Ok(Won::No(_)) => Heard::Decided(Decided::Unheard).into(),
            Err(error) => unheard_of(txn, error.into()),
        };
    };
    tx.staged().rows.extend(rows);
    match tx.commit().await {
        Ok(done) => Met { done: Some(done), ..Heard::Decided(Decided::Yes).into() },
        // Another decision was there.
        Err(CommitError::Fenced { table, .. }) if inner.tables.is_of_decision(&table) => {
            Heard::Decided(Decided::Unheard).into()
        }
        Err(error) if error.kind() == ErrorKind::Unknown => unheard_of(txn, error),
        Err(error) => Met::because(Heard::Decided(Decided::Refused), AbortedBy::Journal(error)),
    }
}

/// Nobody has heard whether a decision is stored.
fn unheard_of(txn: Uuid, error: CommitError) -> Met {
    tracing::info!(%txn, error = chain(&error), "it was not heard whether a decision is stored");
    Met::because(Heard::Decided(Decided::Unheard), AbortedBy::Unheard(error))
}

fn unheard<T>(txn: Uuid, asked: Result<T, StoreError>) -> Option<T> {
    asked
        .inspect_err(|error| {
            tracing::warn!(%txn, error = chain(error), "it cannot be found out now whether a transaction is committed");
        })
        .ok()
}

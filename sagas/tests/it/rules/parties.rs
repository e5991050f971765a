//! Two participants of three-phase commits, each with a database of its own, and whoever coordinates them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Standing as Row};
use es_core::store::StoreError;
use es_core::{App, BoxError};
use sagas::saga::{Handle, Outcome, Retry, RunError, RunShown, Runs, SagaInput, StepError, Verb};
use sagas::three_phase::{
    Decision, Decisions, GuardedParticipant, Holds, ParticipantError, Peers, Standing, StoredDecisions,
    ThreePhase, ThreePhaseApp as _, ThreePhaseTransaction, ThreePhases as _, Txn,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

use super::Subject;
use super::ground::{Ground, PATIENCE};
use super::shaky::{Ledger, Shaky, ShakyTx};

/// A database in memory: who begins a transaction waits for the one that is open.
#[derive(Clone, Debug, Default)]
pub(super) struct InMemory {
    turn: Arc<tokio::sync::Mutex<()>>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    rows: BTreeMap<(Uuid, String), GuardRow>,
    floor: Uuid,
    written: Vec<String>,
}

pub(super) struct InMemoryTx {
    _turn: OwnedMutexGuard<()>,
    of: Arc<Mutex<Kept>>,
    kept: Kept,
    spoiled: bool,
}

fn row_of(key: &GuardKey) -> (Uuid, String) {
    (key.run(), key.call().to_owned())
}

impl InMemory {
    /// It is set back to when nothing was in it.
    pub(super) fn set_back(&self) {
        *self.kept.lock().unwrap() = Kept::default();
    }
}

impl GuardedDatabase for InMemory {
    type Tx = InMemoryTx;
    async fn begin(&self) -> Result<InMemoryTx, StoreError> {
        let turn = self.turn.clone().lock_owned().await;
        let kept = self.kept.lock().unwrap().clone();
        Ok(InMemoryTx { _turn: turn, of: self.kept.clone(), kept, spoiled: false })
    }
}

impl GuardRows for InMemoryTx {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        let is_there = self.kept.rows.contains_key(&row_of(key));
        if !is_there {
            self.kept.rows.insert(row_of(key), row.clone());
        }
        Ok(!is_there)
    }
    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        Ok(self.kept.rows.get(&row_of(key)).cloned())
    }
    async fn change(&mut self, key: &GuardKey, standing: &Row) -> Result<(), StoreError> {
        if self.spoiled {
            return Err(StoreError::misuse("a statement has failed"));
        }
        let row = self.kept.rows.get_mut(&row_of(key));
        let row = row.ok_or_else(|| StoreError::Corrupt { what: "a guard row is gone".to_owned() })?;
        row.standing = standing.clone();
        Ok(())
    }
    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        Ok(self.kept.floor)
    }
    async fn forget(&mut self, floor: Uuid) -> Result<u64, StoreError> {
        let before = self.kept.rows.len();
        self.kept.rows.retain(|(run, _), _| *run >= floor);
        self.kept.floor = self.kept.floor.max(floor);
        Ok((before - self.kept.rows.len()) as u64)
    }
    async fn page(
        &mut self,
        after: Option<&GuardKey>,
        limit: usize,
    ) -> Result<Vec<(GuardKey, GuardRow)>, StoreError> {
        let after = after.map(row_of);
        let behind = self.kept.rows.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
        let page = behind.take(limit).map(|((run, call), row)| {
            let key =
                GuardKey::new(*run, call.clone()).map_err(|error| StoreError::misuse(error.to_string()))?;
            Ok((key, row.clone()))
        });
        page.collect()
    }
    async fn commit(mut self) -> Result<(), StoreError> {
        if self.spoiled {
            return Err(StoreError::misuse("a statement has failed"));
        }
        *self.of.lock().unwrap() = std::mem::take(&mut self.kept);
        Ok(())
    }
    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Ledger for InMemory {
    async fn make(&self) {}
    async fn impatient(&self) -> Self {
        self.clone()
    }
    async fn strict(&self) -> Self {
        self.clone()
    }
    async fn write(tx: &mut InMemoryTx, what: &str) -> Result<(), BoxError> {
        tx.kept.written.push(what.to_owned());
        Ok(())
    }
    async fn spoil(tx: &mut InMemoryTx) {
        tx.spoiled = true;
    }
    async fn written(&self) -> Vec<String> {
        let mut written = self.kept.lock().unwrap().written.clone();
        written.sort();
        written
    }
    async fn loses(&self, call: &str) {
        let (rows, before) = {
            let mut kept = self.kept.lock().unwrap();
            let before = kept.rows.len();
            kept.rows.retain(|(_, of), _| of != call);
            (kept.rows.len(), before)
        };
        assert_eq!(rows + 1, before);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) key: String,
    pub(super) cents: u32,
}

impl SagaInput for Transfer {}

/// What the participant on the right says no to.
pub(super) const DEAR: u32 = 1_000;
/// A minute to decide in.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// For how long participants wait for each other.
const LIMIT: Duration = Duration::from_millis(200);

pub(super) const LEFT: &str = "left";
pub(super) const RIGHT: &str = "right";

/// What a participant does: each of its effects is noted, twice if it is done twice.
pub(super) struct Bank<D> {
    name: &'static str,
    limit: u32,
    /// By its transactions: a database of a business has this in what it writes.
    held: Arc<Mutex<BTreeSet<Uuid>>>,
    of: std::marker::PhantomData<fn() -> D>,
}

impl<D: Ledger> Holds<ShakyTx<D::Tx>> for Bank<D> {
    type Input = Transfer;
    type Held = Transfer;
    async fn hold(
        &self,
        txn: Uuid,
        input: &Transfer,
        tx: &mut ShakyTx<D::Tx>,
    ) -> Result<Transfer, StepError<String>> {
        self.held.lock().unwrap().insert(txn);
        // Before it refuses: nothing of it may stay.
        D::write(&mut tx.tx, &format!("{} {} held", input.key, self.name)).await.map_err(StepError::Retry)?;
        match input.cents < self.limit {
            true => Ok(input.clone()),
            false => Err(StepError::Refused("too dear".to_owned())),
        }
    }
    async fn commit(&self, _: Uuid, held: Transfer, tx: &mut ShakyTx<D::Tx>) -> Result<(), BoxError> {
        D::write(&mut tx.tx, &format!("{} {} used", held.key, self.name)).await
    }
    async fn release(&self, _: Uuid, held: Transfer, tx: &mut ShakyTx<D::Tx>) -> Result<(), BoxError> {
        D::write(&mut tx.tx, &format!("{} {} freed", held.key, self.name)).await
    }
    async fn held(&self, _: &mut ShakyTx<D::Tx>) -> Result<Vec<Uuid>, BoxError> {
        Ok(self.held.lock().unwrap().iter().copied().collect())
    }
}

pub(super) type Participant<D> = GuardedParticipant<Shaky<D>, Bank<D>>;

/// What a call of a participant comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    /// It does not arrive.
    Lost,
    /// It arrives, and its answer is lost.
    Unheard,
    /// It waits until it is let go, and arrives.
    Waits,
}

/// Who is called, for which run, and what for.
type Of = (String, String, String);

/// What is between the coordinator, the participants and the journal.
#[derive(Default)]
struct Wires {
    plays: Mutex<BTreeMap<Of, VecDeque<Play>>>,
    /// Calls that are lost until it is mended.
    broken: Mutex<BTreeSet<Of>>,
    /// Calls each of which waits until it is let go.
    held: Mutex<BTreeSet<Of>>,
    waiting: Mutex<BTreeSet<Of>>,
    let_go: Notify,
    /// Participants that no other one reaches.
    apart: Mutex<BTreeSet<String>>,
    /// Whether participants take a question of another one, and never answer it.
    silent: Mutex<bool>,
    /// Whether participants do not reach the journal.
    no_journal: Mutex<bool>,
}

fn of(participant: &str, run: &str, verb: &str) -> Of {
    (participant.to_owned(), run.to_owned(), verb.to_owned())
}

impl Wires {
    async fn carries(&self, of: Of) -> Result<Option<Play>, BoxError> {
        if self.broken.lock().unwrap().contains(&of) {
            return Err("it is broken".into());
        }
        let play = self.plays.lock().unwrap().get_mut(&of).and_then(VecDeque::pop_front);
        if play == Some(Play::Lost) {
            return Err("no connection".into());
        }
        if play == Some(Play::Waits) || self.held.lock().unwrap().contains(&of) {
            let woken = self.let_go.notified();
            self.waiting.lock().unwrap().insert(of.clone());
            woken.await;
            self.waiting.lock().unwrap().remove(&of);
        }
        Ok(play)
    }
}

/// Whether an answer is heard.
fn heard(play: Option<Play>) -> Result<(), BoxError> {
    if play == Some(Play::Unheard) { Err("the answer was lost".into()) } else { Ok(()) }
}

/// A participant, as the coordinator calls it.
struct Line<D: Ledger> {
    to: Participant<D>,
    wires: Arc<Wires>,
}

impl<D: Ledger> Line<D> {
    async fn carries(&self, txn: Txn<'_, Transfer>, verb: &str) -> Result<Option<Play>, BoxError> {
        self.wires.carries(of(self.to.name(), txn.key, verb)).await
    }
}

impl<D: Ledger> ThreePhase<Transfer> for Line<D> {
    fn name(&self) -> &str {
        self.to.name()
    }
    async fn can_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), StepError<String>> {
        let play = self.carries(txn, "can-commit").await.map_err(StepError::Retry)?;
        ThreePhase::can_commit(&self.to, txn).await?;
        heard(play).map_err(StepError::Retry)
    }
    async fn pre_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), StepError<String>> {
        let play = self.carries(txn, "pre-commit").await.map_err(StepError::Retry)?;
        ThreePhase::pre_commit(&self.to, txn).await?;
        heard(play).map_err(StepError::Retry)
    }
    async fn do_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
        let play = self.carries(txn, "do-commit").await?;
        ThreePhase::do_commit(&self.to, txn).await?;
        heard(play)
    }
    async fn abort(&self, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
        let play = self.carries(txn, "abort").await?;
        ThreePhase::abort(&self.to, txn).await?;
        heard(play)
    }
    fn retry(&self) -> Retry {
        let brief = Duration::from_millis(5);
        Retry::default().pauses(brief, brief * 4).tries(3).late(4, Duration::from_secs(3_600))
    }
}

/// The participants, as they reach each other.
struct Among<D: Ledger> {
    all: Mutex<BTreeMap<String, Participant<D>>>,
    wires: Arc<Wires>,
}

#[async_trait]
impl<D: Ledger> Peers for Among<D> {
    async fn standing(&self, participant: &str, txn: Uuid) -> Result<Standing, BoxError> {
        if self.wires.apart.lock().unwrap().contains(participant) {
            return Err("it is not reached".into());
        }
        if *self.wires.silent.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let to = self.all.lock().unwrap().get(participant).cloned().ok_or("there is none")?;
        Ok(to.standing(txn).await?)
    }
}

/// The journal, as participants reach it.
struct Journal {
    decisions: Arc<dyn Decisions>,
    wires: Arc<Wires>,
}

#[async_trait]
impl Decisions for Journal {
    async fn decide(&self, txn: Uuid, asked: Decision) -> Result<Decision, BoxError> {
        if *self.wires.no_journal.lock().unwrap() {
            return Err("the journal is not reached".into());
        }
        self.decisions.decide(txn, asked).await
    }
}

pub(super) struct Parties<'s, S: Subject, D: Ledger> {
    pub(super) ground: Ground<'s, S>,
    pub(super) decisions: StoredDecisions<S::Backend>,
    pub(super) databases: [Shaky<D>; 2],
    pub(super) left: Participant<D>,
    pub(super) right: Participant<D>,
    pub(super) nodes: Vec<App>,
    wires: Arc<Wires>,
}

impl<S: Subject, D: Ledger> fmt::Debug for Parties<'_, S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parties")
    }
}

impl<'s, S: Subject> Parties<'s, S, InMemory> {
    /// Each has a database in memory.
    pub(super) async fn start(subject: &'s S) -> Self {
        Self::with(subject, [InMemory::default(), InMemory::default()]).await
    }
}

impl<'s, S: Subject, D: Ledger + Clone> Parties<'s, S, D> {
    pub(super) async fn with(subject: &'s S, databases: [D; 2]) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        let decisions = StoredDecisions::on(ground.backend.clone()).unwrap();
        let (wires, databases) = (Arc::<Wires>::default(), databases.map(Shaky::new));
        let among = Arc::new(Among { all: Mutex::default(), wires: wires.clone() });
        let journal = Journal { decisions: Arc::new(decisions.clone()), wires: wires.clone() };
        let (journal, clock) = (Arc::new(journal), Arc::new(ground.clock.clone()));
        let make = |name: &'static str, database: &Shaky<D>, limit| {
            let bank = Bank { name, limit, held: Arc::default(), of: std::marker::PhantomData };
            let made = Participant::new(name, database.clone(), bank, among.clone(), journal.clone());
            let made = made.with_clock(clock.clone()).limit(LIMIT);
            among.all.lock().unwrap().insert(name.to_owned(), made.clone());
            made
        };
        let (left, right) = (make(LEFT, &databases[0], u32::MAX), make(RIGHT, &databases[1], DEAR));
        let mut parties = Self { ground, decisions, databases, left, right, nodes: Vec::new(), wires };
        parties.join().await;
        parties
    }

    pub(super) async fn join(&mut self) {
        let app = self.ground.join(|app| app.three_phase(self.transfer().build())).await;
        self.nodes.push(app);
    }

    fn transfer(&self) -> sagas::three_phase::ThreePhaseBuilder<Transfer> {
        let line = |to: &Participant<D>| Line { to: to.clone(), wires: self.wires.clone() };
        let transfer = ThreePhaseTransaction::new("transfer", 1).deadline(DEADLINE);
        transfer.participant(line(&self.left)).participant(line(&self.right))
    }

    /// A node is gone from one moment to the next.
    pub(super) fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
    }

    pub(super) fn plays(&self, participant: &str, run: &str, verb: &str, plays: &[Play]) {
        let plays = plays.iter().copied().collect();
        self.wires.plays.lock().unwrap().insert(of(participant, run, verb), plays);
    }

    pub(super) fn breaks(&self, participant: &str, run: &str, verb: &str) {
        self.wires.broken.lock().unwrap().insert(of(participant, run, verb));
    }

    pub(super) fn mend(&self) {
        self.wires.broken.lock().unwrap().clear();
    }

    /// Each such call waits, also one that is made again.
    pub(super) fn holds(&self, participants: &[&str], run: &str, verb: &str) {
        let held = participants.iter().map(|participant| of(participant, run, verb));
        self.wires.held.lock().unwrap().extend(held);
    }

    /// Those that wait arrive.
    pub(super) fn let_go(&self) {
        self.wires.held.lock().unwrap().clear();
        self.wires.let_go.notify_waiters();
    }

    pub(super) async fn until_waiting(&self, participant: &str, run: &str, verb: &str) {
        let (begun, of) = (Instant::now(), of(participant, run, verb));
        while !self.wires.waiting.lock().unwrap().contains(&of) {
            assert!(begun.elapsed() < PATIENCE / 10, "nothing waits: {of:?}");
            self.ground.pause().await;
        }
    }

    /// Participants do not reach each other, or do again.
    pub(super) fn part(&self, apart: bool) {
        let all = if apart { vec![LEFT.to_owned(), RIGHT.to_owned()] } else { Vec::new() };
        *self.wires.apart.lock().unwrap() = all.into_iter().collect();
    }

    /// Participants do not answer each other any more.
    pub(super) fn silence(&self) {
        *self.wires.silent.lock().unwrap() = true;
    }

    /// Participants do not reach the journal, or do again.
    pub(super) fn hide_journal(&self, hidden: bool) {
        *self.wires.no_journal.lock().unwrap() = hidden;
    }

    pub(super) async fn begin(&self, key: &str, cents: u32) -> Handle {
        let transfer = Transfer { key: key.to_owned(), cents };
        self.ground.ask(async || self.nodes[0].start_three_phase(key, &transfer).await).await
    }

    pub(super) async fn run(&self, key: &str, cents: u32) -> Outcome {
        let handle = self.begin(key, cents).await;
        self.end_of(&handle).await
    }

    pub(super) async fn end_of(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            if begun.elapsed() > PATIENCE / 10 {
                panic!("it does not end: {:#?}", self.show(handle.key()).await);
            }
            self.ground.pause().await;
        }
    }

    pub(super) fn runs(&self) -> Runs {
        self.nodes[0].three_phase_runs::<Transfer>().unwrap()
    }

    pub(super) async fn show(&self, key: &str) -> RunShown {
        let runs = self.runs();
        self.ground.ask(async || runs.show(key).await).await
    }

    /// Until a run looks like this.
    pub(super) async fn until(&self, key: &str, is_so: impl Fn(&RunShown) -> bool) -> RunShown {
        let begun = Instant::now();
        loop {
            let shown = self.show(key).await;
            if is_so(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it never came to that: {shown:#?}");
            self.ground.pause().await;
        }
    }

    /// Asks for something, until that is answered.
    pub(super) async fn ask(&self, key: &str, verb: Verb) -> Result<(), String> {
        let (runs, mut is_first) = (self.runs(), true);
        loop {
            let answer = runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await;
            match answer {
                Err(RunError::Store(_)) => is_first = false,
                // It was done the first time.
                Ok(Err(_)) | Err(RunError::Ended { .. }) if !is_first => return Ok(()),
                answer => return answer.unwrap(),
            }
            self.ground.pause().await;
        }
    }

    /// Asks for something that is declined. Gives why.
    pub(super) async fn declined(&self, key: &str, verb: Verb) -> String {
        let runs = self.runs();
        loop {
            match runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await {
                Err(RunError::Store(_)) => self.ground.pause().await,
                answer => return answer.unwrap().unwrap_err(),
            }
        }
    }

    /// One has waited for too long: what it goes by.
    pub(super) async fn terminate(&self, who: &Participant<D>, txn: Uuid) -> Option<Decision> {
        self.ground.ask(async || who.terminate(txn).await).await
    }

    pub(super) async fn standings(&self, txn: Uuid) -> [Standing; 2] {
        [self.left.standing(txn).await.unwrap(), self.right.standing(txn).await.unwrap()]
    }

    /// Until they stand there.
    pub(super) async fn until_standing(&self, txn: Uuid, standings: [Standing; 2]) {
        let begun = Instant::now();
        while self.standings(txn).await != standings {
            assert!(begun.elapsed() < PATIENCE / 10, "they stand at {:?}", self.standings(txn).await);
            self.ground.pause().await;
        }
    }

    /// What was done for a run, on the left and on the right.
    pub(super) async fn effects(&self, run: &str) -> [Vec<String>; 2] {
        let mut effects = [Vec::new(), Vec::new()];
        for ((effects, database), name) in effects.iter_mut().zip(&self.databases).zip([LEFT, RIGHT]) {
            let prefix = format!("{run} {name} ");
            let written = database.written().await;
            effects.extend(written.iter().filter_map(|what| what.strip_prefix(&prefix).map(str::to_owned)));
        }
        effects
    }

    /// Each effect once, on both sides.
    pub(super) async fn is_whole(&self, run: &str, outcome: &Outcome) {
        let effects = self.effects(run).await;
        let end = if *outcome == Outcome::Completed { "used" } else { "freed" };
        for side in &effects {
            let mut all = [end, "held"];
            all.sort_unstable();
            let is_nothing = side.is_empty() && *outcome != Outcome::Completed;
            assert!(*side == all || is_nothing, "{run}: {outcome}: {effects:?}");
        }
    }

    pub(super) async fn end(mut self) {
        for app in self.nodes.drain(..) {
            assert!(app.shutdown(PATIENCE).await);
        }
    }
}

/// Whether it stays in doubt since it cannot ask.
pub(super) fn is_undecided(answer: &Result<Option<Decision>, ParticipantError>) -> bool {
    matches!(answer, Err(ParticipantError::Undecided(_)))
}

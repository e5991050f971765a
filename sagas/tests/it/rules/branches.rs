//! A transfer between two banks by TCC: one in the store of the journal, the other one elsewhere, which does as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::store::{RowWrite, Table, Transaction};
use es_core::{App, AppBuilder, Backend, BoxError};
use sagas::saga::{
    Call, Cx, Handle, Journal, Outcome, Ran, Remote, Retry, RunError, RunShown, Runs, SagaInput, StepError,
    Verb,
};
use sagas::tcc::{Tcc, TccApp as _, TccTransaction, Tccs as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Subject;
use super::ground::{Ground, PATIENCE};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) cents: u32,
}

impl SagaInput for Transfer {}

/// What the bank here refuses.
pub(super) const DEAR: u32 = 1_000;
/// A minute to reserve in.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// What a call of the other bank comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Play {
    /// It is not reached.
    Fails,
    /// It acts, and its answer is lost.
    Unheard,
    Refuses,
    /// It waits until it is let go, and acts.
    Waits,
    /// It waits until it is let go, and is not reached.
    Hangs,
}

/// What the other bank knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    Reserved,
    Confirmed,
    Cancelled,
    /// The cancel came first.
    Barred,
}

/// The other bank. All nodes call the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Bank(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By run and call. One that is not named acts.
    plays: Mutex<BTreeMap<(String, String), VecDeque<Play>>>,
    /// What fails until it is mended.
    broken: Mutex<BTreeSet<(String, String)>>,
    accounts: Mutex<BTreeMap<String, Account>>,
    /// What acted of a run, in order; and the keys that it was called under.
    acted: Mutex<Vec<(String, String)>>,
    keys: Mutex<BTreeSet<(String, String)>>,
    waiting: Mutex<BTreeSet<(String, String)>>,
    let_go: Notify,
}

fn of(run: &str, call: &str) -> (String, String) {
    (run.to_owned(), call.to_owned())
}

impl Bank {
    pub(super) fn plays(&self, run: &str, call: &str, plays: &[Play]) {
        self.0.plays.lock().unwrap().insert(of(run, call), plays.iter().copied().collect());
    }

    pub(super) fn breaks(&self, run: &str, call: &str) {
        self.0.broken.lock().unwrap().insert(of(run, call));
    }

    pub(super) fn mend(&self) {
        self.0.broken.lock().unwrap().clear();
    }

    pub(super) fn acted(&self, run: &str) -> Vec<String> {
        let acted = self.0.acted.lock().unwrap();
        acted.iter().filter(|(of, _)| of == run).map(|(_, call)| call.clone()).collect()
    }

    /// The keys that a run has called it under.
    pub(super) fn keys(&self, run: &str) -> Vec<String> {
        let keys = self.0.keys.lock().unwrap();
        keys.iter().filter(|(of, _)| of == run).map(|(_, key)| key.clone()).collect()
    }

    pub(super) fn is_waiting(&self, run: &str, call: &str) -> bool {
        self.0.waiting.lock().unwrap().contains(&of(run, call))
    }

    /// Those that wait act.
    pub(super) fn let_go(&self) {
        self.0.let_go.notify_waiters();
    }

    async fn wait(&self, run: &str, call: &str) {
        let woken = self.0.let_go.notified();
        self.0.waiting.lock().unwrap().insert(of(run, call));
        woken.await;
        self.0.waiting.lock().unwrap().remove(&of(run, call));
    }

    /// A call that arrives, whoever waits for its answer: what a bank has to do that is called by key.
    pub(super) fn arrives(&self, run: &str, call: &str, key: &str) -> Result<(), BoxError> {
        use Account::{Barred, Cancelled, Confirmed, Reserved};
        let mut accounts = self.0.accounts.lock().unwrap();
        let then = match (call, accounts.get(key)) {
            ("reserve", None) => Reserved,
            ("confirm", Some(Reserved)) => Confirmed,
            ("cancel", None) => Barred,
            ("cancel", Some(Reserved)) => Cancelled,
            // It has done so before.
            ("reserve", Some(Reserved | Confirmed))
            | ("confirm", Some(Confirmed))
            | ("cancel", Some(Cancelled | Barred)) => return Ok(()),
            (_, account) => return Err(format!("{call} of what is {account:?}").into()),
        };
        accounts.insert(key.to_owned(), then);
        let what = if then == Barred { "bar" } else { call };
        self.0.acted.lock().unwrap().push(of(run, what));
        Ok(())
    }

    async fn called(&self, run: &str, name: &str, call: &Call) -> Result<(), StepError<String>> {
        self.0.keys.lock().unwrap().insert(of(run, call.key()));
        if self.0.broken.lock().unwrap().contains(&of(run, name)) {
            return Err(StepError::Retry("it is broken".into()));
        }
        let play = self.0.plays.lock().unwrap().get_mut(&of(run, name)).and_then(VecDeque::pop_front);
        match play {
            Some(Play::Fails) => return Err(StepError::Retry("no connection".into())),
            Some(Play::Refuses) => return Err(StepError::Refused("it is closed".to_owned())),
            Some(Play::Waits) => self.wait(run, name).await,
            Some(Play::Hangs) => {
                self.wait(run, name).await;
                return Err(StepError::Retry("no connection".into()));
            }
            Some(Play::Unheard) | None => {}
        }
        self.arrives(run, name, call.step_key()).map_err(StepError::Retry)?;
        match play {
            Some(Play::Unheard) => Err(StepError::Retry("the answer was lost".into())),
            _ => Ok(()),
        }
    }
}

fn retry() -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(3).late(4, Duration::from_secs(3_600))
}

fn failed(error: StepError<String>) -> BoxError {
    match error {
        StepError::Refused(why) => why.into(),
        StepError::Retry(error) => error,
    }
}

/// The bank in the store of the journal. Each of its effects is a row of its own: done twice, the second is refused.
pub(super) struct Debit<T>(PhantomData<fn() -> T>);

fn wrote<T: Transaction>(tx: &mut T, run: &str, what: &str) {
    let row = Table::<String>::new("effects").unwrap().insert(format!("{run}/{what}"), "done".to_owned());
    let row: RowWrite = row.unwrap();
    tx.staged().rows.push(row);
}

impl<T: Transaction> Tcc<Transfer> for Debit<T> {
    const NAME: &'static str = "debit";
    type Held = u32;
    type Refusal = String;
    type Place = Journal<T>;
    async fn reserve(&self, cx: Cx<'_, Transfer>, tx: &mut T) -> Result<u32, StepError<String>> {
        // Before it refuses: nothing of it may stay.
        wrote(tx, cx.key, "reserved");
        if cx.input.cents < DEAR {
            Ok(cx.input.cents)
        } else {
            Err(StepError::Refused("too dear".to_owned()))
        }
    }
    async fn confirm(&self, cx: Cx<'_, Transfer>, held: u32, tx: &mut T) -> Result<(), BoxError> {
        assert_eq!(held, cx.input.cents);
        wrote(tx, cx.key, "confirmed");
        Ok(())
    }
    async fn cancel(&self, cx: Cx<'_, Transfer>, held: Ran<u32>, tx: &mut T) -> Result<(), BoxError> {
        // What is done here is known.
        assert_eq!(held, Ran::Yes(cx.input.cents));
        wrote(tx, cx.key, "cancelled");
        Ok(())
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// The other bank.
pub(super) struct Credit(Bank);

impl Tcc<Transfer> for Credit {
    const NAME: &'static str = "credit";
    type Held = String;
    type Refusal = String;
    type Place = Remote;
    async fn reserve(&self, cx: Cx<'_, Transfer>, call: &mut Call) -> Result<String, StepError<String>> {
        assert_eq!(call.key(), call.step_key());
        self.0.called(cx.key, "reserve", call).await?;
        Ok(call.key().to_owned())
    }
    async fn confirm(&self, cx: Cx<'_, Transfer>, held: String, call: &mut Call) -> Result<(), BoxError> {
        assert_eq!(held, call.step_key());
        self.0.called(cx.key, "confirm", call).await.map_err(failed)
    }
    async fn cancel(&self, cx: Cx<'_, Transfer>, held: Ran<String>, call: &mut Call) -> Result<(), BoxError> {
        assert!(held == Ran::Maybe || held == Ran::Yes(call.step_key().to_owned()), "{held:?}");
        self.0.called(cx.key, "cancel", call).await.map_err(failed)
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// What a newer definition has also: a branch that only takes part.
struct Fee<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Tcc<Transfer> for Fee<T> {
    const NAME: &'static str = "fee";
    type Held = ();
    type Refusal = String;
    type Place = Journal<T>;
    async fn reserve(&self, _: Cx<'_, Transfer>, _: &mut T) -> Result<(), StepError<String>> {
        Ok(())
    }
    async fn confirm(&self, _: Cx<'_, Transfer>, (): (), _: &mut T) -> Result<(), BoxError> {
        Ok(())
    }
    async fn cancel(&self, _: Cx<'_, Transfer>, _: Ran<()>, _: &mut T) -> Result<(), BoxError> {
        Ok(())
    }
}

pub(super) fn transfer<T: Transaction>(bank: &Bank, version: u32) -> TccTransaction<Transfer, T> {
    let transfer = TccTransaction::new("transfer", version).deadline(DEADLINE);
    let transfer = transfer.branch(Debit(PhantomData)).branch(Credit(bank.clone()));
    if version == 1 { transfer.build() } else { transfer.branch(Fee(PhantomData)).build() }
}

pub(super) struct Transfers<'s, S: Subject> {
    pub(super) ground: Ground<'s, S>,
    pub(super) bank: Bank,
    pub(super) nodes: Vec<App>,
}

impl<'s, S: Subject> Transfers<'s, S> {
    pub(super) async fn start(subject: &'s S) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        let mut transfers = Self { ground, bank: Bank::default(), nodes: Vec::new() };
        transfers.join().await;
        transfers
    }

    pub(super) async fn join(&mut self) {
        self.join_with(|app| app).await;
    }

    pub(super) async fn join_with(
        &mut self,
        wire: impl Fn(AppBuilder<S::Backend>) -> AppBuilder<S::Backend>,
    ) {
        let of = || transfer::<<S::Backend as Backend>::Tx>(&self.bank, 1);
        let app = self.ground.join(|app| wire(app.tcc(of()))).await;
        self.nodes.push(app);
    }

    /// A node with these versions of the definition, the newest first.
    pub(super) async fn join_as(&mut self, versions: &[u32]) {
        let wire = |app: AppBuilder<S::Backend>| {
            let of = |version: &u32| transfer::<<S::Backend as Backend>::Tx>(&self.bank, *version);
            let app = app.tcc(of(&versions[0]));
            versions[1..].iter().fold(app, |app, version| app.earlier_tcc(of(version)))
        };
        let app = self.ground.join(wire).await;
        self.nodes.push(app);
    }

    /// A node is gone from one moment to the next.
    pub(super) fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
    }

    pub(super) async fn begin(&self, key: &str, cents: u32) -> Handle {
        let transfer = Transfer { cents };
        self.ground.ask(async || self.nodes[0].start_tcc(key, &transfer).await).await
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
        self.nodes[0].tcc_runs::<Transfer>().unwrap()
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

    pub(super) async fn until_waiting(&self, key: &str, call: &str) {
        while !self.bank.is_waiting(key, call) {
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

    /// What is stored of what the bank here did.
    pub(super) async fn effects(&self, of: &str) -> Vec<String> {
        let table = Table::<Value>::new("effects").unwrap();
        let rows = self.ground.ask(async || table.all(&self.ground.backend).await).await;
        let prefix = format!("{of}/");
        rows.into_iter().filter_map(|row| row.key.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    /// The rows of runs that have ended, in tables of what comes and goes.
    pub(super) async fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        for table in ["hot.txn.wakes.tcc.transfer.v1", "txn.attention.tcc.transfer"] {
            let table = Table::<Value>::new(table).unwrap();
            let rows = self.ground.ask(async || table.all(&self.ground.backend).await).await;
            left.extend(rows.into_iter().map(|row| row.key));
        }
        left
    }

    pub(super) async fn end(mut self) {
        for app in self.nodes.drain(..) {
            assert!(app.shutdown(PATIENCE).await);
        }
    }
}

impl<S: Subject> fmt::Debug for Transfers<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bank.fmt(f)
    }
}

//! Half messages and what decides about them: a database that can be away, and hold its lock; a listener that says as it is told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Locked, Standing};
use es_core::processor::SLICES;
use es_core::store::{EventFilter, Position, StoreError};
use es_core::{App, BoxError, Event as _, EventStore as _};
use sagas::half::{
    ByCaller, Half, HalfApp as _, HalfMessage, HalfMessages, Halves as _, LocalState, LocalTransaction,
    TransactionListener,
};
use sagas::message::{MessageEvent, Published};
use sagas::saga::{Cx, Handle, Outcome, Retry, RunError, RunShown, Runs, SagaInput, StepError, Verb};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::Subject;
use super::ground::{Ground, PATIENCE};

/// What is refused.
pub(super) const DEAR: u32 = 1_000;
/// For so long nothing is checked by itself.
pub(super) const IMMUNITY: Duration = Duration::from_secs(60);
/// After so many checks a person is asked.
pub(super) const MOST: u32 = 3;
/// For how long the lock of the till is waited for.
const WAITS: Duration = Duration::from_millis(20);

/// A database with guard rows: one transaction at a time has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Till {
    books: Arc<tokio::sync::Mutex<Books>>,
    pub(super) is_away: Arc<AtomicBool>,
}

#[derive(Clone, Debug, Default)]
struct Books {
    guards: BTreeMap<(Uuid, String), GuardRow>,
    sales: Vec<String>,
}

/// A transaction of it. Dropped, nothing of it stays.
#[derive(Debug)]
pub(super) struct TillTx {
    books: OwnedMutexGuard<Books>,
    own: Books,
}

impl TillTx {
    pub(super) fn sell(&mut self, what: &str) {
        self.own.sales.push(what.to_owned());
    }
}

impl Till {
    pub(super) async fn sales(&self) -> Vec<String> {
        self.books.lock().await.sales.clone()
    }

    /// The guard row of a run is lost.
    pub(super) async fn loses(&self, run: Uuid) {
        let mut books = self.books.lock().await;
        let before = books.guards.len();
        books.guards.retain(|(of, _), _| *of != run);
        assert_eq!(books.guards.len() + 1, before);
    }
}

impl GuardedDatabase for Till {
    type Tx = TillTx;

    async fn begin(&self) -> Result<TillTx, StoreError> {
        let what = "opening the till";
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::transient(what, std::io::Error::other("it is away")));
        }
        match tokio::time::timeout(WAITS, self.books.clone().lock_owned()).await {
            Ok(books) => {
                let own = books.clone();
                Ok(TillTx { books, own })
            }
            Err(late) => Err(StoreError::transient(what, Locked(late.into()))),
        }
    }
}

impl GuardRows for TillTx {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        let of = (key.run(), key.call().to_owned());
        let is_first = !self.own.guards.contains_key(&of);
        if is_first {
            self.own.guards.insert(of, row.clone());
        }
        Ok(is_first)
    }
    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        Ok(self.own.guards.get(&(key.run(), key.call().to_owned())).cloned())
    }
    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        let row = self.own.guards.get_mut(&(key.run(), key.call().to_owned()));
        row.ok_or_else(|| StoreError::misuse("it is gone"))?.standing = standing.clone();
        Ok(())
    }
    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        Ok(Uuid::nil())
    }
    async fn forget(&mut self, _: Uuid) -> Result<u64, StoreError> {
        Ok(0)
    }
    async fn page(
        &mut self,
        after: Option<&GuardKey>,
        limit: usize,
    ) -> Result<Vec<(GuardKey, GuardRow)>, StoreError> {
        let after = after.map(|after| (after.run(), after.call().to_owned()));
        let behind =
            self.own.guards.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
        let page = behind.take(limit).map(|((run, call), row)| {
            let key = GuardKey::new(*run, call.clone());
            Ok((key.map_err(|error| StoreError::misuse(error.to_string()))?, row.clone()))
        });
        page.collect()
    }
    async fn commit(mut self) -> Result<(), StoreError> {
        *self.books = self.own;
        Ok(())
    }
    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What the next execution comes to; none: it acts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Play {
    Fails,
    /// It says that it waits, and goes on when it is let go.
    Waits,
    Panics,
    Says(LocalState),
}

/// What all nodes share.
#[derive(Clone, Debug)]
pub(super) struct Script(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plays: Mutex<VecDeque<Play>>,
    waiting: Semaphore,
    let_go: Semaphore,
    executed: AtomicUsize,
    /// What a listener answers to checks, the last of it again and again.
    answers: Mutex<VecDeque<LocalState>>,
    checked: AtomicUsize,
}

impl Script {
    fn new() -> Self {
        let (waiting, let_go) = (Semaphore::new(0), Semaphore::new(0));
        let (executed, checked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (plays, answers) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { plays, waiting, let_go, executed, answers, checked }))
    }

    pub(super) fn plays(&self, plays: &[Play]) {
        self.0.plays.lock().unwrap().extend(plays);
    }

    /// What a listener says from now on when it is asked.
    pub(super) fn answers(&self, answers: &[LocalState]) {
        *self.0.answers.lock().unwrap() = answers.iter().copied().collect();
    }

    pub(super) fn executed(&self) -> usize {
        self.0.executed.load(Ordering::SeqCst)
    }

    pub(super) fn checked(&self) -> usize {
        self.0.checked.load(Ordering::SeqCst)
    }

    /// Until one waits.
    pub(super) async fn until_waiting(&self) {
        self.0.waiting.acquire().await.unwrap().forget();
    }

    pub(super) fn let_go(&self) {
        self.0.let_go.add_permits(1);
    }

    async fn play(&self) -> Result<LocalState, BoxError> {
        self.0.executed.fetch_add(1, Ordering::SeqCst);
        let play = self.0.plays.lock().unwrap().pop_front();
        match play {
            None => Ok(LocalState::Commit),
            Some(Play::Fails) => Err("a statement failed".into()),
            Some(Play::Panics) => panic!("the till is on fire"),
            Some(Play::Says(says)) => Ok(says),
            Some(Play::Waits) => {
                self.0.waiting.add_permits(1);
                self.0.let_go.acquire().await.unwrap().forget();
                Ok(LocalState::Commit)
            }
        }
    }
}

macro_rules! inputs { ($($(#[$doc:meta])* $name:ident)+) => { $(
    $(#[$doc])*
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct $name {
        pub(super) cents: u32,
    }
    impl SagaInput for $name {}
)+ } }
inputs! {
    /// A sale that the engine books.
    Sale
    /// A sale that its caller books.
    ByHand
    /// A sale that a listener books.
    Told
}

impl ByCaller for ByHand {
    type Database = Till;
}

/// A sale of many things that its caller books: written in any order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct List {
    cents: HashMap<String, u32>,
}

impl List {
    /// The same things each time.
    pub(super) fn new() -> Self {
        Self { cents: (0..20).map(|n| (n.to_string(), n)).collect() }
    }
}

impl SagaInput for List {}

impl ByCaller for List {
    type Database = Till;
}

fn retry() -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(3).late(3, Duration::from_secs(3_600))
}

struct Book(Script);

impl LocalTransaction<Sale> for Book {
    type Database = Till;
    type Refusal = &'static str;

    async fn execute(&self, cx: Cx<'_, Sale>, tx: &mut TillTx) -> Result<(), StepError<&'static str>> {
        // Before it fails: nothing of it may stay.
        tx.sell(cx.key);
        if cx.input.cents >= DEAR {
            return Err(StepError::Refused("too dear"));
        }
        self.0.play().await.map(drop).map_err(StepError::Retry)
    }

    fn retry(&self) -> Retry {
        retry()
    }
}

struct Listener(Script);

impl TransactionListener<Told> for Listener {
    async fn execute_local(&self, _: Cx<'_, Told>) -> Result<LocalState, BoxError> {
        self.0.play().await
    }

    async fn check_local(&self, _: Cx<'_, Told>) -> Result<LocalState, BoxError> {
        self.0.0.checked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.0.0.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() };
        answer.ok_or_else(|| "it was told nothing".into())
    }

    fn retry(&self) -> Retry {
        retry()
    }
}

fn checked<In: SagaInput>(of: HalfMessages<In>) -> HalfMessages<In> {
    let brief = Duration::from_millis(5);
    of.immunity(IMMUNITY).checks(brief, brief * 4, MOST)
}

/// Sales, and the messages about them.
pub(super) struct Sales<'s, S: Subject> {
    pub(super) ground: Ground<'s, S>,
    pub(super) till: Till,
    pub(super) script: Script,
    pub(super) nodes: Vec<App>,
}

impl<S: Subject> fmt::Debug for Sales<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.script.fmt(f)
    }
}

impl<'s, S: Subject> Sales<'s, S> {
    pub(super) async fn start(subject: &'s S) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        let mut sales = Self { ground, till: Till::default(), script: Script::new(), nodes: Vec::new() };
        sales.join().await;
        sales
    }

    pub(super) async fn join(&mut self) {
        let app = self.ground.join(|app| {
            let (book, listener) = (Book(self.script.clone()), Listener(self.script.clone()));
            app.provide(self.till.clone())
                .half_messages(checked(HalfMessages::of("sale", 1, book)))
                .half_messages(checked(HalfMessages::<ByHand>::by_caller("by-hand", 1)))
                .half_messages(checked(HalfMessages::<List>::by_caller("list", 1)))
                .half_messages(checked(HalfMessages::listened("told", 1, listener)))
        });
        let app = app.await;
        self.nodes.push(app);
    }

    /// Until the first node works on all messages.
    pub(super) async fn until_at_work(&self) {
        loop {
            let health = self.nodes[0].health().await;
            if health.engines.iter().all(|engine| engine.slices == SLICES) {
                return;
            }
            self.ground.pause().await;
        }
    }

    /// A node is gone from one moment to the next.
    pub(super) fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
    }

    /// The time passes in which nothing is checked by itself.
    pub(super) fn no_longer_immune(&self) {
        self.ground.clock.advance(IMMUNITY * 2);
    }

    pub(super) async fn sell(&self, key: &str, cents: u32) -> Handle {
        let app = &self.nodes[0];
        let sale = Sale { cents };
        self.ground.ask(async || app.send_in_transaction(key, message(key), sale.clone()).await).await
    }

    pub(super) async fn by_hand(&self, key: &str) -> Half<Till> {
        let (app, sale) = (&self.nodes[0], ByHand { cents: 5 });
        self.ground.ask(async || app.send_half(key, message(key), sale.clone()).await).await
    }

    pub(super) async fn list(&self, key: &str, list: &List) -> Half<Till> {
        let app = &self.nodes[0];
        self.ground.ask(async || app.send_half(key, message(key), list.clone()).await).await
    }

    pub(super) async fn tell(&self, key: &str) -> Handle {
        let (app, sale) = (&self.nodes[0], Told { cents: 5 });
        self.ground.ask(async || app.send_in_transaction(key, message(key), sale.clone()).await).await
    }

    pub(super) async fn end_of<In: SagaInput>(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            if begun.elapsed() > PATIENCE / 10 {
                panic!("it does not end: {:#?}", self.show::<In>(handle.key()).await);
            }
            self.ground.pause().await;
        }
    }

    pub(super) fn runs<In: SagaInput>(&self) -> Runs {
        self.nodes[0].half_runs::<In>().unwrap()
    }

    pub(super) async fn show<In: SagaInput>(&self, key: &str) -> RunShown {
        let runs = self.runs::<In>();
        self.ground.ask(async || runs.show(key).await).await
    }

    /// Until a run looks like this.
    pub(super) async fn until<In: SagaInput>(
        &self,
        key: &str,
        is_so: impl Fn(&RunShown) -> bool,
    ) -> RunShown {
        let begun = Instant::now();
        loop {
            let shown = self.show::<In>(key).await;
            if is_so(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it never came to that: {shown:#?}");
            self.ground.pause().await;
        }
    }

    /// Asks for something, until that is answered.
    pub(super) async fn ask<In: SagaInput>(&self, key: &str, verb: Verb) -> Result<(), String> {
        let (runs, mut is_first) = (self.runs::<In>(), true);
        loop {
            match runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await {
                Err(RunError::Store(_)) => is_first = false,
                // It was done the first time.
                Ok(Err(_)) | Err(RunError::Ended { .. }) if !is_first => return Ok(()),
                answer => return answer.unwrap(),
            }
            self.ground.pause().await;
        }
    }

    /// Every message in the log: its stream, and what it says.
    pub(super) async fn log(&self) -> Vec<(String, Value)> {
        let (filter, backend) = (EventFilter::of::<Published>(), &self.ground.backend);
        let page = self.ground.ask(|| backend.read(&filter, Position(0), 1_000)).await;
        let said = |event| match MessageEvent::decode(event).unwrap().into_iter().next().unwrap() {
            MessageEvent::Published(Published { body, .. }) => body,
            _ => Value::Null,
        };
        page.events.iter().map(|event| (event.stream.as_str().to_owned(), said(event))).collect()
    }

    pub(super) async fn end(mut self) {
        for app in self.nodes.drain(..) {
            assert!(app.shutdown(PATIENCE).await);
        }
    }
}

pub(super) fn message(key: &str) -> HalfMessage {
    HalfMessage::new("sold", key, &format!("sold {key}")).unwrap()
}

/// How a message stands in the log.
pub(super) fn sold(key: &str) -> (String, Value) {
    (format!("message-sold/{key}"), Value::from(format!("sold {key}")))
}

//! What operators see of instances, and what they can have done to them.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::{Row, StoreError, Table, write_rows};
use es_core::testing::{SimStore, TestClock, seed_from_env_or};
use es_core::{App, AppBuilder, ErrorKind};
use es_postgres::{PgBackend, PgOptions};
use es_sqlite::{SqliteBackend, SqliteOptions};
use sagas::{
    Answer, AskError, Association, Came, Instances, Life, Next, Processes as _, Shown, Ticket, Timer, Verb,
    WaitsFor,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bank::{Account, Inquire, Inquired, Request, Requested};

const PATIENCE: Duration = Duration::from_secs(60);

/// Handlers of these keys fail. Each test has keys of its own.
static FAILS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn fails(key: &str) -> bool {
    FAILS.lock().unwrap().contains(key)
}

fn let_fail(key: &str, fails: bool) {
    let mut failing = FAILS.lock().unwrap();
    failing.remove(key);
    failing.extend(fails.then(|| key.to_owned()));
}

fn a_key(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4())
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rung {
    errand: String,
}
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "till")]
enum TillEvent {
    Rung(Rung),
}
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
struct No;
#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = TillEvent, error = No)]
struct Till;
impl Apply for Till {
    fn apply(&mut self, _: &TillEvent) {}
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ring {
    errand: String,
}
#[commands]
impl Till {
    #[create_if_missing]
    fn ring(&self, cmd: Ring) -> Result<Rung, No> {
        assert!(!fails(&cmd.errand), "the till is broken");
        Ok(Rung { errand: cmd.errand })
    }
}

/// Rings at a till, and counts what it hears.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Errand {
    rung: u32,
    inquiries: u32,
    reminded: u32,
}

#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reminder {}

const LATER: Duration = Duration::from_secs(300);

#[sagas::process(name = "errand", key = String, sends(Ring))]
impl Errand {
    #[starts(by = id)]
    fn requested(&mut self, e: &Requested) -> Next<Self> {
        Next::wait().timer(LATER, Reminder {}).associate("receipt", &e.id)
    }

    #[on(by = receipt, via = "receipt")]
    fn inquired(&mut self, e: &Inquired) -> Result<Next<Self>, String> {
        self.inquiries += 1;
        // An instance that is asked fails while it is to fail; one that is not asked for rings.
        match e.receipt.strip_prefix("ring:") {
            Some(errand) => Ok(Next::send(&"till".to_owned(), Ring { errand: errand.to_owned() })),
            None if fails(&e.receipt) => Err("nobody knows".to_owned()),
            None => Ok(Next::wait()),
        }
    }

    #[on(by = errand)]
    fn rung(&mut self, _: &Rung) -> Next<Self> {
        self.rung += 1;
        Next::wait()
    }

    #[timer]
    fn reminded(&mut self, _: Reminder) -> Next<Self> {
        self.reminded += 1;
        Next::wait()
    }
}

/// The same, by a later program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Later {
    inquiries: u32,
}

#[sagas::process(name = "errand", version = 2, key = String)]
impl Later {
    #[starts(by = id)]
    fn requested(&mut self, e: &Requested) -> Next<Self> {
        Next::wait().associate("receipt", &e.id)
    }

    #[on(by = receipt, via = "receipt")]
    fn inquired(&mut self, _: &Inquired) -> Next<Self> {
        self.inquiries += 1;
        Next::wait()
    }
}

/// And by one that knows both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Both {
    inquiries: u32,
}

#[sagas::process(name = "errand", version = 2, key = String, sends(Ring), earlier(Errand))]
impl Both {
    #[starts(by = id)]
    fn requested(&mut self, e: &Requested) -> Next<Self> {
        Next::wait().associate("receipt", &e.id)
    }

    #[on(by = receipt, via = "receipt")]
    fn inquired(&mut self, _: &Inquired) -> Next<Self> {
        self.inquiries += 1;
        Next::wait()
    }
}

/// Each of its instances begins with many rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Wide {}

const ROWS: usize = 900;

#[sagas::process(name = "errand", key = String)]
impl Wide {
    #[starts(by = id)]
    fn requested(&mut self, e: &Requested) -> Next<Self> {
        (0..ROWS).fold(Next::wait(), |next, n| next.associate("row", format!("{}-{n}", e.id)))
    }
}

type Wire<B> = fn(AppBuilder<B>) -> AppBuilder<B>;

struct Desk<B: Backend> {
    wire: Wire<B>,
    backend: B,
    clock: TestClock,
    app: App,
    instances: Instances,
}

impl<B: Backend + Clone> Desk<B> {
    async fn open(backend: B, clock: TestClock) -> Self {
        Self::with(backend, clock, AppBuilder::process::<Errand>).await
    }

    async fn with(backend: B, clock: TestClock, wire: Wire<B>) -> Self {
        let app = Self::begin(&backend, &clock, wire).await.unwrap();
        let instances = Instances::of::<Errand>(backend.clone()).unwrap();
        Self { wire, backend, clock, app, instances }
    }

    /// Refused only for what the store does not mend.
    async fn begin(backend: &B, clock: &TestClock, wire: Wire<B>) -> Result<App, String> {
        loop {
            let app = App::on(backend.clone()).clock(clock.clone()).lease(Duration::from_secs(2));
            match wire(app.aggregate::<Account>().aggregate::<Till>()).start().await {
                Ok(app) => return Ok(app),
                Err(error) if error.to_string().contains("could not be done now") => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// The program ends; until something was done, nobody is there.
    async fn meanwhile<F: Future<Output = ()>>(self, what: impl FnOnce(B, Instances) -> F) -> Self {
        self.app.shutdown(PATIENCE).await;
        what(self.backend.clone(), self.instances.clone()).await;
        Self::with(self.backend, self.clock, self.wire).await
    }

    /// Another program takes its place.
    async fn then(self, wire: Wire<B>) -> Self {
        self.app.shutdown(PATIENCE).await;
        Self::with(self.backend, self.clock, wire).await
    }

    async fn send<C: Command>(&self, id: &str, command: C)
    where
        C::Aggregate: Aggregate<Id = String>,
    {
        let key = uuid::Uuid::new_v4();
        while let Err(error) = self.app.send(&id.to_owned(), command.clone()).idempotency_key(key).await {
            assert!(matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown), "{error}");
        }
    }

    async fn request(&self, id: &str) {
        let text = |text: &str| text.to_owned();
        let requested = Requested { id: text(id), from: text("ada"), to: text("bob"), amount: 1 };
        self.send(id, Request(requested)).await;
    }

    async fn inquire(&self, receipt: &str) {
        self.send("desk", Inquire { receipt: receipt.to_owned() }).await;
    }

    /// Until an instance is shown as it should be.
    async fn until(&self, key: &str, what: impl Fn(&Shown) -> bool) -> Shown {
        let mut last = None;
        let reached = async {
            loop {
                last = self.instances.show(key).await.ok().flatten().or_else(|| last.take());
                if let Some(shown) = last.take_if(|shown| what(shown)) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| {
            panic!("it never came to that: {last:#?}\n{:?}", self.app.processors()[0].status())
        })
    }

    async fn done(&self, key: &str, verb: Verb) -> u64 {
        let ticket = ask(&self.instances, key, verb.clone()).await.unwrap();
        match self.answered(&ticket).await {
            Answer::Done { input } => input,
            Answer::Refused { why } => panic!("{verb} was refused: {why}"),
        }
    }

    async fn answered(&self, ticket: &Ticket) -> Answer {
        loop {
            match self.instances.answer(ticket, PATIENCE).await {
                Ok(answer) => return answer.expect("somebody works on it"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            }
        }
    }

    async fn refused(&self, key: &str, verb: Verb) -> String {
        match ask(&self.instances, key, verb).await {
            Err(AskError::Refused { why, .. }) => why,
            other => panic!("it was not refused: {other:?}"),
        }
    }

    async fn came(&self, key: &str) -> Vec<sagas::InputShown> {
        loop {
            match self.instances.inputs(key, 0, 1_000).await {
                Ok(inputs) => return inputs,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            }
        }
    }

    async fn assert_rebuilds(&self, key: &str) {
        let rebuilt = loop {
            match self.instances.rebuild(key).await {
                Ok(rebuilt) => break rebuilt.unwrap(),
                Err(error) => {
                    let of_store = error.downcast_ref::<StoreError>().expect("handlers do what they did");
                    assert_eq!(of_store.kind(), ErrorKind::Transient, "{error}");
                }
            }
        };
        assert_eq!(rebuilt.stored, rebuilt.folded);
    }
}

/// Asks until the store answers. Of an outcome that is unknown at most one of two requests changes anything.
async fn ask(instances: &Instances, key: &str, verb: Verb) -> Result<Ticket, AskError> {
    loop {
        match instances.ask(key, verb.clone(), "eve", "it is on fire").await {
            Err(AskError::Store(error)) => {
                assert!(matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown), "{error}");
            }
            asked => return asked,
        }
    }
}

fn parked(shown: &Shown) -> bool {
    matches!(shown.status.life, Life::Parked { .. })
}

fn state(shown: &Shown) -> Errand {
    shown.status.state.as_ref().unwrap().read().unwrap()
}

async fn a_parked_instance_is_retried_and_an_input_is_skipped<B: Backend + Clone>(
    backend: B,
    clock: TestClock,
) {
    let key = a_key("parked");
    let desk = Desk::open(backend, clock).await;
    desk.request(&key).await;
    desk.until(&key, |shown| shown.status.inputs == 1).await;
    assert!(desk.refused(&key, Verb::Retry).await.contains("not parked"));
    assert!(desk.refused("nobody", Verb::Retry).await.contains("there is no such instance"));
    let_fail(&key, true);
    desk.inquire(&key).await;
    desk.inquire(&format!("other-{key}")).await;
    desk.inquire(&key).await;
    let shown = desk.until(&key, |shown| shown.status.inputs == 3).await;
    assert!(parked(&shown) && shown.status.waiting == 2, "{shown:?}");
    assert!(
        matches!(&shown.waits[0], WaitsFor::Input { number: 2, error } if error.contains("nobody knows"))
    );
    assert!(shown.waits[0].to_string().contains("skip input 2"), "{}", shown.waits[0]);
    assert!(desk.refused(&key, Verb::Skip { input: 3 }).await.contains("the input that failed is 2"));
    assert!(desk.refused(&key, Verb::Fire { timer: "Reminder".to_owned() }).await.contains("it is parked"));
    // It fails again: that is one more attempt.
    desk.done(&key, Verb::Retry).await;
    let again = |shown: &Shown| matches!(shown.status.life, Life::Parked { attempts: 2, .. });
    desk.until(&key, again).await;
    desk.assert_rebuilds(&key).await;
    // The first is skipped while nobody is there; the second still fails.
    let desk = desk
        .meanwhile(async |_, instances| {
            drop(ask(&instances, &key, Verb::Skip { input: 2 }).await.unwrap());
        })
        .await;
    desk.until(&key, |shown| parked(shown) && matches!(&shown.waits[0], WaitsFor::Input { number: 3, .. }))
        .await;
    let_fail(&key, false);
    desk.done(&key, Verb::Retry).await;
    let shown = desk.until(&key, |shown| !parked(shown) && shown.status.waiting == 0).await;
    assert_eq!(state(&shown).inquiries, 1, "one was skipped");
    let asked: Vec<_> =
        shown.requests.iter().map(|asked| (&asked.verb, &*asked.by.actor, &*asked.by.reason)).collect();
    let (retry, skip) = (Verb::Retry, Verb::Skip { input: 2 });
    assert!(
        asked.contains(&(&retry, "eve", "it is on fire")) && asked.contains(&(&skip, "eve", "it is on fire"))
    );
    let inputs = desk.came(&key).await;
    assert!(inputs[1].skipped && !inputs[2].skipped, "{inputs:?}");
    let skips = |input: &&sagas::InputShown| input.came == Came::Verb(skip.clone());
    assert_eq!(inputs.iter().find(skips).unwrap().by.as_ref().unwrap().actor, "eve");
    desk.assert_rebuilds(&key).await;
    desk.app.shutdown(PATIENCE).await;
}

async fn timers_associations_and_ends_are_in_the_operators_hands<B: Backend + Clone>(
    backend: B,
    clock: TestClock,
) {
    let (key, other) = (a_key("hands"), a_key("other"));
    let desk = Desk::open(backend, clock).await;
    desk.request(&key).await;
    let shown = desk.until(&key, |shown| shown.status.inputs == 1).await;
    let WaitsFor::Timer { name, .. } = shown.waits[0].clone() else { panic!("{:?}", shown.waits) };
    assert!(desk.refused(&key, Verb::Fire { timer: "none".to_owned() }).await.contains(&name));
    desk.done(&key, Verb::Fire { timer: name.clone() }).await;
    desk.until(&key, |shown| state(shown).reminded == 1 && shown.status.timers.is_empty()).await;
    assert!(desk.refused(&key, Verb::Fire { timer: name }).await.contains("no timer"));
    assert!(matches!(desk.came(&key).await[1].came, Came::Timer(_)));
    desk.done(&key, Verb::Associate(Association::new("receipt", &other))).await;
    desk.inquire(&other).await;
    desk.until(&key, |shown| state(shown).inquiries == 1).await;
    let long = Verb::Associate(Association::new("receipt", "x".repeat(10_000)));
    assert!(desk.refused(&key, long).await.contains("over the limit"));
    desk.done(&key, Verb::Dissociate(Association::new("receipt", &other))).await;
    let again = Verb::Dissociate(Association::new("receipt", &other));
    assert!(desk.refused(&key, again).await.contains("not associated"));
    desk.inquire(&other).await;
    desk.inquire(&key).await;
    desk.until(&key, |shown| state(shown).inquiries == 2).await;
    assert!(matches!(
        desk.instances.ask(&key, Verb::End, "eve", " ").await,
        Err(AskError::Refused { why, .. }) if why.contains("reason")
    ));
    // Before an input that fails: that one is not taken in any more.
    let_fail(&key, true);
    desk.inquire(&key).await;
    desk.inquire(&key).await;
    desk.until(&key, |shown| parked(shown) && shown.status.waiting == 2).await;
    desk.done(&key, Verb::End).await;
    let shown = desk.until(&key, |shown| shown.status.life == Life::Ended).await;
    assert_eq!((state(&shown).inquiries, shown.waits.len()), (2, 0));
    assert!(desk.refused(&key, Verb::End).await.contains("it has ended"));
    let_fail(&key, false);
    desk.assert_rebuilds(&key).await;
    desk.app.shutdown(PATIENCE).await;
}

async fn a_command_that_fails_for_good_waits_for_an_operator<B: Backend + Clone>(
    backend: B,
    clock: TestClock,
) {
    let (key, other) = (a_key("broken"), a_key("whole"));
    let desk = Desk::open(backend, clock).await;
    for key in [&key, &other] {
        desk.request(key).await;
        desk.until(key, |shown| shown.status.inputs == 1).await;
    }
    let_fail(&key, true);
    let ring = |errand: &str| Verb::Associate(Association::new("receipt", format!("ring:{errand}")));
    desk.done(&key, ring(&key)).await;
    desk.done(&other, ring(&other)).await;
    desk.inquire(&format!("ring:{key}")).await;
    desk.inquire(&format!("ring:{other}")).await;
    desk.until(&other, |shown| state(shown).rung == 1).await;
    let shown = desk.until(&key, parked).await;
    let WaitsFor::Command(command) = &shown.waits[0] else { panic!("{:?}", shown.waits) };
    assert!(command.error.as_ref().unwrap().contains("the till is broken"), "{command:?}");
    assert!(shown.waits[0].to_string().contains("retry"), "{}", shown.waits[0]);
    // What comes meanwhile waits.
    desk.inquire(&key).await;
    desk.until(&key, |shown| shown.status.waiting == 1).await;
    assert!(desk.refused(&key, Verb::Skip { input: 4 }).await.contains("no input has failed"));
    // A program that does not know the command: it is not held up, and says so.
    let sends = Table::<Value>::new("hot.process.sends.errand").unwrap();
    let rename = async |store: B, name: &str| loop {
        let Ok(mut rows) = sends.all(&store).await else { continue };
        let Row { key, rev, mut value } = rows.pop().unwrap();
        value["command"]["name"] = name.into();
        if write_rows(&store, vec![sends.put(&Row { key, rev, value }).unwrap()]).await.is_ok() {
            return;
        }
    };
    let desk = desk
        .meanwhile(async |store, instances| {
            let_fail(&key, false);
            rename(store, "ring_twice").await;
            drop(ask(&instances, &key, Verb::Retry).await.unwrap());
        })
        .await;
    let unknown = |shown: &Shown| matches!(&shown.waits[..], [WaitsFor::Answer(command), ..] if command.error.is_some());
    let shown = desk.until(&key, unknown).await;
    assert!(!parked(&shown) && shown.commands[0].error.as_ref().unwrap().contains("ring_twice"), "{shown:?}");
    desk.until(&key, |shown| shown.status.waiting == 0 && state(shown).inquiries == 2).await;
    // The next one knows it.
    let desk = desk.meanwhile(async |store, _| rename(store, "ring").await).await;
    // The instance and its commands are not read in one snapshot.
    let quiet = |shown: &Shown| shown.status.open_commands == 0 && shown.commands.is_empty();
    desk.until(&key, |shown| state(shown).rung == 1 && quiet(shown)).await;
    desk.assert_rebuilds(&key).await;
    desk.app.shutdown(PATIENCE).await;
}

async fn instances_keep_their_version_and_a_program_without_it_does_not_start<B: Backend + Clone>(
    backend: B,
    clock: TestClock,
) {
    let (old, new) = (a_key("old"), a_key("new"));
    let desk = Desk::open(backend, clock).await;
    desk.request(&old).await;
    desk.until(&old, |shown| shown.status.inputs == 1).await;
    desk.app.shutdown(PATIENCE).await;
    let refused = Desk::begin(&desk.backend, &desk.clock, AppBuilder::process::<Later>).await;
    let why = refused.expect_err("it has no code for what is there");
    assert!(
        why.contains("1 instances of version 1") && why.contains(&old) && why.contains("`earlier`"),
        "{why}"
    );
    let desk = Desk::with(desk.backend, desk.clock, AppBuilder::process::<Both>).await;
    desk.request(&new).await;
    desk.until(&new, |shown| shown.status.version == 2).await;
    for key in [&old, &new] {
        desk.inquire(key).await;
    }
    desk.until(&new, |shown| shown.status.inputs == 2).await;
    desk.until(&old, |shown| shown.status.version == 1 && state(shown).inquiries == 1).await;
    // An event that only the earlier definition handles still comes to its instances.
    desk.send("till", Ring { errand: old.clone() }).await;
    desk.until(&old, |shown| state(shown).rung == 1).await;
    desk.done(&old, Verb::End).await;
    // It handles less, so it waits until nobody is believed to be there who handles more.
    desk.app.shutdown(PATIENCE).await;
    desk.clock.advance(Duration::from_secs(60));
    let desk = Desk::with(desk.backend, desk.clock, AppBuilder::process::<Later>).await;
    desk.inquire(&new).await;
    desk.until(&new, |shown| shown.status.inputs == 3).await;
    desk.app.shutdown(PATIENCE).await;
}

async fn an_instance_without_code_waits_for_it<B: Backend + Clone>(backend: B, clock: TestClock) {
    let (old, new) = (a_key("old"), a_key("new"));
    let desk = Desk::with(backend, clock, AppBuilder::process::<Later>).await;
    for key in [&old, &new] {
        desk.request(key).await;
        desk.until(key, |shown| shown.status.inputs == 1).await;
    }
    // One of a program that this one was never told of.
    let table = Table::<Value>::new("process.instances.errand").unwrap();
    loop {
        let Ok(rows) = table.all(&desk.backend).await else { continue };
        let Row { key, rev, mut value } = rows.into_iter().find(|row| row.value["key"] == *old).unwrap();
        value["version"] = 1.into();
        value["state"] = serde_json::to_value(Errand::default()).unwrap();
        if write_rows(&desk.backend, vec![table.put(&Row { key, rev, value }).unwrap()]).await.is_ok() {
            break;
        }
    }
    // The first of them takes nothing in; the others go on.
    for key in [&old, &new, &old] {
        desk.inquire(key).await;
    }
    desk.until(&new, |shown| shown.status.inputs == 2 && shown.status.waiting == 0).await;
    let instances = Instances::of::<Later>(desk.backend.clone()).unwrap();
    let desk = Desk { instances, ..desk };
    let shown = desk.until(&old, |shown| shown.status.waiting == 2).await;
    assert!(!parked(&shown) && matches!(shown.waits[0], WaitsFor::Code { version: 1 }), "{shown:?}");
    let desk = desk.then(AppBuilder::process::<Both>).await;
    let shown = desk.until(&old, |shown| shown.status.waiting == 0).await;
    assert_eq!((shown.status.version, state(&shown).inquiries), (1, 2));
    desk.app.shutdown(PATIENCE).await;
}

/// How often the process has flushed, and its ranges have changed hands: each commit writes the row of a range.
async fn commits(store: &impl Backend) -> u64 {
    loop {
        if let Ok(rows) = store.scan("checkpoints", None, 100).await {
            return rows.iter().filter(|row| row.key.contains("errand")).map(|row| row.rev).sum();
        }
    }
}

async fn what_a_page_leads_to_is_more_than_one_commit<B: Backend + Clone>(backend: B, clock: TestClock) {
    const REQUESTS: u64 = 40;
    let desk = Desk::with(backend, clock, AppBuilder::process::<Wide>).await;
    let first = a_key("first");
    desk.request(&first).await;
    desk.until(&first, |shown| shown.status.associations.len() == ROWS).await;
    // All of the others are there when it begins again: one page.
    let (before, keys) =
        (commits(&desk.backend).await, (0..REQUESTS).map(|n| a_key(&n.to_string())).collect::<Vec<_>>());
    let desk = desk.then(|app| app).await;
    for key in &keys {
        desk.request(key).await;
    }
    let desk = desk.then(AppBuilder::process::<Wide>).await;
    for key in &keys {
        desk.until(key, |shown| shown.status.associations.len() == ROWS).await;
    }
    // With three of them a commit is full.
    let commits = commits(&desk.backend).await - before;
    assert!(commits >= REQUESTS / 3, "{commits} commits");
    desk.app.shutdown(PATIENCE).await;
}

on_each_store! {
    what_a_page_leads_to_is_more_than_one_commit
    instances_keep_their_version_and_a_program_without_it_does_not_start
    an_instance_without_code_waits_for_it
    a_parked_instance_is_retried_and_an_input_is_skipped
    timers_associations_and_ends_are_in_the_operators_hands
    a_command_that_fails_for_good_waits_for_an_operator
}

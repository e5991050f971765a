//! The engine, on a store: whole flows, on memory and on a store with faults.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::store::{StoreError, Table};
use es_core::testing::{SimStore, TestClock, seed_from_env_or};
use es_core::{App, Backend, Command, ErrorKind};
use es_postgres::{PgBackend, PgOptions};
use es_sqlite::{SqliteBackend, SqliteOptions};
use sagas::{Instances, Processes as _};
use serde_json::Value;

use crate::bank::{
    Account, Close, Deposit, Inquire, LIMIT, NOBODY, Open, Request, Requested, Transfer, Withdraw,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A store, and an app with the process on it.
struct World<B> {
    backend: B,
    clock: TestClock,
    app: App,
}

impl<B: Backend + Clone> World<B> {
    async fn start(backend: B, clock: TestClock) -> Self {
        let app = Self::begin(&backend, &clock).await;
        Self { backend, clock, app }
    }

    async fn begin(backend: &B, clock: &TestClock) -> App {
        loop {
            let app =
                App::on(backend.clone()).clock(clock.clone()).aggregate::<Account>().process::<Transfer>();
            match app.lease(Duration::from_secs(2)).start().await {
                Ok(app) => return app,
                Err(error) => assert!(error.to_string().contains("could not be done now"), "{error}"),
            }
        }
    }

    /// The program ends, and another one begins.
    async fn again(self) -> Self {
        self.app.shutdown(PATIENCE).await;
        Self::start(self.backend, self.clock).await
    }

    /// Sends a command until it is answered.
    async fn send<C: Command>(&self, id: &str, command: C) -> bool
    where
        C::Aggregate: es_core::Aggregate<Id = String>,
    {
        let key = uuid::Uuid::new_v4();
        loop {
            match self.app.send(&id.to_owned(), command.clone()).idempotency_key(key).await {
                Ok(_) => return true,
                Err(error) if error.kind() == ErrorKind::Refused => return false,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown), "{error}");
                }
            }
        }
    }

    async fn open(&self, id: &str, amount: i64) {
        self.send(id, Open { owner: id.to_owned() }).await;
        self.send(id, Deposit { amount, transfer: None }).await;
    }

    async fn transfer(&self, id: &str, from: &str, to: &str, amount: i64) {
        let [id, from, to] = [id, from, to].map(str::to_owned);
        self.send(&id.clone(), Request(Requested { id, from, to, amount })).await;
    }

    async fn balance(&self, id: &str) -> i64 {
        loop {
            match self.app.load::<Account>(&id.to_owned()).await {
                Ok(account) => return account.map_or(0, |account| account.balance),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// All rows of one of its tables.
    async fn rows(&self, table: &str) -> Vec<(String, Value)> {
        let table = Table::<Value>::new(table).unwrap();
        loop {
            match table.all(&self.backend).await {
                Ok(rows) => return rows.into_iter().map(|row| (row.key, row.value)).collect(),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    async fn instances(&self) -> Vec<Value> {
        self.rows("process.instances.transfer").await.into_iter().map(|(_, value)| value).collect()
    }

    /// Until so many instances are as they should be, and nothing waits to be sent.
    async fn until(&self, n: usize, what: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut last = Vec::new();
        let reached = async {
            loop {
                last = self.instances().await;
                let quiet = self.rows("hot.process.sends.transfer").await.is_empty();
                if quiet && last.len() == n && last.iter().all(&what) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let timed_out = tokio::time::timeout(PATIENCE, reached).await.is_err();
        assert!(!timed_out, "it never came to that: {last:#?}\n{:?}", self.app.processors()[0].status());
        last
    }

    /// What came to each instance makes it what it is, byte for byte, and nothing is sent for that.
    async fn assert_rebuilds(&self) {
        let instances = Instances::of::<Transfer>(self.backend.clone()).unwrap();
        let before = self.rows("hot.process.sends.transfer").await;
        for instance in self.instances().await {
            let key = instance["key"].as_str().unwrap();
            let rebuilt = loop {
                match instances.rebuild(key).await {
                    Ok(rebuilt) => break rebuilt.unwrap(),
                    Err(error) => {
                        assert!(self.backend.is_transient(&*error) || is_of_the_store(&*error), "{error}");
                    }
                }
            };
            assert_eq!(rebuilt.stored, rebuilt.folded);
        }
        assert_eq!(self.rows("hot.process.sends.transfer").await, before);
    }

    /// Nothing but tombstones is left of the process.
    async fn assert_clean(&self) {
        for table in ["process.associations", "process.early", "hot.process.timers", "hot.process.sends"] {
            assert_eq!(self.rows(&format!("{table}.transfer")).await, [], "{table}");
        }
    }
}

fn is_of_the_store(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind() == ErrorKind::Transient)
}

fn ended(instance: &Value) -> bool {
    instance["ended"] == true
}

async fn money_goes_where_it_is_to_go<B: Backend + Clone>(backend: B, clock: TestClock) {
    let world = World::start(backend, clock).await;
    for (id, amount) in [("ada", 100), ("bob", 0), ("cleo", 5)] {
        world.open(id, amount).await;
    }
    for n in 0..10 {
        world.transfer(&format!("t{n}"), "ada", "bob", 7).await;
    }
    world.transfer("poor", "cleo", "bob", 6).await;
    world.transfer("nobody", "ada", "dora", 9).await;
    world.transfer("nothing", "ada", "bob", 0).await;
    world.until(13, ended).await;
    assert_eq!(
        [world.balance("ada").await, world.balance("bob").await, world.balance("cleo").await],
        [30, 70, 5]
    );
    world.assert_clean().await;
    // The one that ended as it began has left nothing but its tombstone.
    let inputs = world.rows("process.inputs.transfer").await;
    let nothing = world.instances().await.into_iter().find(|instance| instance["key"] == "nothing").unwrap();
    let id = nothing["id"].as_str().unwrap().replace('-', "");
    assert!(inputs.iter().all(|(key, _)| !key.contains(&id)), "{inputs:?}");
    // A start that comes late revives nothing.
    world.transfer("t0", "ada", "bob", 7).await;
    let world = world.again().await;
    world.transfer("last", "bob", "ada", 1).await;
    world.until(14, ended).await;
    assert_eq!([world.balance("ada").await, world.balance("bob").await], [31, 69]);
    world.assert_rebuilds().await;
    world.app.shutdown(PATIENCE).await;
}

async fn a_timer_fires_once_and_not_if_it_was_cleared<B: Backend + Clone>(backend: B, clock: TestClock) {
    let world = World::start(backend, clock).await;
    // There is no such account yet: the withdrawal is refused, unless it is opened in time.
    world.open("ada", 0).await;
    world.send("ada", Close {}).await;
    world.open("cleo", 10).await;
    world.transfer("gone", "ada", "cleo", 1).await;
    world.until(1, ended).await;
    world.transfer("well", "cleo", "cleo", 1).await;
    world.until(2, ended).await;
    assert_eq!(world.rows("hot.process.timers.transfer").await, [], "called off");
    for n in 0..40 {
        world.transfer(&format!("w{n}"), NOBODY, "cleo", 1).await;
    }
    world.until(42, |instance| instance["noted"].is_u64()).await;
    world.clock.advance(LIMIT - Duration::from_secs(1));
    assert_eq!(world.rows("hot.process.timers.transfer").await.len(), 40, "none is early");
    // Their time comes while nobody is there.
    world.assert_rebuilds().await;
    world.app.shutdown(PATIENCE).await;
    world.clock.advance(Duration::from_secs(2));
    let world = World::start(world.backend, world.clock).await;
    let instances = world.until(42, ended).await;
    assert!(instances.iter().all(|instance| instance["noted"].as_u64() <= Some(2)), "{instances:?}");
    world.assert_clean().await;
    world.assert_rebuilds().await;
    world.app.shutdown(PATIENCE).await;
}

/// Programs end and begin while money is on its way: none is lost and none is made.
async fn nothing_is_done_twice_whoever_works_on_it<B: Backend + Clone>(backend: B, clock: TestClock) {
    let mut world = World::start(backend, clock).await;
    world.open("ada", 1_000).await;
    world.open("bob", 1_000).await;
    for n in 0..60 {
        let (from, to) = if n % 2 == 0 { ("ada", "bob") } else { ("bob", "ada") };
        // Now and then to somebody who is not there: it is given back.
        world.transfer(&format!("t{n}"), from, if n % 5 == 0 { "zoe" } else { to }, n + 1).await;
        if n % 20 == 7 {
            world = world.again().await;
        }
    }
    world.until(60, ended).await;
    let moved: i64 = (0..60).filter(|n| n % 5 != 0).map(|n| if n % 2 == 0 { n + 1 } else { -n - 1 }).sum();
    assert_eq!([world.balance("ada").await, world.balance("bob").await], [1_000 - moved, 1_000 + moved]);
    world.assert_clean().await;
    world.assert_rebuilds().await;
    world.app.shutdown(PATIENCE).await;
}

async fn a_refusal_that_nobody_takes_parks_its_instance_and_no_other<B: Backend + Clone>(
    backend: B,
    clock: TestClock,
) {
    let world = World::start(backend, clock).await;
    world.open("ada", 10).await;
    world.open("bob", 10).await;
    world.transfer("bad", "ada", "ada", -1).await;
    world.transfer("good", "ada", "bob", 3).await;
    let instances = world.until(2, |instance| ended(instance) || instance["parked"].is_object()).await;
    let parked: Vec<&Value> = instances.iter().filter(|instance| instance["parked"].is_object()).collect();
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0]["key"], "bad");
    assert!(parked[0]["parked"]["error"].as_str().unwrap().contains("nobody takes less than nothing"));
    assert_eq!([&parked[0]["noted"], &parked[0]["taken"]], [1, 0]);
    assert_eq!([world.balance("ada").await, world.balance("bob").await], [7, 13]);
    // What comes for it is noted and waits.
    world.send("bob", Withdraw { amount: 1, transfer: Some("bad".to_owned()) }).await;
    world.until(2, |instance| ended(instance) || instance["noted"] == 2 && instance["taken"] == 0).await;
    world.assert_rebuilds().await;
    world.app.shutdown(PATIENCE).await;
}

async fn an_association_finds_an_instance_until_it_is_gone<B: Backend + Clone>(backend: B, clock: TestClock) {
    let world = World::start(backend, clock).await;
    world.open("ada", 10).await;
    // A withdrawal that its process does not know of: the instance goes on.
    world.transfer("one", "ada", "zoe", 3).await;
    world.until(1, ended).await;
    assert_eq!(world.balance("ada").await, 10, "given back");
    world.send("q", Inquire { receipt: "receipt-one".to_owned() }).await;
    world.transfer("two", "ada", "zoe", 3).await;
    let instances = world.until(2, ended).await;
    assert!(instances.iter().all(|instance| instance["state"]["inquiries"] == 0), "{instances:?}");
    world.assert_rebuilds().await;
    world.app.shutdown(PATIENCE).await;
}

macro_rules! on_each_store {
    ($($test:ident)+) => {
        mod memory {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    let clock = TestClock::default();
                    super::$test(MemoryBackend::with_clock(clock.clone()), clock).await;
                }
            )+
        }
        mod sqlite {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    let (clock, folder) = (TestClock::default(), tempfile::tempdir().unwrap());
                    let options = SqliteOptions::new(folder.path().join("bank.db")).with_clock(clock.clone());
                    super::$test(SqliteBackend::open_with(options).await.unwrap(), clock).await;
                }
            )+
        }
        mod postgres {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    let (clock, database) = (TestClock::default(), es_postgres::testing::database().await);
                    let options = PgOptions::new(database.url()).unwrap().with_clock(clock.clone());
                    super::$test(PgBackend::connect_with(options).await.unwrap(), clock).await;
                }
            )+
        }
        mod sim {
            use super::*;
            $(
                #[tokio::test(start_paused = true)]
                async fn $test() {
                    for seed in 0..4 {
                        let clock = TestClock::default();
                        let store = SimStore::with_clock(seed_from_env_or(seed), clock.clone());
                        super::$test(store, clock).await;
                    }
                }
            )+
        }
    };
}

on_each_store! {
    money_goes_where_it_is_to_go
    a_timer_fires_once_and_not_if_it_was_cleared
    nothing_is_done_twice_whoever_works_on_it
    a_refusal_that_nobody_takes_parks_its_instance_and_no_other
    an_association_finds_an_instance_until_it_is_gone
}

//! What an app sees of an archive.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use es_core::Loaded;
use es_core::prelude::*;
use es_core::snapshot::SnapshotPolicy;
use es_core::store::{Position, Version};
use es_postgres::{Imported, PgBackend};
use futures::stream;
use serde::{Deserialize, Serialize};

use crate::cli::run;
use crate::shop::{event, open, stream as named};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deposited {
    pub(crate) amount: i64,
}

#[derive(Event, Clone, Debug)]
#[event(prefix = "account")]
pub(crate) enum AccountEvent {
    Deposited(Deposited),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Never;

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("never")
    }
}

impl std::error::Error for Never {}

#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(id = String, event = AccountEvent, error = Never, snapshots = SnapshotPolicy::on_request)]
pub(crate) struct Account {
    pub(crate) balance: i64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(e) => self.balance += e.amount,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deposit {
    pub(crate) amount: i64,
}

#[commands]
impl Account {
    #[create_if_missing]
    fn deposit(&self, cmd: Deposit) -> Result<Deposited, Never> {
        Ok(Deposited { amount: cmd.amount })
    }
}

#[tokio::test]
async fn an_account_that_has_left_is_loaded_from_its_snapshot_or_not_at_all() {
    let (database, backend) = open().await;
    backend.partition(10).await.unwrap();
    let app = App::on(backend.clone()).start().await.unwrap();
    let [ada, bob, carol] = ["ada", "bob", "carol"].map(str::to_owned);
    for name in [&ada, &bob, &carol] {
        for _ in 0..10 {
            app.send(name, Deposit { amount: 1 }).await.unwrap();
        }
    }
    app.snapshot::<Account>(&ada).await.unwrap();
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap().len(), 1);

    // Another process, which keeps nothing yet.
    let app = App::on(PgBackend::connect(database.url()).await.unwrap()).start().await.unwrap();
    let loaded: Loaded<Account> = app.load(&ada).await.unwrap().unwrap();
    assert_eq!((loaded.balance, loaded.version), (10, Version(10)));
    app.send(&ada, Deposit { amount: 1 }).await.unwrap();
    assert_eq!(app.load::<Account>(&ada).await.unwrap().unwrap().balance, 11);
    assert_eq!(app.load::<Account>(&carol).await.unwrap().unwrap().balance, 10);

    let error = app.load::<Account>(&bob).await.unwrap_err();
    assert!(es_core::chain(&error).contains("archived up to v10"), "{}", es_core::chain(&error));
    let error = app.send(&bob, Deposit { amount: 1 }).await.unwrap_err();
    assert!(es_core::chain(&error).contains("archived up to v10"), "{}", es_core::chain(&error));
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Balance(pub(crate) i64);

#[view(name = "balance", key = String)]
impl Balance {
    fn deposited(&mut self, e: &Deposited) {
        self.0 += e.amount;
    }
}

#[tokio::test]
async fn an_import_beside_inline_projections_is_refused_until_they_are_retired() {
    let (_database, backend) = open().await;
    let ada = "ada".to_owned();
    let app = App::on(backend.clone()).inline_view::<Balance>().start().await.unwrap();
    app.send(&ada, Deposit { amount: 1 }).await.unwrap();
    let past = || {
        let mut event = event(r#"{"amount":1}"#);
        event.name = "account.deposited".into();
        stream::iter([Imported { stream: named("account-ada"), recorded_at: Timestamp::UNIX_EPOCH, event }])
    };
    let error = backend.import(past(), |_| {}).await.unwrap_err();
    assert_eq!(error.stored.events, 0);
    assert!(error.source.to_string().contains("inline"), "{}", es_core::chain(&error));
    assert_eq!(backend.head().await.unwrap(), Position(1));
    app.send(&ada, Deposit { amount: 1 }).await.unwrap();
    assert_eq!(app.view::<Balance>(&ada).await.unwrap(), Some(Balance(2)));
    app.shutdown(Duration::from_secs(5)).await;

    let app = App::on(backend.clone()).view::<Balance>().retire_inline("balance/1").start().await.unwrap();
    backend.import(past(), |_| {}).await.unwrap();
    app.settle(Duration::from_secs(30)).await.unwrap();
    assert_eq!(app.view::<Balance>(&ada).await.unwrap(), Some(Balance(3)));
}

/// Whether the handler of the view fails.
static POISONED: AtomicBool = AtomicBool::new(true);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Strict(i64);

#[view(name = "strict", key = String)]
impl Strict {
    fn deposited(&mut self, e: &Deposited) -> Result<(), BoxError> {
        if POISONED.load(Ordering::SeqCst) {
            return Err("poisoned".into());
        }
        self.0 += e.amount;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_command_asks_a_running_program_for_what_is_parked() {
    let (database, backend) = open().await;
    let brief = Duration::from_millis(1);
    let app = App::on(backend).view::<Strict>().processor_retries(0, brief, brief).start().await.unwrap();
    let (ada, bob) = ("ada".to_owned(), "bob".to_owned());
    for name in [&ada, &bob] {
        app.send(name, Deposit { amount: 1 }).await.unwrap();
    }
    app.settle(Duration::from_secs(30)).await.unwrap();
    let asked = |arguments: &[&str]| {
        let (code, line, _) = run(Some(&database), &[arguments, &["--json"]].concat());
        (code, serde_json::from_str::<serde_json::Value>(&line).unwrap())
    };
    let keys = |answer: &serde_json::Value| {
        let all = answer["parked"].as_array().unwrap().iter();
        all.map(|one| one["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (code, parked) = asked(&["parked", "strict/1"]);
    assert_eq!((code, keys(&parked)), (0, vec![ada.clone(), bob.clone()]), "{parked}");
    assert!(parked["parked"][0]["error"].as_str().unwrap().contains("poisoned"), "{parked}");
    let dry = asked(&["discard", "strict/1", "bob", "--reason", "booked twice", "--dry-run"]);
    assert_eq!((dry.0, keys(&dry.1)), (0, vec![bob.clone()]));
    let (code, failed) = asked(&["retry", "strict/1", "--all"]);
    assert_eq!((code, keys(&failed)), (1, vec![ada.clone(), bob.clone()]), "{failed}");
    assert_eq!(asked(&["discard", "strict/1", "bob", "--reason", "booked twice"]).0, 0);
    POISONED.store(false, Ordering::SeqCst);
    assert_eq!(asked(&["retry", "strict/1", "ada"]).0, 0);
    assert_eq!(app.view::<Strict>(&ada).await.unwrap(), Some(Strict(1)));
    assert_eq!(app.view::<Strict>(&bob).await.unwrap(), None);
    assert_eq!(keys(&asked(&["parked", "strict/1"]).1), Vec::<String>::new());

    assert_eq!(asked(&["pause", "strict/1"]).0, 0);
    let (_, known) = asked(&["builds", "strict/1"]);
    assert_eq!(known["builds"]["current"], 1);
    assert!(known["builds"]["paused"].is_string(), "{known}");
    assert_eq!(asked(&["resume", "strict/1"]).0, 0);
    assert!(asked(&["builds", "strict/1"]).1["builds"]["paused"].is_null());
    let (code, unknown) = asked(&["parked", "nobody/1"]);
    assert!(code == 2 && unknown["error"].as_str().unwrap().contains("knows no processor"), "{unknown}");
}

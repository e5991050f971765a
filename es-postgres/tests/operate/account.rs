//! What an app sees of an archive.

use std::fmt;

use es_core::Loaded;
use es_core::prelude::*;
use es_core::snapshot::SnapshotPolicy;
use es_core::store::{Position, Version};
use es_postgres::PgBackend;
use serde::{Deserialize, Serialize};

use crate::shop::open;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deposited {
    amount: i64,
}

#[derive(Event, Clone, Debug)]
#[event(prefix = "account")]
enum AccountEvent {
    Deposited(Deposited),
}

#[derive(Debug, Serialize, Deserialize)]
struct Never;

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("never")
    }
}

impl std::error::Error for Never {}

#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(id = String, event = AccountEvent, error = Never, snapshots = SnapshotPolicy::on_request)]
struct Account {
    balance: i64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(e) => self.balance += e.amount,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deposit {
    amount: i64,
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

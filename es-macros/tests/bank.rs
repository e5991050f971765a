//! Everything the macros write, on one small domain, through a running app.

#[path = "ui/bank.rs"]
mod bank;

use std::sync::Mutex;
use std::time::Duration;

use es_core::Gather;
use es_core::event::Decoded;
use es_core::memory::{Db, MemoryBackend, Tx};
use es_core::prelude::*;
use es_core::query::Rows;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use self::bank::{
    Account, AccountError, AccountEvent, AccountId, Deposit, Deposited, Limits, Open, Opened, Withdraw,
    Withdrawn,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Balance {
    owner: String,
    amount: u64,
}

#[view(name = "balance", version = 1, key = AccountId)]
impl Balance {
    fn opened(&mut self, e: &Opened) {
        self.owner.clone_from(&e.owner);
    }

    fn deposited(&mut self, e: Recorded<'_, Deposited>) {
        self.amount += e.amount;
    }

    fn withdrawn(&mut self, e: &Withdrawn) -> Result<(), &'static str> {
        self.amount = self.amount.checked_sub(e.amount).ok_or("below zero")?;
        Ok(())
    }
}

/// Keyed by what the event says, not by its aggregate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Owner {
    accounts: u32,
}

#[view(name = "owner", key = String)]
impl Owner {
    #[on(by = owner)]
    fn opened(&mut self, _: &Opened) {
        self.accounts += 1;
    }
}

struct Totals;

#[projection(name = "totals", version = 2)]
impl Totals {
    async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), BoxError> {
        let id = e.aggregate_id()?;
        let before = tx.get("totals", "all").map_or(0, |row| row[0]);
        tx.put("totals", "all", [before + u8::try_from(e.amount)?]);
        tx.put("totals", &id.to_string(), [1]);
        Ok(())
    }

    fn opened(&self, e: &Opened, tx: &mut Tx) {
        tx.put("totals", &e.owner, [0]);
    }
}

#[derive(Clone)]
struct Total;
#[derive(Debug)]
struct BalanceOf(AccountId);
struct EveryBalance;

/// Every handler knows some of it.
#[derive(Clone)]
struct Names;

impl Gather for Names {
    type Answer = Vec<String>;
}

#[queries]
impl Totals {
    async fn total(&self, _: Total, db: &Db) -> Result<Option<u8>, BoxError> {
        Ok(db.row("totals", "all").map(|row| row[0]))
    }

    async fn balance(&self, q: BalanceOf, views: &Views) -> Result<Option<Balance>, BoxError> {
        views.get(&q.0).await
    }

    fn every_balance(&self, _: EveryBalance, views: &Views) -> Rows<(AccountId, Balance)> {
        views.stream::<Balance>().boxed()
    }

    #[gather]
    async fn names(&self, _: Names, db: &Db) -> Result<Vec<String>, BoxError> {
        Ok(db.table("totals").into_keys().collect())
    }
}

struct Others;

#[queries]
impl Others {
    #[gather]
    fn names(&self, _: Names) -> Result<Vec<String>, &'static str> {
        Err("knows nobody")
    }
}

#[derive(Default)]
struct Mailer(Mutex<Vec<String>>);

struct Welcome;

#[reactor(name = "welcome")]
impl Welcome {
    async fn opened(
        &self,
        e: Recorded<'_, Opened>,
        mailer: &Mailer,
        limits: &Limits,
    ) -> Result<(), BoxError> {
        let line = format!("{} {} {}", e.aggregate_id()?, e.owner, limits.daily);
        mailer.0.lock().map_err(|_| "poisoned")?.push(line);
        Ok(())
    }

    fn withdrawn(&self, e: &Withdrawn) {
        assert!(e.amount > 0);
    }
}

#[tokio::test]
async fn what_the_macros_write_runs() {
    let app = App::on(MemoryBackend::new())
        .provide(Limits { daily: 100 })
        .provide(Mailer::default())
        .aggregate::<Account>()
        .view::<Balance>()
        .view::<Owner>()
        .queries(Others)
        .projection(Totals)
        .reactor(Welcome)
        .start()
        .await
        .unwrap();
    let ada = AccountId::from("ada");
    let mut totals = app.watch(Total).boxed();
    assert_eq!(totals.try_next().await.unwrap(), Some(None));
    app.send(&ada, Open { owner: "Ada".into(), deposit: 7 }).await.unwrap();
    app.send(&ada, Deposit { amount: 5 }).await.unwrap();
    while totals.try_next().await.unwrap() != Some(Some(12)) {}
    let done = app.send(&ada, Withdraw { amount: 2 }).await.unwrap();
    assert_eq!(done.events, [AccountEvent::Withdrawn(Withdrawn { amount: 2, fee: 0 })]);
    let refused = app.send(&ada, Withdraw { amount: 99 }).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn));
    assert!(matches!(
        app.send(&"bob".into(), Deposit { amount: 1 }).await,
        Err(CommandError::NotFound { .. })
    ));

    app.settle(Duration::from_secs(5)).await.unwrap();
    assert_eq!(app.query(Total).await.unwrap(), Some(12));
    let balance = app.query(BalanceOf(ada)).await.unwrap().unwrap();
    assert_eq!(balance, Balance { owner: "Ada".into(), amount: 10 });
    let every: Vec<_> = app.query(EveryBalance).await.unwrap().try_collect().await.unwrap();
    assert_eq!(every, [("ada".into(), balance)]);
    let names = app.gather(Names, Duration::from_secs(5)).await;
    assert!(matches!(&names[..], [Err(_), Ok(names)] if names[..] == ["Ada", "ada", "all"]), "{names:?}");
    let views: &Views = app.services().get().unwrap();
    assert_eq!(views.get::<Owner>(&"Ada".to_owned()).await.unwrap(), Some(Owner { accounts: 1 }));
    let mailer: &Mailer = app.services().get().unwrap();
    assert_eq!(*mailer.0.lock().unwrap(), ["ada Ada 100"]);
}

#[tokio::test]
async fn start_names_every_service_that_is_missing() {
    let wrong =
        App::on(MemoryBackend::new()).aggregate::<Account>().reactor(Welcome).start().await.unwrap_err();
    assert_eq!(wrong.0.len(), 3, "{wrong}");
    assert!(wrong.0[0].starts_with("command withdraw of account: no `"), "{wrong}");
    assert!(wrong.0[1].starts_with("reactor welcome on account.opened: no `"), "{wrong}");
    let wrong = App::on(MemoryBackend::new()).projection(Totals).start().await.unwrap_err();
    assert!(wrong.0.iter().all(|line| line.starts_with("query bank::") && line.contains("Views")), "{wrong}");
    assert!(wrong.0.len() >= 2, "{wrong}");
}

#[tokio::test]
async fn every_shape_that_was_ever_stored_is_read() {
    let app = App::on(MemoryBackend::new()).provide(Limits { daily: 100 }).start().await.unwrap();
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".into(), deposit: 7 }).await.unwrap();
    app.send(&ada, Withdraw { amount: 2 }).await.unwrap();
    let stored = app.store().read(&AccountEvent::all(), Position(0), 10).await.unwrap().events;
    let mut old = stored[2].clone();
    assert_eq!((&*old.name, old.schema), ("account.withdrawn", 3));
    assert_eq!(*old.tags, [Tag::new("amount", 2).unwrap()]);

    let withdrawn = |fee| Decoded::One(AccountEvent::Withdrawn(Withdrawn { amount: 2, fee }));
    assert_eq!(AccountEvent::decode(&old).unwrap(), withdrawn(0));
    (old.schema, old.data) = (2, r#"{"value":2}"#.into());
    assert_eq!(AccountEvent::decode(&old).unwrap(), withdrawn(1));
    (old.schema, old.data) = (1, "2".into());
    assert_eq!(AccountEvent::decode(&old).unwrap(), withdrawn(1));
    old.name = "account.paid".into();
    assert_eq!(AccountEvent::decode(&old).unwrap(), withdrawn(1));
    old.schema = 4;
    assert!(AccountEvent::decode(&old).unwrap_err().to_string().contains("its schema is newer than 3"));
    old.name = "account.moved".into();
    let moved = vec![Withdrawn { amount: 2, fee: 0 }.into(), Deposited { amount: 2 }.into()];
    assert_eq!(AccountEvent::decode(&old).unwrap(), Decoded::Many(moved));
    old.name = "account.vanished".into();
    assert!(AccountEvent::decode(&old).unwrap_err().to_string().contains("its type is unknown"));
    assert_eq!(Withdrawn::SOURCES, ["account.withdrawn", "account.paid", "account.moved"]);
}

//! `mire`: load, execute, save, with its snapshots (every 100 events), as it advises for long streams.

use std::collections::HashMap;
use std::time::Duration;

use bench_kit::{Deposited, Side, Work, deposit};
use mire::{
    Aggregate, Command, EventData, EventStore, HandledEvent, ProjectionRunner, Snapshot,
    TransactionalBatchEventHandler,
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::balances::{self, Taken};
use crate::pool::pool;

#[derive(Clone, Debug, Serialize, Deserialize, EventData)]
#[serde(tag = "type")]
#[mire(entity = "account")]
enum AccountEvent {
    Deposited { amount: i64, note: String },
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn stream_category() -> &'static str {
        "account"
    }

    fn apply(&mut self, AccountEvent::Deposited { amount, .. }: &AccountEvent) {
        self.balance += amount;
    }
}

impl Snapshot for Account {}

struct Deposits(usize);

impl Command for Deposits {
    type Aggregate = Account;
    type Error = std::convert::Infallible;
    type Events = Vec<AccountEvent>;

    fn handle(self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> {
        let Deposited { amount, note } = deposit();
        Ok(vec![AccountEvent::Deposited { amount, note }; self.0])
    }
}

struct Balances(Taken);

impl TransactionalBatchEventHandler for Balances {
    type Aggregate = Account;

    async fn handle_batch(
        &self,
        events: Vec<HandledEvent<AccountEvent>>,
        conn: &mut PgConnection,
    ) -> anyhow::Result<()> {
        let mut sums = HashMap::<&str, i64>::new();
        for event in &events {
            let AccountEvent::Deposited { amount, .. } = event.event;
            *sums.entry(event.stream_id()).or_default() += amount;
        }
        let (accounts, sums): (Vec<&str>, Vec<i64>) = sums.into_iter().unzip();
        let upsert = "insert into balances select * from unnest($1::text[], $2::bigint[])
                      on conflict (account) do update set balance = balances.balance + excluded.balance";
        sqlx::query(upsert).bind(accounts).bind(sums).execute(conn).await?;
        self.0.add(events.len());
        Ok(())
    }
}

#[derive(Clone)]
pub struct Peer(EventStore);

impl Side for Peer {
    const CAN: &'static [Work] = &[Work::Command, Work::Batch, Work::Load, Work::Rebuild];

    async fn open(url: &str) -> anyhow::Result<Self> {
        Ok(Self(EventStore::new(pool(url).await?)))
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        let Self(store) = Self::open(url).await?;
        store.migrate().await?;
        sqlx::raw_sql(balances::TABLE).execute(store.pool()).await?;
        Ok(())
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        let mut root = self.0.load_or_default_snapshotted::<Account>(&aggregate.to_string()).await?;
        let Ok(()) = root.execute(Deposits(events));
        Ok(self.0.save_snapshotting(&mut root).await?)
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let root = self.0.load::<Account>(&aggregate.to_string()).await?;
        Ok(root.map_or(0, |root| root.state.balance))
    }

    async fn rebuild(&self, limit: Duration) -> anyhow::Result<u64> {
        sqlx::raw_sql("truncate balances").execute(self.0.pool()).await?;
        let stored = "select sum(stream_version)::bigint from es_streams where stream_category = 'account'";
        let stored: i64 = sqlx::query_scalar(stored).fetch_one(self.0.pool()).await?;
        let taken = Taken::default();
        // A new name starts from nothing.
        let name = format!("balances-{}", Uuid::new_v4());
        let runner = ProjectionRunner::builder(self.0.clone())
            .subscribe_transactional_batch(name, Balances(taken.clone()))
            .build();
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { runner.run(stop).await }
        });
        // Whatever is not taken in by then is not counted.
        drop(tokio::time::timeout(limit, taken.reach(u64::try_from(stored)?)).await);
        stop.cancel();
        running.await??;
        Ok(taken.all())
    }
}

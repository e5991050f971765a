//! `cqrs-es` with `postgres-es`: snapshots every 100 events, as its guide advises for long streams.

use std::sync::Arc;
use std::time::Duration;

use bench_kit::{Deposited, Side, Work, deposit};
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{GenericQuery, PersistedEventStore, QueryReplay};
use cqrs_es::{Aggregate, AggregateContext as _, DomainEvent, EventEnvelope, EventStore as _, View};
use postgres_es::{PostgresCqrs, PostgresEventRepository, PostgresViewRepository, postgres_snapshot_cqrs};
use serde::{Deserialize, Serialize};
use sqlx_08::PgPool;

use crate::pool::pool_08;

const TABLES: &str = "
    create table if not exists events (
        aggregate_type text not null, aggregate_id text not null,
        sequence bigint check (sequence >= 0) not null,
        event_type text not null, event_version text not null, payload json not null, metadata json not null,
        primary key (aggregate_type, aggregate_id, sequence));
    create table if not exists snapshots (
        aggregate_type text not null, aggregate_id text not null,
        last_sequence bigint check (last_sequence >= 0) not null,
        current_snapshot bigint check (current_snapshot >= 0) not null, payload json not null,
        primary key (aggregate_type, aggregate_id, last_sequence));
    create table if not exists balances (
        view_id text not null, version bigint check (version >= 0) not null, payload json not null,
        primary key (view_id))";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    Deposited(Deposited),
}

impl DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        "Deposited".to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    type Command = usize;
    type Event = AccountEvent;
    type Error = std::convert::Infallible;
    type Services = ();

    async fn handle(&mut self, events: usize, (): &(), sink: &EventSink<Self>) -> Result<(), Self::Error> {
        for _ in 0..events {
            sink.write(AccountEvent::Deposited(deposit()), self).await;
        }
        Ok(())
    }

    fn apply(&mut self, AccountEvent::Deposited(event): AccountEvent) {
        self.balance += event.amount;
    }
}

impl View<Account> for Account {
    fn update(&mut self, event: &EventEnvelope<Account>) {
        self.apply(event.payload.clone());
    }
}

#[derive(Clone)]
pub struct Peer {
    pool: PgPool,
    cqrs: Arc<PostgresCqrs<Account>>,
    cold: Arc<PersistedEventStore<PostgresEventRepository, Account>>,
}

impl Side for Peer {
    const CAN: &'static [Work] = &[Work::Command, Work::Batch, Work::Load, Work::Rebuild];

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = pool_08(url).await?;
        let cqrs = Arc::new(postgres_snapshot_cqrs(pool.clone(), Vec::new(), 100, ()));
        let cold = PersistedEventStore::new_event_store(PostgresEventRepository::new(pool.clone()));
        Ok(Self { pool, cqrs, cold: Arc::new(cold) })
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        sqlx_08::raw_sql(TABLES).execute(&pool_08(url).await?).await?;
        Ok(())
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        Ok(self.cqrs.execute(&aggregate.to_string(), events).await?)
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let mut context = self.cold.load_aggregate(&aggregate.to_string()).await?;
        Ok(context.aggregate().balance)
    }

    async fn rebuild(&self, limit: Duration) -> anyhow::Result<u64> {
        sqlx_08::raw_sql("truncate balances").execute(&self.pool).await?;
        let views = PostgresViewRepository::<Account, Account>::new("balances", self.pool.clone());
        let query = GenericQuery::new(Arc::new(views));
        let replay = QueryReplay::new(PostgresEventRepository::new(self.pool.clone()), query);
        if let Ok(replayed) = tokio::time::timeout(limit, replay.replay_all()).await {
            replayed?;
        }
        let taken = "select coalesce(sum(version), 0)::bigint from balances";
        let taken: i64 = sqlx_08::query_scalar(taken).fetch_one(&self.pool).await?;
        Ok(u64::try_from(taken)?)
    }
}

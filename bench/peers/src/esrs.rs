//! `esrs`: its store and its manager, optimistic, as in its own first example. It has no snapshots.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bench_kit::{Deposited, Side, Work, deposit};
use esrs::handler::TransactionalEventHandler;
use esrs::manager::AggregateManager;
use esrs::rebuilder::{PgRebuilder, Rebuilder as _};
use esrs::store::StoreEvent;
use esrs::store::postgres::{PgStore, PgStoreBuilder, PgStoreError};
use esrs::{Aggregate, AggregateState};
use serde::{Deserialize, Serialize};
use sqlx_08::{PgConnection, PgPool};
use uuid::Uuid;

use crate::balances::{self, Taken};
use crate::pool::pool_08;

struct Account;

#[derive(Clone, Serialize, Deserialize)]
enum AccountEvent {
    Deposited(Deposited),
}

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type State = i64;
    type Command = usize;
    type Event = AccountEvent;
    type Error = std::convert::Infallible;

    fn handle_command(_: &i64, events: usize) -> Result<Vec<AccountEvent>, Self::Error> {
        Ok(vec![AccountEvent::Deposited(deposit()); events])
    }

    fn apply_event(balance: i64, AccountEvent::Deposited(event): AccountEvent) -> i64 {
        balance + event.amount
    }
}

struct Balances(Taken);

#[async_trait]
impl TransactionalEventHandler<Account, PgStoreError, PgConnection> for Balances {
    async fn handle(
        &self,
        event: &StoreEvent<AccountEvent>,
        transaction: &mut PgConnection,
    ) -> Result<(), PgStoreError> {
        let AccountEvent::Deposited(deposited) = &event.payload;
        balances::credit(transaction, &event.aggregate_id.to_string(), deposited.amount).await?;
        self.0.add(1);
        Ok(())
    }
}

#[derive(Clone)]
pub struct Peer {
    pool: PgPool,
    manager: Arc<AggregateManager<PgStore<Account>>>,
}

impl Side for Peer {
    const CAN: &'static [Work] = &[Work::Command, Work::Batch, Work::Load, Work::Rebuild];

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = pool_08(url).await?;
        let store = PgStoreBuilder::new(pool.clone()).without_running_migrations().try_build().await?;
        Ok(Self { pool, manager: Arc::new(AggregateManager::new(store)) })
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        let pool = pool_08(url).await?;
        sqlx_08::raw_sql(balances::TABLE).execute(&pool).await?;
        let _migrated: PgStore<Account> = PgStoreBuilder::new(pool).try_build().await?;
        Ok(())
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        let id = Uuid::from_u128(u128::from(aggregate));
        let state = self.manager.load(id).await?.unwrap_or_else(|| AggregateState::with_id(id));
        let Ok(_) = self.manager.handle_command(state, events).await?;
        Ok(())
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let state = self.manager.load(Uuid::from_u128(u128::from(aggregate))).await?;
        Ok(state.map_or(0, AggregateState::into_inner))
    }

    async fn rebuild(&self, limit: Duration) -> anyhow::Result<u64> {
        balances::empty(&self.pool).await?;
        let taken = Taken::default();
        let rebuilder = PgRebuilder::<Account>::new()
            .with_transactional_event_handlers(vec![Box::new(Balances(taken.clone()))]);
        if let Ok(rebuilt) = tokio::time::timeout(limit, rebuilder.by_aggregate_id(self.pool.clone())).await {
            rebuilt?;
        }
        Ok(taken.all())
    }
}

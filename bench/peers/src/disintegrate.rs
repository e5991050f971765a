//! `disintegrate`: every decision has a boundary by identifiers; snapshots every 100 events.

use std::time::Duration;

use async_trait::async_trait;
use bench_kit::{Deposited, Side, Work, deposit};
use disintegrate::serde::json::Json;
use disintegrate::{
    Decision, Event, EventListener, EventStore as _, PersistedEvent, StateMutate, StateQuery, StreamItem,
    StreamQuery, WithSnapshot, query,
};
use disintegrate_postgres::{
    PgDecisionMaker, PgEventId, PgEventListener, PgEventListenerConfig, PgEventStore, PgSnapshotter,
    WithPgSnapshot, decision_maker,
};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx_08::PgPool;
use sqlx_08::postgres::PgConnectOptions;

use crate::balances::{self, Taken};
use crate::pool::pool_08;
use crate::retry::retry;

#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize)]
#[stream(AccountEvent, [Deposited])]
enum DomainEvent {
    Deposited {
        #[id]
        account: i64,
        amount: i64,
        note: String,
    },
}

#[derive(Clone, Debug, Default, StateQuery, Serialize, Deserialize)]
#[state_query(AccountEvent)]
struct Account {
    #[id]
    account: i64,
    balance: i64,
}

impl StateMutate for Account {
    fn mutate(&mut self, AccountEvent::Deposited { amount, .. }: Self::Event) {
        self.balance += amount;
    }
}

struct Deposits {
    account: i64,
    events: usize,
}

impl Decision for Deposits {
    type Event = DomainEvent;
    type StateQuery = Account;
    type Error = std::convert::Infallible;

    fn state_query(&self) -> Account {
        Account { account: self.account, balance: 0 }
    }

    fn process(&self, _: &Account) -> Result<Vec<DomainEvent>, Self::Error> {
        let Deposited { amount, note } = deposit();
        Ok(vec![DomainEvent::Deposited { account: self.account, amount, note }; self.events])
    }
}

struct Balances {
    pool: PgPool,
    query: StreamQuery<PgEventId, DomainEvent>,
    taken: Taken,
}

#[async_trait]
impl EventListener<PgEventId, DomainEvent> for Balances {
    type Error = sqlx_08::Error;

    fn id(&self) -> &'static str {
        "balances"
    }

    fn query(&self) -> &StreamQuery<PgEventId, DomainEvent> {
        &self.query
    }

    async fn handle(&self, event: PersistedEvent<PgEventId, DomainEvent>) -> Result<(), Self::Error> {
        let DomainEvent::Deposited { account, amount, .. } = event.into_inner();
        balances::credit(&mut *self.pool.acquire().await?, &account.to_string(), amount).await?;
        self.taken.add(1);
        Ok(())
    }
}

/// PostgreSQL reads a number in hexadecimal since 16; one of its functions has one.
const DECIMAL: &str = "do $$ begin
    execute replace(pg_get_functiondef('event_store_begin_epoch'::regproc), '0xFFFFFFFF', '4294967295');
end $$";

type Store = PgEventStore<DomainEvent, Json<DomainEvent>>;

#[derive(Clone)]
pub struct Peer {
    pool: PgPool,
    store: Store,
    maker: PgDecisionMaker<DomainEvent, Json<DomainEvent>, WithPgSnapshot>,
}

impl Side for Peer {
    const CAN: &'static [Work] = &[Work::Command, Work::Batch, Work::Condition, Work::Load, Work::Rebuild];

    async fn open(url: &str) -> anyhow::Result<Self> {
        let pool = pool_08(url).await?;
        let store = PgEventStore::new_uninitialized(pool.clone(), Json::default());
        let snapshots = WithSnapshot::new(PgSnapshotter::new_uninitialized(pool.clone(), 100));
        Ok(Self { pool, store: store.clone(), maker: decision_maker(store, snapshots) })
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        let unchecked = url.parse::<PgConnectOptions>()?.options([("check_function_bodies", "off")]);
        let pool = PgPool::connect_with(unchecked).await?;
        sqlx_08::raw_sql(balances::TABLE).execute(&pool).await?;
        Store::try_new(pool.clone(), Json::default()).await?;
        PgSnapshotter::try_new(pool.clone(), 100).await?;
        sqlx_08::raw_sql(DECIMAL).execute(&pool).await?;
        Ok(())
    }

    /// Its transactions are serializable, and PostgreSQL refuses some that touch other accounts.
    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        let account = i64::try_from(aggregate)?;
        retry(|| self.maker.make(Deposits { account, events })).await?;
        Ok(())
    }

    async fn condition(&self, aggregate: u64) -> anyhow::Result<()> {
        self.command(aggregate, 1).await
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let id = i64::try_from(aggregate)?;
        let query = query!(AccountEvent; account == id);
        let mut account = Account { account: id, balance: 0 };
        let mut stored = self.store.stream::<AccountEvent>(&query);
        while let Some(item) = stored.try_next().await? {
            if let StreamItem::Event(event) = item {
                account.mutate(event.into_inner());
            }
        }
        Ok(account.balance)
    }

    async fn rebuild(&self, limit: Duration) -> anyhow::Result<u64> {
        balances::empty(&self.pool).await?;
        sqlx_08::raw_sql("drop table if exists event_listener").execute(&self.pool).await?;
        let stored: i64 = sqlx_08::query_scalar("select count(*) from event").fetch_one(&self.pool).await?;
        let stored = u64::try_from(stored)?;
        let taken = Taken::default();
        let balances = Balances { pool: self.pool.clone(), query: query!(DomainEvent), taken: taken.clone() };
        let poller = PgEventListenerConfig::poller(Duration::from_millis(50)).fetch_size(1_000);
        let listener = PgEventListener::builder(self.store.clone()).register_listener(balances, poller);
        let until = taken.clone();
        let stop = async move { drop(tokio::time::timeout(limit, until.reach(stored)).await) };
        listener.start_with_shutdown(stop).await?;
        Ok(taken.all())
    }
}

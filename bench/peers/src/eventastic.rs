//! `eventastic`: a transaction that loads, records and stores. It takes a snapshot with every store.

use async_trait::async_trait;
use bench_kit::{Deposited, Side, Work, deposit};
use eventastic::aggregate::{Aggregate, Context, Root as _, SideEffect};
use eventastic::event::DomainEvent;
use eventastic::repository::RepositoryError;
use eventastic_postgres::{
    NoEncryption, NoEncryptionError, PostgresRepository, SideEffectDbError, SideEffectStorage, TableConfig,
};
use serde::{Deserialize, Serialize};
use sqlx_08::{Postgres, Transaction};
use uuid::Uuid;

use crate::pool::options_08;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Recorded {
    id: Uuid,
    account: Uuid,
    deposited: Deposited,
}

impl DomainEvent for Recorded {
    type EventId = Uuid;

    fn id(&self) -> &Uuid {
        &self.id
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Account {
    id: Uuid,
    balance: i64,
}

impl Aggregate for Account {
    const SNAPSHOT_VERSION: u64 = 1;
    type AggregateId = Uuid;
    type DomainEvent = Recorded;
    type ApplyError = std::convert::Infallible;
    type SideEffect = Nothing;

    fn aggregate_id(&self) -> &Uuid {
        &self.id
    }

    fn apply_new(event: &Recorded) -> Result<Self, Self::ApplyError> {
        Ok(Self { id: event.account, balance: event.deposited.amount })
    }

    fn apply(&mut self, event: &Recorded) -> Result<(), Self::ApplyError> {
        self.balance += event.deposited.amount;
        Ok(())
    }

    fn side_effects(&self, _: &Recorded) -> Option<Vec<Nothing>> {
        None
    }
}

/// An account has no effects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Nothing(Uuid);

impl SideEffect for Nothing {
    type SideEffectId = Uuid;

    fn id(&self) -> &Uuid {
        &self.0
    }
}

#[derive(Clone)]
struct NoOutbox;

#[async_trait]
impl SideEffectStorage<NoEncryptionError, Nothing> for NoOutbox {
    async fn store_side_effects(
        &self,
        _: &mut Transaction<'_, Postgres>,
        _: Vec<Nothing>,
    ) -> Result<(), SideEffectDbError<NoEncryptionError, serde_json::Error>> {
        Ok(())
    }
}

#[derive(Clone)]
pub struct Peer(PostgresRepository<Account, NoOutbox, NoEncryption>);

impl Side for Peer {
    const CAN: &'static [Work] = &[Work::Command, Work::Batch];

    async fn open(url: &str) -> anyhow::Result<Self> {
        let tables = TableConfig::new("events", "snapshots");
        let repository = PostgresRepository::new(url.parse()?, options_08(), tables, NoOutbox, NoEncryption);
        Ok(Self(repository.await?))
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        Ok(Self::open(url).await?.0.run_migrations().await?)
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        let account = Uuid::from_u128(u128::from(aggregate));
        let next = || Recorded { id: Uuid::new_v4(), account, deposited: deposit() };
        let mut transaction = self.0.begin_transaction().await?;
        let mut left = events;
        let mut context: Context<Account> = match transaction.get(&account).await {
            Ok(context) => context,
            Err(RepositoryError::AggregateNotFound) => {
                left -= 1;
                let Ok(context) = Account::record_new(next());
                context
            }
            Err(error) => anyhow::bail!("{error:?}"),
        };
        for _ in 0..left {
            let Ok(()) = context.record_that(next());
        }
        transaction.store(&mut context).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        transaction.commit().await.map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let mut transaction = self.0.begin_transaction().await?;
        let context = transaction.get(&Uuid::from_u128(u128::from(aggregate))).await;
        Ok(context.map_err(|error| anyhow::anyhow!("{error:?}"))?.state().balance)
    }
}

//! The framework, as an application uses it.

use std::time::Duration;

use bench_kit::{Side, Work};
use es_core::App;
use es_core::store::{Append, Commit, ExpectedVersion, NewEvent, StreamId};
use es_core::{Event as _, Metadata};
use es_postgres::PgBackend;

use super::balances::Balance;
use super::condition::Credit;
use crate::domain::{Account, AccountEvent, DepositMany, Deposited, deposit};

#[derive(Clone)]
pub struct Ours {
    backend: PgBackend,
    app: App,
    /// Keeps no aggregate in memory.
    cold: App,
}

fn deposited() -> Deposited {
    let deposit = deposit();
    Deposited { amount: deposit.amount, note: deposit.note }
}

impl Side for Ours {
    const CAN: &'static [Work] =
        &[Work::Command, Work::Batch, Work::Condition, Work::Load, Work::Rebuild, Work::Fill, Work::Scatter];

    async fn open(url: &str) -> anyhow::Result<Self> {
        let backend = PgBackend::connect(url).await?;
        let cold = App::on(backend.clone()).cache(0).start().await?;
        let app = App::on(backend.clone()).start().await?;
        Ok(Self { backend, app, cold })
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        if events == 1 {
            self.app.send(&aggregate, deposit()).await?;
        } else {
            let deposits = vec![deposited(); events];
            self.app.send(&aggregate, DepositMany { deposits }).await?;
        }
        Ok(())
    }

    async fn condition(&self, aggregate: u64) -> anyhow::Result<()> {
        self.app.decide(Credit::new(aggregate)?).await?;
        Ok(())
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        Ok(self.cold.load::<Account>(&aggregate).await?.map_or(0, |account| account.balance))
    }

    async fn rebuild(&self, limit: Duration) -> anyhow::Result<u64> {
        let app = App::on(self.backend.clone()).view::<Balance>().start().await?;
        app.rebuild::<Balance>().await?;
        let head = app.store().head().await?;
        app.settle(limit).await?;
        // Signs off: a node that ends without a word is believed to be alive until its lease has run out.
        app.shutdown(limit).await;
        Ok(head.0)
    }

    async fn fill(&self, first: u64, streams: u64, events: usize) -> anyhow::Result<()> {
        let appends = (first..first + streams).map(|stream| self.append(stream, events));
        let commit = Commit { appends: appends.collect::<anyhow::Result<_>>()?, ..Commit::default() };
        self.app.store().commit(commit).await?;
        Ok(())
    }
}

impl Ours {
    fn append(&self, stream: u64, events: usize) -> anyhow::Result<Append> {
        let metadata = std::sync::Arc::new(Metadata::default());
        let event = AccountEvent::Deposited(deposited()).encode()?;
        let new = || NewEvent::new(self.app.new_id(), event.clone(), metadata.clone());
        let events = (0..events).map(|_| new()).collect();
        Ok(Append {
            stream: StreamId::new(format!("account-{stream}"))?,
            expected: ExpectedVersion::Any,
            events,
        })
    }
}

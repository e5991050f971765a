//! `umadb`: a database of its own for events; a command reads its boundary and appends on condition.

use std::sync::Arc;
use std::time::Duration;

use bench_kit::{Deposited, Side, Work, deposit};
use umadb_client::{AsyncUmaDbClient, UmaDbClient};
use umadb_dcb::{
    DcbAppendCondition, DcbEvent, DcbEventStoreAsync as _, DcbQuery, DcbQueryItem, DcbSequencedEvent,
};
use umadb_server::{ServerOptions, StorageOptions, start_server_with_options};
use uuid::Uuid;

const TYPE: &str = "Deposited";

#[derive(Clone)]
pub struct Peer(Arc<AsyncUmaDbClient>);

impl Side for Peer {
    const CAN: &'static [Work] = &[Work::Command, Work::Batch, Work::Condition, Work::Load];

    async fn open(url: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(UmaDbClient::new(url.to_owned()).connect_async().await?)))
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        let boundary = boundary(aggregate);
        let (stored, head) = self.0.read_with_head(Some(boundary.clone()), None, false, None).await?;
        std::hint::black_box(balance(&stored)?);
        let condition = DcbAppendCondition::new(boundary).after(head);
        let event = DcbEvent::new().event_type(TYPE).tags([tag(aggregate)]);
        let event = event.data(serde_json::to_vec(&deposit())?);
        let events = (0..events).map(|_| event.clone().uuid(Uuid::new_v4())).collect();
        self.0.append(events, Some(condition), None).await?;
        Ok(())
    }

    async fn condition(&self, aggregate: u64) -> anyhow::Result<()> {
        self.command(aggregate, 1).await
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let (stored, _) = self.0.read_with_head(Some(boundary(aggregate)), None, false, None).await?;
        balance(&stored)
    }
}

fn tag(aggregate: u64) -> String {
    format!("account:{aggregate}")
}

fn boundary(aggregate: u64) -> DcbQuery {
    DcbQuery::new().item(DcbQueryItem::new().types([TYPE]).tags([tag(aggregate)]))
}

fn balance(stored: &[DcbSequencedEvent]) -> anyhow::Result<i64> {
    let amounts =
        stored.iter().map(|stored| Ok(serde_json::from_slice::<Deposited>(&stored.event.data)?.amount));
    amounts.sum()
}

/// In a folder of its own, until whoever started it closes its input.
pub fn serve() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("bench-umadb").tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let runtime = tokio::runtime::Runtime::new()?;
    let (_stop, stopped) = tokio::sync::oneshot::channel();
    let options = ServerOptions {
        listen_addr: format!("127.0.0.1:{port}"),
        tls: None,
        api_key: None,
        storage: StorageOptions::default().db_path(folder.path().join("events.db")),
    };
    runtime.spawn(async move {
        if let Err(error) = start_server_with_options(options, stopped).await {
            eprintln!("umadb: {error}");
        }
    });
    let url = format!("http://127.0.0.1:{port}");
    runtime.block_on(async {
        while UmaDbClient::new(url.clone()).connect_async().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    bench_kit::serve(&url)
}

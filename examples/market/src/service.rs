//! What each service has: a store of its own, relays to others, an inbox, and the routes between them.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use clap::ValueEnum;
use es_core::{App, AppBuilder, BoxError};
use es_sqlite::{SqliteBackend, Tx};
use sagas::message::inbox::{Consumer, HttpLog, Inbox, Lane, Log};
use sagas::message::{Envelope, Sequence};
use sagas::relay::{HttpPublisher, Publishes, Relay, ReplayError};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

/// Messages that are given again together.
const PAGE: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Order,
    Stock,
    Payment,
}

impl Name {
    pub(crate) const ALL: [Self; 3] = [Self::Order, Self::Stock, Self::Payment];

    /// Names the sender in its messages. An address would change.
    fn source(self) -> String {
        format!("/market/{self}")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Order => "order",
            Self::Stock => "stock",
            Self::Payment => "payment",
        })
    }
}

/// Where the services are.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Market {
    /// Of the databases, one for each service
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Of the services, in the order of their names here
    #[arg(long, value_delimiter = ',')]
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Market {
    pub(crate) fn url(&self, name: Name, path: &str) -> String {
        format!("http://{}/{path}", self.addresses[name as usize])
    }
}

/// Messages that were missed: their sender, by its source, gives them again.
struct Senders(Vec<(String, HttpLog)>);

impl Senders {
    fn of(market: &Market) -> Result<Self, BoxError> {
        let client = reqwest::Client::new();
        let log =
            |name: Name| Ok((name.source(), HttpLog::new(client.clone(), &market.url(name, "messages"))?));
        Ok(Self(Name::ALL.into_iter().map(log).collect::<Result<_, BoxError>>()?))
    }
}

#[async_trait]
impl Log for Senders {
    async fn behind(&self, lane: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        let sender = self.0.iter().find(|(source, _)| *source == lane.source);
        let (_, log) = sender.ok_or_else(|| format!("{} is no service of this market", lane.source))?;
        log.behind(lane, after).await
    }
}

/// A service before it serves.
#[derive(Debug)]
pub(crate) struct Service {
    name: Name,
    backend: SqliteBackend,
    market: Market,
}

impl Service {
    pub(crate) async fn open(name: Name, market: Market) -> anyhow::Result<Self> {
        std::fs::write(market.folder.join(format!("{name}.pid")), std::process::id().to_string())?;
        let backend = SqliteBackend::open(market.folder.join(format!("{name}.db"))).await?;
        Ok(Self { name, backend, market })
    }

    pub(crate) fn app(&self) -> AppBuilder<SqliteBackend> {
        // One that was killed is replaced this soon.
        App::on(self.backend.clone()).lease(Duration::from_secs(2))
    }

    pub(crate) fn relay<M: Publishes>(&self, mapping: M) -> Relay<M> {
        Relay::of(mapping).source(self.name.source())
    }

    pub(crate) fn publisher(&self, to: Name) -> anyhow::Result<HttpPublisher> {
        HttpPublisher::new(self.market.url(to, "messages")).map_err(anyhow::Error::from_boxed)
    }

    /// `GET /messages/{relay}/{key}?after=..`: what the relay of a mapping has sent, for a receiver that has missed some.
    pub(crate) fn again<M: Publishes>(&self, mapping: M) -> Router {
        let path = format!("/messages/{}/{{key}}", mapping.name());
        let state = Arc::new((self.relay(mapping), self.backend.clone()));
        Router::new().route(&path, get(again::<M>)).with_state(state)
    }

    /// Serves until whoever started it ends. Standard output is the socket: it was opened by the market, so what is sent
    /// while the service is being restarted waits in it. Standard input is the market's end of life.
    pub(crate) async fn serve(
        self,
        app: App,
        consumer: impl Consumer<Tx>,
        routes: Router,
    ) -> anyhow::Result<()> {
        let senders = Senders::of(&self.market).map_err(anyhow::Error::from_boxed)?;
        let inbox = Arc::new(Inbox::new(self.backend, &self.name.to_string(), consumer)?.log(senders));
        let routes = routes.merge(Router::new().route("/messages", post(receive)).with_state(inbox));
        let socket = std::net::TcpListener::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(true).context("a service is started by `market play`")?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        tokio::select! {
            served = async { axum::serve(socket, routes).await } => served?,
            ended = async { tokio::io::stdin().read(&mut [0]).await } => drop(ended?),
        }
        app.shutdown(Duration::from_secs(10)).await;
        Ok(())
    }
}

async fn receive<C: Consumer<Tx>>(
    State(inbox): State<Arc<Inbox<SqliteBackend, C>>>,
    body: Bytes,
) -> impl IntoResponse {
    let answer = inbox.answer(&body).await;
    let status = StatusCode::from_u16(answer.status).expect("it is one of a table");
    let wait = answer.retry_after.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
    (status, wait, answer.body)
}

#[derive(Deserialize)]
struct After {
    after: Option<String>,
}

async fn again<M: Publishes>(
    State(state): State<Arc<(Relay<M>, SqliteBackend)>>,
    Path(key): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<String, (StatusCode, String)> {
    let (relay, backend) = &*state;
    let failed = |error: BoxError| (StatusCode::INTERNAL_SERVER_ERROR, es_core::chain(&*error));
    match relay.behind(backend, &key, after.as_deref(), PAGE).await {
        Ok(page) => serde_json::to_string(&page).map_err(|error| failed(error.into())),
        Err(error @ ReplayError::NotSent { .. }) => Err((StatusCode::NOT_FOUND, error.to_string())),
        Err(error) => Err(failed(error.into())),
    }
}

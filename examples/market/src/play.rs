//! A run: the services are started, and started again if they are killed; orders are placed until all have ended.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::store::Subscription;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::logs::{Logs, Totals};
use crate::messages::{ProductId, Purchase};
use crate::order::{Confirmed, Rejected};
use crate::report;
use crate::service::{Market, Name};

/// How long a run may take before it is said that something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);
/// Before an order that got no answer is sent again.
const PAUSE: Duration = Duration::from_millis(100);

/// The last line is the summary.
pub(crate) async fn play(folder: &Path, orders: u32) -> anyhow::Result<()> {
    let logs = Logs::open(folder).await?;
    let sockets = Name::ALL.map(|_| TcpListener::bind("127.0.0.1:0"));
    let sockets = sockets.into_iter().collect::<Result<Vec<_>, _>>()?;
    let addresses = sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let market = Market { folder: folder.to_owned(), addresses };
    let (mut services, over) = (JoinSet::new(), CancellationToken::new());
    for (name, socket) in Name::ALL.into_iter().zip(sockets) {
        services.spawn(keep(name, socket, market.clone(), over.clone()));
    }
    let played = async { tokio::try_join!(place(&market, orders), ended(&logs, orders)) };
    let played = tokio::select! {
        played = tokio::time::timeout(PATIENCE, played) => played,
        Some(ended) = services.join_next() => return ended?,
    };
    over.cancel();
    while let Some(ended) = services.join_next().await {
        ended??;
    }
    if let Ok(played) = played {
        played?;
    }
    let (line, well) = Totals::of(&logs.events().await?)?.line();
    report::line(&line);
    anyhow::ensure!(well, "it did not end well: `market flow` shows an order");
    Ok(())
}

/// Keeps a service running. It gets the socket that it serves on, so what is sent to it while it is being restarted waits.
async fn keep(
    name: Name,
    socket: TcpListener,
    market: Market,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let addresses: Vec<String> = market.addresses.iter().map(ToString::to_string).collect();
    let program = std::env::current_exe()?;
    loop {
        let mut command = Command::new(&program);
        command.args(["serve", &name.to_string(), "--addresses", &addresses.join(","), "--folder"]);
        command.arg(&market.folder).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(OwnedFd::from(socket.try_clone()?));
        let mut child = command.spawn().context("a service does not start")?;
        let life = child.stdin.take();
        tokio::select! {
            // One that was killed has no code.
            status = child.wait() => anyhow::ensure!(status?.code().is_none(), "the service {name} has ended"),
            () = over.cancelled() => {
                drop(life);
                child.wait().await?;
                return Ok(());
            }
        }
    }
}

/// Every third order is for a lamp, of which there are few; every seventh card is refused.
fn purchase(order: u32) -> Purchase {
    let (product, price) = [("lamp", 40), ("pen", 2), ("book", 15)][order as usize % 3];
    let card_limit = if order.is_multiple_of(7) { 1 } else { 100 };
    Purchase { product: ProductId(product.to_owned()), price, card_limit }
}

async fn place(market: &Market, orders: u32) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    for order in 1..=orders {
        let body = serde_json::to_vec(&purchase(order))?;
        loop {
            let put = client.put(market.url(Name::Order, &format!("orders/{order}"))).body(body.clone());
            match put.send().await {
                Ok(answer) if answer.status().is_client_error() => anyhow::bail!(answer.text().await?),
                Ok(answer) if answer.status().is_success() => break,
                // The service is being restarted.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
    Ok(())
}

/// Until every order has its end in the log.
async fn ended(logs: &Logs, orders: u32) -> anyhow::Result<()> {
    let ends = EventFilter::of::<Confirmed>().or(EventFilter::of::<Rejected>());
    let mut log = Subscription::new(logs.orders(), ends, Position(0));
    let mut open: BTreeSet<String> = (1..=orders).map(|order| format!("order-{order}")).collect();
    while !open.is_empty() {
        open.remove(log.next().await?.stream.as_str());
    }
    Ok(())
}

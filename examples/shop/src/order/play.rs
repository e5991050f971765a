//! A run: each order starts its saga, and the end of each is waited for.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use es_core::prelude::*;
use futures::{StreamExt as _, stream};
use sagas::saga::Sagas as _;

use crate::import::bar;
use crate::order::Databases;
use crate::order::audit::{Totals, wrong};
use crate::order::wanted::{self, PlaceOrder};

/// Orders that are open at the same time.
const AT_ONCE: usize = 32;
/// How long nothing may end before it is said that something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Places the orders that were not placed before, waits until all in these databases have ended, and says what came of them.
pub(crate) async fn play(app: &App, databases: &Databases, count: u32) -> anyhow::Result<()> {
    let runs = app.saga_runs::<PlaceOrder>()?;
    let mut orders: BTreeSet<u32> = (1..=count).collect();
    // Of a run that was stopped, or killed.
    orders.extend(Totals::read(&runs).await?.open());
    let ended = end_of(app, orders).await?;
    let totals = Totals::read(&runs).await?;
    let Databases { stock, ledger, .. } = databases;
    let wrong = match totals.open().is_empty() {
        _ if !ended => {
            Some(format!("no order has ended for {PATIENCE:?}: the next run in the --folder continues"))
        }
        true => wrong(&totals, app.store(), stock, ledger).await?,
        false => None,
    };
    totals.tell(wrong.as_deref())
}

/// Until each order has ended: `true`. Or until nothing ends any more.
async fn end_of(app: &App, orders: BTreeSet<u32>) -> anyhow::Result<bool> {
    let bar = bar(orders.len() as u64, "orders");
    let ends = stream::iter(orders).map(|order| place(app, order)).buffer_unordered(AT_ONCE);
    let mut ends = pin!(ends);
    let all = loop {
        match tokio::time::timeout(PATIENCE, ends.next()).await {
            Ok(Some(end)) => end?,
            Ok(None) => break true,
            Err(_) => break false,
        }
        bar.inc(1);
    };
    bar.finish_and_clear();
    Ok(all)
}

/// Its number is the key: placed again, by this run or the next one, it is the same order.
async fn place(app: &App, number: u32) -> anyhow::Result<()> {
    app.run_saga(&number.to_string(), wanted::order(number)).await?;
    Ok(())
}

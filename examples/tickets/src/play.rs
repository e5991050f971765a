//! A run: orders are sent, and what comes of them is read from the log.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::store::Subscription;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use tokio::sync::Semaphore;

use crate::flow::{AllFlows, Totals};
use crate::order::{OrderId, Place, Released, TicketIssued, Why};
use crate::orders;
use crate::report::{self, thousands};

/// Orders that are sent at the same time.
const AT_ONCE: usize = 32;
/// Flows that are open at the same time: more would wait for each other until the deadline.
const OPEN: usize = 300;
/// How long nothing may end, beside the hold, before it is said that something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) flows: u32,
    pub(crate) hold: SignedDuration,
}

impl Run {
    /// Sends the orders, waits until all of them have ended, and says what the log has of them.
    pub(crate) async fn play(self, app: &App) -> anyhow::Result<()> {
        let bar = bar(self.flows.into());
        let room = Semaphore::new(OPEN);
        let played = tokio::try_join!(self.place(app, &room), self.watch(app, &room, &bar));
        bar.finish_and_clear();
        played?;
        app.settle(PATIENCE).await.context("the summary is not up to date")?;
        tell(&app.query(AllFlows).await?)
    }

    /// Each order has a key: sent twice, or again by the next run, it acts once.
    async fn place(self, app: &App, room: &Semaphore) -> anyhow::Result<()> {
        let let_in = stream::iter(1..=self.flows).then(|n| async move {
            room.acquire().await.expect("it is never closed").forget();
            let times = if orders::is_sent_twice(n) { 2 } else { 1 };
            stream::iter(std::iter::repeat_n(n, times))
        });
        let sent = let_in.flatten().map(|n| async move {
            let place = Place(orders::order(n, self.hold));
            match app.send(&OrderId(n), place).idempotency_key(format_args!("order/{n}")).await {
                Ok(_) => Ok(()),
                Err(CommandError::KeyReused { .. }) => Err(anyhow::anyhow!(
                    "order {n} was placed with another deadline before: give the same, or name another database"
                )),
                Err(error) => Err(anyhow::Error::new(error).context(format!("order {n}"))),
            }
        });
        sent.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Until every order of the run has its end in the log, or nothing ends any more.
    async fn watch(self, app: &App, room: &Semaphore, bar: &ProgressBar) -> anyhow::Result<()> {
        let ends = EventFilter::of::<TicketIssued>().or(EventFilter::of::<Released>());
        let mut log = Subscription::new(app.store_handle(), ends, Position(0));
        let mut open: BTreeSet<String> = (1..=self.flows).map(|n| format!("order-{n}")).collect();
        while !open.is_empty() {
            let next = tokio::time::timeout(PATIENCE + self.hold.unsigned_abs(), log.next());
            let Ok(end) = next.await else { break };
            if open.remove(end?.stream.as_str()) {
                room.add_permits(1);
                bar.inc(1);
            }
        }
        Ok(())
    }
}

/// The last line is the summary. An order that is open, or money without a ticket, is an error.
fn tell(totals: &Totals) -> anyhow::Result<()> {
    for (why, n) in &totals.released {
        let why = match why {
            Why::SeatTaken => "another buyer had the seat",
            Why::CardRefused => "the card was refused",
            Why::TooLate => "the payment was too late",
            Why::SeatLost => "the seat was lost after the payment",
        };
        report::line(&format!("{:>7} released: {why}", thousands(*n)));
    }
    let Totals { flows, sold, open, charged_without_ticket: charged, .. } = totals;
    let [flows, sold, open, charged] = [flows, sold, open, charged].map(|n| thousands(*n));
    let released = thousands(totals.released.values().sum());
    report::line(&format!(
        "{flows} flows: {sold} sold, {released} released, {open} open, {charged} charged without a ticket"
    ));
    if let Some(order) = totals.first_open {
        anyhow::bail!(
            "order {order} is open: the next run on its --database continues, `show {order}` says what it waits for"
        );
    }
    anyhow::ensure!(totals.charged_without_ticket == 0, "somebody has paid for nothing");
    Ok(())
}

/// Nothing is drawn where there is no terminal.
fn bar(length: u64) -> ProgressBar {
    let template = "{prefix} {bar:40} {human_pos}/{human_len} {per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::new(length).with_style(style).with_prefix("flows")
}

//! What came of all orders, and whether the three databases agree.

use std::collections::{BTreeMap, BTreeSet};

use es_core::prelude::*;
use es_sqlite::SqliteGuarded;
use sagas::saga::{Outcome, RunFilter, Runs, Why};

use crate::money::{Cents, thousands};
use crate::order::book::{Confirmed, OrderId};
use crate::order::ledger::Ledger;
use crate::order::stock;
use crate::order::wanted::Item;
use crate::report;

const PAGE: usize = 500;

/// What came of all orders, by what is stored of their sagas.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    confirmed: BTreeSet<u32>,
    /// How many, for each reason.
    undone: BTreeMap<String, u64>,
    open: BTreeSet<u32>,
}

impl Totals {
    pub(crate) async fn read(runs: &Runs) -> anyhow::Result<Self> {
        let (mut all, mut next) = (BTreeMap::new(), None);
        loop {
            let page = runs.list(&RunFilter::all(), next.as_ref(), PAGE).await?;
            // One that ends meanwhile may be listed twice: the last time counts.
            all.extend(page.runs.into_iter().map(|run| (run.key, run.outcome)));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let mut totals = Self::default();
        for (key, outcome) in all {
            totals.add(key.parse()?, outcome);
        }
        Ok(totals)
    }

    fn add(&mut self, order: u32, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Completed) => {
                self.confirmed.insert(order);
            }
            Some(Outcome::Undone(why)) => *self.undone.entry(in_short(&why)).or_default() += 1,
            _ => {
                self.open.insert(order);
            }
        }
    }

    /// Those that have not ended.
    pub(crate) const fn open(&self) -> &BTreeSet<u32> {
        &self.open
    }

    /// The last line is the summary. An order that is open, or something that is lost, is an error.
    pub(crate) fn tell(&self, wrong: Option<&str>) -> anyhow::Result<()> {
        for (why, orders) in &self.undone {
            report::line(&format!("{:>7} undone: {why}", thousands(*orders)));
        }
        let (confirmed, open) = (self.confirmed.len() as u64, self.open.len() as u64);
        let undone = self.undone.values().sum::<u64>();
        let [all, confirmed, undone, still_open] =
            [confirmed + undone + open, confirmed, undone, open].map(thousands);
        let conserved = if open == 0 && wrong.is_none() { "; money and stock conserved" } else { "" };
        report::line(&format!(
            "{all} orders: {confirmed} confirmed, {undone} undone, {still_open} open{conserved}"
        ));
        if let Some(order) = self.open.first() {
            anyhow::bail!(
                "order {order} is open: the next run in its --folder continues, `order show {order}` says what it waits for"
            );
        }
        wrong.map_or(Ok(()), |wrong| Err(anyhow::anyhow!("{wrong}")))
    }
}

fn in_short(why: &Why) -> String {
    match why {
        Why::Refused { step, .. } => match step.as_str() {
            "reserve" => "a disc was sold out".to_owned(),
            "pay" => "the card was declined".to_owned(),
            "book" => "the van was full".to_owned(),
            step => format!("{step} was refused"),
        },
        Why::Failed { step, .. } => format!("{step} failed"),
        other => other.to_string(),
    }
}

/// The first difference between what is confirmed, what is paid and what is taken, once nothing is open.
pub(crate) async fn wrong(
    totals: &Totals,
    log: &dyn EventStore,
    stock: &SqliteGuarded,
    ledger: &Ledger,
) -> anyhow::Result<Option<String>> {
    let confirmed = confirmed(log).await?;
    if !confirmed.keys().map(|order| order.0).eq(totals.confirmed.iter().copied()) {
        return Ok(Some("the orders that are confirmed are not those whose sagas have completed".to_owned()));
    }
    let money = money(&confirmed, ledger).await?;
    Ok(match money {
        Some(wrong) => Some(wrong),
        None => taken(confirmed, stock).await?,
    })
}

/// The orders that are confirmed, by the log.
pub(crate) async fn confirmed(log: &dyn EventStore) -> anyhow::Result<BTreeMap<OrderId, Confirmed>> {
    let (filter, mut after, mut all) = (EventFilter::of::<Confirmed>(), Position(0), BTreeMap::new());
    loop {
        let page = log.read(&filter, after, PAGE).await?;
        for event in &page.events {
            if let Some(confirmed) = event.payload::<Confirmed>()? {
                all.insert(confirmed.order, confirmed);
            }
        }
        after = page.through;
        if !page.more {
            return Ok(all);
        }
    }
}

/// What is charged and was not given back is what confirmed orders cost: each has its payment, and there is no other.
async fn money(confirmed: &BTreeMap<OrderId, Confirmed>, ledger: &Ledger) -> anyhow::Result<Option<String>> {
    let charged = ledger.charged().await?;
    let paid: BTreeMap<i64, Cents> = confirmed.values().map(|order| (order.receipt, order.paid)).collect();
    if let Some((number, cents)) = charged.iter().find(|(number, cents)| paid.get(number) != Some(cents)) {
        return Ok(Some(format!("payment {number}, {cents} dollars, is charged without a confirmed order")));
    }
    if let Some(order) = confirmed.values().find(|order| !charged.contains_key(&order.receipt)) {
        return Ok(Some(format!(
            "order {} is confirmed, and payment {} is not there",
            order.order, order.receipt
        )));
    }
    let price: Cents = confirmed.values().map(|order| order.paid).sum();
    let (shop, all) = ledger.balances().await?;
    let is_right = shop == price && all == Cents(0);
    Ok((!is_right)
        .then(|| format!("the shop has {shop} dollars and sold for {price}; all accounts have {all}")))
}

/// What is taken from the stock is what confirmed orders have.
async fn taken(
    confirmed: BTreeMap<OrderId, Confirmed>,
    stock: &SqliteGuarded,
) -> anyhow::Result<Option<String>> {
    let of_order = |(order, confirmed): (OrderId, Confirmed)| (order.0.to_string(), sorted(confirmed.items));
    let sold: BTreeMap<String, Vec<Item>> = confirmed.into_iter().map(of_order).collect();
    let taken = stock::taken(stock).await?;
    if let Some(order) = sold.keys().chain(taken.keys()).find(|order| sold.get(*order) != taken.get(*order)) {
        return Ok(Some(format!("what is taken from the stock for order {order} is not what it has")));
    }
    let wrong = stock::first_wrong(stock).await?;
    Ok(wrong.map(|disc| format!("copies of {disc} are lost, or too many")))
}

fn sorted(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by(|a, b| a.disc.cmp(&b.disc));
    items
}

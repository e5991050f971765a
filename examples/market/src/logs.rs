//! The logs of the three services, read from outside: no service sees that of another.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::store::read_all;
use es_sqlite::SqliteBackend;

use crate::messages::OrderId;
use crate::order::{OrderEvent, Rejected, Why};
use crate::payment::{Charged, PaymentEvent};
use crate::service::Name;
use crate::stock::{Reserved, Returned, StockEvent};

pub(crate) struct Logs(Vec<(Name, Arc<SqliteBackend>)>);

impl Logs {
    pub(crate) async fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut logs = Vec::new();
        for name in Name::ALL {
            logs.push((name, Arc::new(SqliteBackend::open(folder.join(format!("{name}.db"))).await?)));
        }
        Ok(Self(logs))
    }

    pub(crate) fn orders(&self) -> Arc<SqliteBackend> {
        self.0[Name::Order as usize].1.clone()
    }

    pub(crate) async fn events(&self) -> anyhow::Result<Vec<(Name, RecordedEvent)>> {
        let mut all = Vec::new();
        for (name, log) in &self.0 {
            let events = read_all(&**log, &EventFilter::all(), Position(0)).await?.events;
            all.extend(events.into_iter().map(|event| (*name, event)));
        }
        Ok(all)
    }
}

/// What the three services say of one order.
#[derive(Debug, Default)]
struct Said {
    confirmed: bool,
    rejected: Option<Why>,
    /// By the stock.
    reserved: bool,
    charged: bool,
}

/// What they say of all orders.
#[derive(Debug, Default)]
pub(crate) struct Totals(BTreeMap<OrderId, Said>);

impl Totals {
    pub(crate) fn of(events: &[(Name, RecordedEvent)]) -> anyhow::Result<Self> {
        let mut totals = Self::default();
        for (name, event) in events {
            match name {
                Name::Order => totals.order(event)?,
                Name::Stock => totals.stock(event)?,
                Name::Payment => totals.payment(event)?,
            }
        }
        Ok(totals)
    }

    fn said(&mut self, order: OrderId) -> &mut Said {
        self.0.entry(order).or_default()
    }

    fn order(&mut self, event: &RecordedEvent) -> anyhow::Result<()> {
        let (_, order) = event.stream.as_str().split_once('-').context("a stream has a name and an id")?;
        let order = OrderId(order.parse()?);
        for told in OrderEvent::decode(event)? {
            match told {
                OrderEvent::Placed(_) => drop(self.said(order)),
                OrderEvent::Confirmed(_) => self.said(order).confirmed = true,
                OrderEvent::Rejected(Rejected { why }) => self.said(order).rejected = Some(why),
            }
        }
        Ok(())
    }

    fn stock(&mut self, event: &RecordedEvent) -> anyhow::Result<()> {
        for told in StockEvent::decode(event)? {
            match told {
                StockEvent::Reserved(Reserved { order, .. }) => self.said(order).reserved = true,
                StockEvent::Returned(Returned { order, .. }) => self.said(order).reserved = false,
                StockEvent::Delivered(_) | StockEvent::SoldOut(_) => {}
            }
        }
        Ok(())
    }

    fn payment(&mut self, event: &RecordedEvent) -> anyhow::Result<()> {
        for told in PaymentEvent::decode(event)? {
            if let PaymentEvent::Charged(Charged { order, .. }) = told {
                self.said(order).charged = true;
            }
        }
        Ok(())
    }

    /// The line of a run, and whether it ended well.
    pub(crate) fn line(&self) -> (String, bool) {
        let count = |is: fn(&Said) -> bool| self.0.values().filter(|said| is(said)).count();
        let confirmed = count(|said| said.confirmed);
        let sold_out = count(|said| said.rejected == Some(Why::SoldOut));
        let refused = count(|said| said.rejected == Some(Why::CardRefused));
        let open = count(|said| !said.confirmed && said.rejected.is_none());
        let differ = count(|said| said.reserved != said.charged || said.charged != said.confirmed);
        let agree = match differ {
            0 => "stock and payments agree".to_owned(),
            _ => format!("stock and payments differ in {differ}"),
        };
        let orders = self.0.len();
        let line = format!(
            "{orders} orders: {confirmed} confirmed, {sold_out} without stock, {refused} refused, {open} open; {agree}"
        );
        (line, open == 0 && differ == 0)
    }
}

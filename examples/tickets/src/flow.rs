//! The read side: what came of each order.

use std::collections::BTreeMap;

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

use crate::order::{OrderId, Placed, Released, TicketIssued, Why};
use crate::payment::{Charged, Refunded};

/// A row for each order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flow {
    /// What the card paid and did not get back, in dollars.
    paid: i64,
    ticket: bool,
    released: Option<Why>,
}

#[view(name = "flow", version = 1, key = OrderId)]
impl Flow {
    fn placed(&mut self, _: &Placed) {}

    fn charged(&mut self, e: &Charged) {
        self.paid += i64::from(e.price);
    }

    fn refunded(&mut self, e: &Refunded) {
        self.paid -= i64::from(e.price);
    }

    fn issued(&mut self, _: &TicketIssued) {
        self.ticket = true;
    }

    fn released(&mut self, e: &Released) {
        self.released = Some(e.why);
    }
}

/// What came of all orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) flows: u64,
    pub(crate) sold: u64,
    pub(crate) released: BTreeMap<Why, u64>,
    pub(crate) open: u64,
    pub(crate) charged_without_ticket: u64,
    /// The first order that is open.
    pub(crate) first_open: Option<OrderId>,
}

#[derive(Debug)]
pub(crate) struct AllFlows;

#[derive(Debug)]
pub(crate) struct FlowQueries;

#[queries]
impl FlowQueries {
    async fn totals(&self, _: AllFlows, views: &Views) -> Result<Totals, BoxError> {
        let mut totals = Totals::default();
        views.for_each::<Flow>(|order, flow| totals.add(order, &flow)).await?;
        Ok(totals)
    }
}

impl Totals {
    fn add(&mut self, order: OrderId, flow: &Flow) {
        self.flows += 1;
        match flow {
            Flow { ticket: true, .. } => self.sold += 1,
            Flow { released: Some(why), .. } => *self.released.entry(*why).or_default() += 1,
            _ => {
                self.open += 1;
                self.first_open = self.first_open.map_or(Some(order), |first| Some(first.min(order)));
            }
        }
        self.charged_without_ticket += u64::from(flow.paid != 0 && !flow.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_and_what_was_paid_for_nothing_is_counted() {
        let ticket = Flow { paid: 50, ticket: true, released: None };
        let released = Flow { paid: 0, ticket: false, released: Some(Why::TooLate) };
        let kept = Flow { paid: 50, ..released };
        let (paid, placed) = (Flow { paid: 50, ..Flow::default() }, Flow::default());
        let mut totals = Totals::default();
        for (n, flow) in (1..).zip([ticket, released, kept, paid, placed]) {
            totals.add(OrderId(n), &flow);
        }
        let expected = Totals {
            flows: 5,
            sold: 1,
            released: BTreeMap::from([(Why::TooLate, 2)]),
            open: 2,
            charged_without_ticket: 2,
            first_open: Some(OrderId(4)),
        };
        assert_eq!(totals, expected);
    }
}

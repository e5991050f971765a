//! An order: what was wanted, and what came of it.

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

use crate::money::Cents;
use crate::order::wanted::Item;

#[derive(
    AggregateId, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
pub(crate) struct OrderId(pub(crate) u32);

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) customer: String,
    pub(crate) items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirmed {
    pub(crate) order: OrderId,
    pub(crate) items: Vec<Item>,
    pub(crate) paid: Cents,
    /// The number of the payment.
    pub(crate) receipt: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancelled {}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "order")]
pub(crate) enum OrderEvent {
    Placed(Placed),
    Confirmed(Confirmed),
    Cancelled(Cancelled),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum OrderError {
    #[error("the order is settled")]
    Settled,
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = OrderId, event = OrderEvent, error = OrderError)]
pub(crate) struct Order {
    items: Vec<Item>,
    settled: bool,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::Placed(e) => self.items.clone_from(&e.items),
            OrderEvent::Confirmed(_) | OrderEvent::Cancelled(_) => self.settled = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place(pub(crate) Placed);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirm {
    pub(crate) order: OrderId,
    pub(crate) paid: Cents,
    pub(crate) receipt: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {}

#[commands]
impl Order {
    fn place(cmd: Place) -> Result<Placed, OrderError> {
        Ok(cmd.0)
    }

    fn confirm(&self, cmd: Confirm) -> Result<Confirmed, OrderError> {
        let Confirm { order, paid, receipt } = cmd;
        self.is_open()?;
        Ok(Confirmed { order, items: self.items.clone(), paid, receipt })
    }

    fn cancel(&self, _: Cancel) -> Result<Cancelled, OrderError> {
        self.is_open()?;
        Ok(Cancelled {})
    }
}

impl Order {
    fn is_open(&self) -> Result<(), OrderError> {
        if self.settled { Err(OrderError::Settled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;

    use super::*;

    #[test]
    fn an_order_is_confirmed_or_cancelled_once() {
        let items = vec![Item { disc: "disc 1-a".to_owned(), copies: 2 }];
        let placed = Placed { customer: "ada".to_owned(), items: items.clone() };
        let (order, paid, receipt) = (OrderId(7), Cents(1_800), 3);
        let confirmed = Confirmed { order, items, paid, receipt };
        given::<Order>(placed.clone()).when(Confirm { order, paid, receipt }).then(confirmed.clone());
        given::<Order>([OrderEvent::Placed(placed.clone()), OrderEvent::Confirmed(confirmed)])
            .when(Cancel {})
            .then_error(OrderError::Settled);
        given::<Order>([OrderEvent::Placed(placed), OrderEvent::Cancelled(Cancelled {})])
            .when(Confirm { order, paid, receipt })
            .then_error(OrderError::Settled);
    }
}

//! The service of the stock: it reserves a piece for each order, and takes it back if the card was refused.

use std::collections::BTreeSet;

use es_core::prelude::*;
use sagas::message::Envelope;
use sagas::message::inbox::{Busy, Consumer};
use sagas::publishes;
use sagas::relay::{Message, Relays as _};
use serde::{Deserialize, Serialize};

use crate::messages::{About, OrderId, ProductId, Purchase, Wanted};
use crate::service::{Name, Service};

/// What there is of each product at first.
const DELIVERED: [(&str, u32); 3] = [("lamp", 6), ("pen", 50), ("book", 50)];

pub(crate) async fn run(service: Service) -> anyhow::Result<()> {
    let builder = service.app().aggregate::<Shelf>();
    let builder = builder.relay(service.relay(ToPayment), service.publisher(Name::Payment)?);
    let builder = builder.relay(service.relay(ToOrder), service.publisher(Name::Order)?);
    let app = builder.start().await?;
    for (product, pieces) in DELIVERED {
        let deliver = app.send(&ProductId(product.to_owned()), Deliver { pieces });
        deliver.idempotency_key(format_args!("first delivery/{product}")).await?;
    }
    let routes = service.again(ToPayment).merge(service.again(ToOrder));
    service.serve(app.clone(), Stock(app), routes).await
}

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivered {
    pieces: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) order: OrderId,
    pub(crate) purchase: Purchase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SoldOut {
    pub(crate) order: OrderId,
    pub(crate) product: ProductId,
}

/// Compensates a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Returned {
    pub(crate) order: OrderId,
    pub(crate) product: ProductId,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "stock")]
pub(crate) enum StockEvent {
    Delivered(Delivered),
    Reserved(Reserved),
    SoldOut(SoldOut),
    Returned(Returned),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("nothing is reserved for order {0}")]
pub(crate) struct NotReserved(OrderId);

/// One product.
#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(name = "shelf", id = ProductId, event = StockEvent, error = NotReserved)]
pub(crate) struct Shelf {
    free: u32,
    reserved: BTreeSet<OrderId>,
}

impl Apply for Shelf {
    fn apply(&mut self, event: &StockEvent) {
        match event {
            StockEvent::Delivered(e) => self.free += e.pieces,
            StockEvent::Reserved(e) => {
                self.free -= 1;
                self.reserved.insert(e.order);
            }
            StockEvent::SoldOut(_) => {}
            StockEvent::Returned(e) => {
                self.free += 1;
                self.reserved.remove(&e.order);
            }
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deliver {
    pieces: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reserve(Wanted);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Return(About);

#[commands]
impl Shelf {
    #[create_if_missing]
    fn deliver(&self, cmd: Deliver) -> Result<Delivered, NotReserved> {
        Ok(Delivered { pieces: cmd.pieces })
    }

    /// That there is none left is no refusal but an event: others react to it.
    #[create_if_missing]
    fn reserve(&self, cmd: Reserve) -> Result<StockEvent, NotReserved> {
        let Wanted { order, purchase } = cmd.0;
        Ok(match self.free {
            0 => SoldOut { order, product: purchase.product }.into(),
            _ => Reserved { order, purchase }.into(),
        })
    }

    fn give_back(&self, cmd: Return) -> Result<Returned, NotReserved> {
        let About { order, product } = cmd.0;
        if self.reserved.contains(&order) { Ok(Returned { order, product }) } else { Err(NotReserved(order)) }
    }
}

/// What payments are told. Messages are in order by their order: those of one shelf do not wait for each other.
#[derive(Clone, Copy, Debug)]
struct ToPayment;

#[publishes(name = "stock-to-payment")]
impl ToPayment {
    #[on(by = order)]
    fn reserved(&self, e: &Reserved) -> Message {
        Message::of(&Wanted { order: e.order, purchase: e.purchase.clone() })
    }
}

/// What orders are told.
#[derive(Clone, Copy, Debug)]
struct ToOrder;

#[publishes(name = "stock-to-order")]
impl ToOrder {
    #[on(by = order)]
    fn sold_out(&self, e: &SoldOut) -> Message {
        Message::of(&About { order: e.order, product: e.product.clone() })
    }

    #[on(by = order)]
    fn returned(&self, e: &Returned) -> Message {
        Message::of(&About { order: e.order, product: e.product.clone() })
    }
}

/// What the stock makes of the events of others.
struct Stock(App);

impl<Tx: Transaction> Consumer<Tx> for Stock {
    async fn take(&self, message: &Envelope, tx: &mut Tx) -> Result<(), BoxError> {
        match &*message.r#type {
            "order.placed" => {
                let wanted = Wanted::deserialize(&message.data)?;
                let reserve = self.0.send(&wanted.purchase.product.clone(), Reserve(wanted));
                reserve.metadata(message.metadata()).within(tx).await.map_err(Busy::of_command)?;
            }
            "payment.refused" => {
                let about = About::deserialize(&message.data)?;
                let give_back = self.0.send(&about.product.clone(), Return(about));
                give_back.metadata(message.metadata()).within(tx).await.map_err(Busy::of_command)?;
            }
            other => return Err(format!("the stock knows no {other}").into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;

    use super::*;

    fn purchase() -> Purchase {
        Purchase { product: ProductId("lamp".to_owned()), price: 40, card_limit: 100 }
    }

    fn about(order: u32) -> About {
        About { order: OrderId(order), product: purchase().product }
    }

    #[test]
    fn the_last_piece_is_reserved_once_and_again_after_it_came_back() {
        let reserve = |order| Reserve(Wanted { order: OrderId(order), purchase: purchase() });
        let reserved = |order| Reserved { order: OrderId(order), purchase: purchase() };
        let (order, product) = (OrderId(2), purchase().product);
        let mut log = vec![StockEvent::from(Delivered { pieces: 1 })];
        given::<Shelf>(log.clone()).when(reserve(1)).then(reserved(1));
        log.push(reserved(1).into());
        given::<Shelf>(log.clone()).when(reserve(2)).then(SoldOut { order, product });
        given::<Shelf>(log.clone()).when(Return(about(2))).then_error(NotReserved(order));
        log.push(Returned { order: OrderId(1), product: purchase().product }.into());
        given::<Shelf>(log.clone()).when(reserve(2)).then(reserved(2));
        given::<Shelf>(log).when(Return(about(1))).then_error(NotReserved(OrderId(1)));
    }
}

//! The service of payments: it charges the card once the stock has reserved.

use es_core::prelude::*;
use sagas::message::Envelope;
use sagas::message::inbox::{Busy, Consumer};
use sagas::publishes;
use sagas::relay::{Message, Relays as _};
use serde::{Deserialize, Serialize};

use crate::messages::{About, OrderId, ProductId, Wanted};
use crate::service::{Name, Service};

pub(crate) async fn run(service: Service) -> anyhow::Result<()> {
    let builder = service.app().aggregate::<Payment>();
    let builder = builder.relay(service.relay(ToOrder), service.publisher(Name::Order)?);
    let builder = builder.relay(service.relay(ToStock), service.publisher(Name::Stock)?);
    let app = builder.start().await?;
    let routes = service.again(ToOrder).merge(service.again(ToStock));
    service.serve(app.clone(), Payments(app), routes).await
}

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Charged {
    pub(crate) order: OrderId,
    product: ProductId,
    price: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    order: OrderId,
    product: ProductId,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "payment")]
pub(crate) enum PaymentEvent {
    Charged(Charged),
    Refused(Refused),
}

/// No command is refused: that the card was is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("never")]
pub(crate) enum Never {}

/// The payment of an order: charged or refused, once.
#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = OrderId, event = PaymentEvent, error = Never)]
pub(crate) struct Payment {}

impl Apply for Payment {
    fn apply(&mut self, _: &PaymentEvent) {}
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Charge(Wanted);

#[commands]
impl Payment {
    fn charge(cmd: Charge) -> Result<PaymentEvent, Never> {
        let Charge(Wanted { order, purchase }) = cmd;
        let (product, price) = (purchase.product, purchase.price);
        Ok(if price > purchase.card_limit {
            Refused { order, product }.into()
        } else {
            Charged { order, product, price }.into()
        })
    }
}

/// What orders are told.
#[derive(Clone, Copy, Debug)]
struct ToOrder;

#[publishes(name = "payment-to-order")]
impl ToOrder {
    fn charged(&self, e: &Charged) -> Message {
        Message::of(&About { order: e.order, product: e.product.clone() })
    }
}

/// What the stock is told.
#[derive(Clone, Copy, Debug)]
struct ToStock;

#[publishes(name = "payment-to-stock")]
impl ToStock {
    fn refused(&self, e: &Refused) -> Message {
        Message::of(&About { order: e.order, product: e.product.clone() })
    }
}

/// What payments make of the events of others.
struct Payments(App);

impl<Tx: Transaction> Consumer<Tx> for Payments {
    async fn take(&self, message: &Envelope, tx: &mut Tx) -> Result<(), BoxError> {
        if message.r#type != "stock.reserved" {
            return Err(format!("payments know no {}", message.r#type).into());
        }
        let wanted = Wanted::deserialize(&message.data)?;
        let charge = self.0.send(&wanted.order.clone(), Charge(wanted)).metadata(message.metadata());
        charge.within(tx).await.map(drop).map_err(Busy::of_command)
    }
}

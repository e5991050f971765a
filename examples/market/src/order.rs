//! The service of orders: it says what is wanted, and hears what came of it.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use es_core::prelude::*;
use sagas::message::Envelope;
use sagas::message::inbox::{Busy, Consumer};
use sagas::publishes;
use sagas::relay::{Message, Relays as _};
use serde::{Deserialize, Serialize};

use crate::messages::{About, OrderId, Purchase, Wanted};
use crate::service::{Name, Service};

pub(crate) async fn run(service: Service) -> anyhow::Result<()> {
    let builder = service.app().aggregate::<Order>();
    let builder = builder.relay(service.relay(ToStock), service.publisher(Name::Stock)?);
    let app = builder.start().await?;
    let buyers = Router::new().route("/orders/{order}", put(place)).with_state(app.clone());
    let routes = buyers.merge(service.again(ToStock));
    service.serve(app.clone(), Orders(app), routes).await
}

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) order: OrderId,
    pub(crate) purchase: Purchase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirmed {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejected {
    pub(crate) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    SoldOut,
    CardRefused,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "order")]
pub(crate) enum OrderEvent {
    Placed(Placed),
    Confirmed(Confirmed),
    Rejected(Rejected),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("the order is settled")]
pub(crate) struct Settled;

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = OrderId, event = OrderEvent, error = Settled)]
pub(crate) struct Order {
    settled: bool,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        self.settled = !matches!(event, OrderEvent::Placed(_));
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place(Placed);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Confirm {}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reject {
    why: Why,
}

#[commands]
impl Order {
    fn place(cmd: Place) -> Result<Placed, Settled> {
        Ok(cmd.0)
    }

    fn confirm(&self, _: Confirm) -> Result<Confirmed, Settled> {
        if self.settled { Err(Settled) } else { Ok(Confirmed {}) }
    }

    fn reject(&self, cmd: Reject) -> Result<Rejected, Settled> {
        if self.settled { Err(Settled) } else { Ok(Rejected { why: cmd.why }) }
    }
}

/// `PUT /orders/{order}`: sent again, as by a buyer who got no answer, it acts once.
async fn place(
    State(app): State<App>,
    Path(order): Path<u32>,
    body: Bytes,
) -> Result<StatusCode, (StatusCode, String)> {
    let order = OrderId(order);
    let purchase: Purchase =
        serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let place = Place(Placed { order, purchase });
    let place = app.send(&order, place).idempotency_key(format!("order/{order}"));
    match place.await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(match error.kind() {
            ErrorKind::Transient | ErrorKind::Unknown => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            _ => (StatusCode::CONFLICT, error.to_string()),
        }),
    }
}

/// What the stock is told.
#[derive(Clone, Copy, Debug)]
struct ToStock;

#[publishes(name = "order-to-stock")]
impl ToStock {
    fn placed(&self, e: &Placed) -> Message {
        Message::of(&Wanted { order: e.order, purchase: e.purchase.clone() })
    }
}

/// What an order makes of the events of others.
struct Orders(App);

impl<Tx: Transaction> Consumer<Tx> for Orders {
    async fn take(&self, message: &Envelope, tx: &mut Tx) -> Result<(), BoxError> {
        let About { order, .. } = About::deserialize(&message.data)?;
        let why = match &*message.r#type {
            "payment.charged" => {
                let confirm = self.0.send(&order, Confirm {}).metadata(message.metadata());
                return confirm.within(tx).await.map(drop).map_err(Busy::of_command);
            }
            "stock.sold_out" => Why::SoldOut,
            "stock.returned" => Why::CardRefused,
            other => return Err(format!("orders know no {other}").into()),
        };
        let reject = self.0.send(&order, Reject { why }).metadata(message.metadata());
        reject.within(tx).await.map(drop).map_err(Busy::of_command)
    }
}

//! What the services tell each other: all that they share.

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(
    AggregateId, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
pub(crate) struct OrderId(pub(crate) u32);

#[derive(AggregateId, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ProductId(pub(crate) String);

/// What a buyer wants, and how it is paid. Amounts are in dollars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purchase {
    pub(crate) product: ProductId,
    pub(crate) price: u32,
    /// No charge of the card is larger.
    pub(crate) card_limit: u32,
}

/// Of `order.placed` and `stock.reserved`: the services that follow need no other source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) order: OrderId,
    pub(crate) purchase: Purchase,
}

/// Of `stock.sold_out`, `stock.returned`, `payment.charged` and `payment.refused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) order: OrderId,
    pub(crate) product: ProductId,
}

//! An order: what a buyer wants, and what came of it.

use es_core::prelude::*;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::payment::Card;
use crate::seat::SeatId;

#[derive(
    AggregateId, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
pub(crate) struct OrderId(pub(crate) u32);

/// Stored: change by upcasting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) order: OrderId,
    pub(crate) seat: SeatId,
    /// In dollars.
    pub(crate) price: u32,
    pub(crate) card: Card,
    /// How long the seat is held for the buyer, from when it is locked: 30 minutes, at a real box office.
    pub(crate) hold: SignedDuration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketIssued {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) why: Why,
}

/// Why a buyer got no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    SeatTaken,
    CardRefused,
    TooLate,
    /// Paid, but the seat was not held any more: the money was given back.
    SeatLost,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "order")]
pub(crate) enum OrderEvent {
    Placed(Placed),
    TicketIssued(TicketIssued),
    Released(Released),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum OrderError {
    #[error("the order is settled")]
    Settled,
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = OrderId, event = OrderEvent, error = OrderError)]
pub(crate) struct Order {
    settled: bool,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::Placed(_) => {}
            OrderEvent::TicketIssued(_) | OrderEvent::Released(_) => self.settled = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place(pub(crate) Placed);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IssueTicket {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) why: Why,
}

#[commands]
impl Order {
    fn place(cmd: Place) -> Result<Placed, OrderError> {
        Ok(cmd.0)
    }

    fn issue(&self, _: IssueTicket) -> Result<TicketIssued, OrderError> {
        if self.settled { Err(OrderError::Settled) } else { Ok(TicketIssued {}) }
    }

    fn release(&self, cmd: Release) -> Result<Released, OrderError> {
        if self.settled { Err(OrderError::Settled) } else { Ok(Released { why: cmd.why }) }
    }
}

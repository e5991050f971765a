//! The sale of a seat: locked, charged, confirmed; or given back.

use sagas::{Next, Refused, Timer, process};
use serde::{Deserialize, Serialize};

use crate::order::{IssueTicket, OrderId, Placed, Release, Why};
use crate::payment::{Cancel, Cancelled, Charge, Charged, Refunded};
use crate::seat::{Confirm, Confirmed, Lock, Locked, Unlock};

/// Stored: an instance for each order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sale {
    pub(crate) placed: Placed,
    /// Set once the payment is to be cancelled.
    pub(crate) gives_up: Option<Why>,
}

/// The buyer has not paid in time.
#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HoldOver {}

#[process(name = "sale", key = OrderId, sends(Lock, Confirm, Unlock, Charge, Cancel, IssueTicket, Release))]
impl Sale {
    #[starts]
    fn placed(&mut self, e: &Placed) -> Next<Self> {
        self.placed = e.clone();
        Next::send(&e.seat, Lock { order: e.order })
    }

    #[refused]
    fn seat_taken(&mut self, _: Refused<Lock>) -> Next<Self> {
        Next::send(&self.placed.order, Release { why: Why::SeatTaken }).and_end()
    }

    #[on(by = order)]
    fn locked(&mut self, _: &Locked) -> Next<Self> {
        let Placed { order, price, card, hold, .. } = self.placed.clone();
        Next::send(&order, Charge { order, card, price }).timer(hold.unsigned_abs(), HoldOver {})
    }

    #[refused]
    fn card_refused(&mut self, _: Refused<Charge>) -> Next<Self> {
        self.give_back(Why::CardRefused)
    }

    #[on]
    fn charged(&mut self, _: &Charged) -> Next<Self> {
        if self.gives_up.is_some() {
            // The cancel is behind it, and gives the money back.
            return Next::wait();
        }
        Next::send(&self.placed.seat, Confirm { order: self.placed.order }).clear::<HoldOver>()
    }

    #[on(by = order)]
    fn confirmed(&mut self, _: &Confirmed) -> Next<Self> {
        Next::send(&self.placed.order, IssueTicket {}).and_end()
    }

    #[timer]
    fn hold_over(&mut self, _: HoldOver) -> Next<Self> {
        self.cancel(Why::TooLate)
    }

    #[refused]
    fn seat_lost(&mut self, _: Refused<Confirm>) -> Next<Self> {
        self.cancel(Why::SeatLost)
    }

    /// The seat is free again only when it is certain that nothing will be charged.
    #[on]
    fn cancelled(&mut self, _: &Cancelled) -> Next<Self> {
        self.give_back(self.gives_up.unwrap_or(Why::TooLate))
    }

    #[on]
    fn refunded(&mut self, _: &Refunded) -> Next<Self> {
        self.give_back(self.gives_up.unwrap_or(Why::TooLate))
    }

    /// The charge before it was refused as the hold ended: there is no payment.
    #[refused]
    fn nothing_to_cancel(&mut self, _: Refused<Cancel>) -> Next<Self> {
        Next::wait()
    }
}

impl Sale {
    fn cancel(&mut self, why: Why) -> Next<Self> {
        self.gives_up = Some(why);
        Next::send(&self.placed.order, Cancel {})
    }

    fn give_back(&self, why: Why) -> Next<Self> {
        let order = self.placed.order;
        let release = Next::wait().and_send(&order, Release { why }).and_end();
        match why {
            Why::SeatLost => release,
            _ => Next::send(&self.placed.seat, Unlock { order }).then(release),
        }
    }
}

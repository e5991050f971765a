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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use es_core::command::ErrorOf;
    use sagas::testing::{Given, process};

    use super::*;
    use crate::order::Order;
    use crate::payment::{Card, Holder, Payment, PaymentError};
    use crate::seat::{SeatError, SeatId};

    const ORDER: OrderId = OrderId(7);
    const HOLD: Duration = Duration::from_mins(30);

    fn seat() -> SeatId {
        SeatId("3-12".to_owned())
    }

    fn card() -> Card {
        Card { limit: 500, holder: Holder::IsNotAsked }
    }

    fn placed() -> Placed {
        let hold = HOLD.try_into().expect("half an hour");
        Placed { order: ORDER, seat: seat(), price: 50, card: card(), hold }
    }

    fn charge() -> Charge {
        Charge { order: ORDER, card: card(), price: 50 }
    }

    fn charged() -> Charged {
        Charged { price: 50 }
    }

    /// The seat is locked, and the charge is on its way.
    fn locked() -> Given<Sale> {
        let placed = process::<Sale>().given_to::<Order>(&ORDER, placed());
        placed.when(Locked { order: ORDER }).then_sends(&ORDER, charge()).then_timer(HOLD, HoldOver {}).and()
    }

    /// The seat goes back, and the order with it.
    fn gives_back(then: sagas::testing::Then<Sale>, why: Why) {
        then.then_sends(&seat(), Unlock { order: ORDER })
            .then_sends(&ORDER, Release { why })
            .then_nothing()
            .then_no_timer::<HoldOver>()
            .then_ended();
    }

    #[test]
    fn a_seat_is_locked_charged_and_confirmed() {
        process::<Sale>()
            .when_to::<Order>(&ORDER, placed())
            .then_sends(&seat(), Lock { order: ORDER })
            .then_nothing()
            .then_no_timer::<HoldOver>();
        locked()
            .when_to::<Payment>(&ORDER, charged())
            .then_sends(&seat(), Confirm { order: ORDER })
            .then_no_timer::<HoldOver>()
            .and()
            .when(Confirmed { order: ORDER })
            .then_sends(&ORDER, IssueTicket {})
            .then_nothing()
            .then_ended();
    }

    #[test]
    fn whoever_comes_second_gets_no_seat_and_pays_nothing() {
        let placed = process::<Sale>().when_to::<Order>(&ORDER, placed()).and();
        placed
            .when_refused::<Lock>(SeatError::Taken { by: OrderId(6) })
            .then_sends(&ORDER, Release { why: Why::SeatTaken })
            .then_nothing()
            .then_ended();
    }

    #[test]
    fn a_card_that_is_refused_gives_the_seat_back() {
        gives_back(locked().when_refused::<Charge>(PaymentError::OverLimit { limit: 40 }), Why::CardRefused);
    }

    #[test]
    fn a_seat_that_is_not_paid_in_time_is_given_back_once_nothing_can_be_charged() {
        let late = || locked().when_elapsed(HOLD).then_sends(&ORDER, Cancel {}).then_nothing().then_goes_on();
        gives_back(late().and().when_to::<Payment>(&ORDER, Cancelled {}), Why::TooLate);
        // The charge was faster than the cancel.
        let charged = late().and().when_to::<Payment>(&ORDER, charged()).then_nothing().then_goes_on();
        gives_back(charged.and().when_to::<Payment>(&ORDER, Refunded { price: 50 }), Why::TooLate);
    }

    #[test]
    fn a_charge_that_is_refused_as_the_hold_ends_leaves_nothing_to_cancel() {
        let both = locked().when_elapsed(HOLD).and();
        let refused = both
            .when_refused::<Charge>(PaymentError::OverLimit { limit: 40 })
            .then_sends(&seat(), Unlock { order: ORDER });
        let missing = refused.and().when_refused_otherwise::<Cancel>("payment-7 does not exist");
        missing.then_nothing().then_ended();
    }

    #[test]
    fn a_seat_that_is_lost_after_the_payment_gives_the_money_back() {
        let paid = locked().when_to::<Payment>(&ORDER, charged()).and();
        let lost: ErrorOf<Confirm> = SeatError::NotLocked;
        let cancels = paid.when_refused::<Confirm>(lost).then_sends(&ORDER, Cancel {}).then_nothing();
        cancels
            .and()
            .when_to::<Payment>(&ORDER, Refunded { price: 50 })
            .then_sends(&ORDER, Release { why: Why::SeatLost })
            .then_nothing()
            .then_ended();
    }

    #[test]
    fn an_order_that_comes_twice_is_one_sale() {
        locked().when_to::<Order>(&ORDER, placed()).then_nothing().then_timer(HOLD, HoldOver {});
    }
}

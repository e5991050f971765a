//! A seat: free, locked for an order, or sold.

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

use crate::order::OrderId;

/// Row and number: `3-12`.
#[derive(AggregateId, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SeatId(pub(crate) String);

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locked {
    pub(crate) order: OrderId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirmed {
    pub(crate) order: OrderId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unlocked {
    pub(crate) order: OrderId,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "seat")]
pub(crate) enum SeatEvent {
    Locked(Locked),
    Confirmed(Confirmed),
    Unlocked(Unlocked),
}

impl SeatEvent {
    /// For whom.
    pub(crate) const fn order(&self) -> OrderId {
        match self {
            Self::Locked(Locked { order })
            | Self::Confirmed(Confirmed { order })
            | Self::Unlocked(Unlocked { order }) => *order,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum SeatError {
    #[error("order {by} has the seat")]
    Taken { by: OrderId },
    #[error("the seat is not locked for this order")]
    NotLocked,
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = SeatId, event = SeatEvent, error = SeatError)]
pub(crate) struct Seat {
    has: Option<OrderId>,
    sold: bool,
}

impl Apply for Seat {
    fn apply(&mut self, event: &SeatEvent) {
        match event {
            SeatEvent::Locked(e) => self.has = Some(e.order),
            SeatEvent::Confirmed(_) => self.sold = true,
            SeatEvent::Unlocked(_) => self.has = None,
        }
    }
}

impl Seat {
    fn is_locked_for(&self, order: OrderId) -> Result<(), SeatError> {
        if self.has == Some(order) && !self.sold { Ok(()) } else { Err(SeatError::NotLocked) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) order: OrderId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirm {
    pub(crate) order: OrderId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unlock {
    pub(crate) order: OrderId,
}

#[commands]
impl Seat {
    /// A seat that nobody has wanted yet has no event.
    #[create_if_missing]
    fn lock(&self, cmd: Lock) -> Result<Locked, SeatError> {
        match self.has {
            Some(by) => Err(SeatError::Taken { by }),
            None => Ok(Locked { order: cmd.order }),
        }
    }

    fn confirm(&self, cmd: Confirm) -> Result<Confirmed, SeatError> {
        self.is_locked_for(cmd.order)?;
        Ok(Confirmed { order: cmd.order })
    }

    fn unlock(&self, cmd: Unlock) -> Result<Unlocked, SeatError> {
        self.is_locked_for(cmd.order)?;
        Ok(Unlocked { order: cmd.order })
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;

    use super::*;

    const ONE: OrderId = OrderId(1);
    const OTHER: OrderId = OrderId(2);

    #[test]
    fn a_seat_is_locked_for_one_order_at_a_time() {
        given::<Seat>(()).when(Lock { order: ONE }).then(Locked { order: ONE });
        given::<Seat>(Locked { order: ONE })
            .when(Lock { order: OTHER })
            .then_error(SeatError::Taken { by: ONE });
        given::<Seat>([
            SeatEvent::Locked(Locked { order: ONE }),
            SeatEvent::Unlocked(Unlocked { order: ONE }),
        ])
        .when(Lock { order: OTHER })
        .then(Locked { order: OTHER });
    }

    #[test]
    fn only_the_order_that_has_the_seat_confirms_or_unlocks_it() {
        given::<Seat>(Locked { order: ONE }).when(Confirm { order: OTHER }).then_error(SeatError::NotLocked);
        let sold = [SeatEvent::Locked(Locked { order: ONE }), SeatEvent::Confirmed(Confirmed { order: ONE })];
        given::<Seat>(sold).when(Unlock { order: ONE }).then_error(SeatError::NotLocked);
    }
}

//! The courier's vans: each takes so many discs.

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

use crate::order::book::OrderId;

#[derive(
    AggregateId, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
)]
pub(crate) struct VanId(pub(crate) u32);

impl VanId {
    /// The van that brings an order: one for eight of them.
    pub(crate) const fn of(order: OrderId) -> Self {
        Self(order.0.div_ceil(8))
    }
}

/// Discs that fit into a van: fewer than eight orders have in most cases.
pub(crate) const ROOM: u32 = 16;

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Booked {
    pub(crate) order: OrderId,
    pub(crate) discs: u32,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "van")]
pub(crate) enum VanEvent {
    Booked(Booked),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum VanError {
    #[error("the van has room for {left} more")]
    Full { left: u32 },
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = VanId, event = VanEvent, error = VanError)]
pub(crate) struct Van {
    discs: u32,
}

impl Apply for Van {
    fn apply(&mut self, event: &VanEvent) {
        match event {
            VanEvent::Booked(e) => self.discs += e.discs,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) order: OrderId,
    pub(crate) discs: u32,
}

#[commands]
impl Van {
    #[create_if_missing]
    fn book(&self, cmd: Book) -> Result<Booked, VanError> {
        let left = ROOM.saturating_sub(self.discs);
        match cmd.discs <= left {
            true => Ok(Booked { order: cmd.order, discs: cmd.discs }),
            false => Err(VanError::Full { left }),
        }
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;

    use super::*;

    #[test]
    fn a_van_takes_what_fits() {
        let order = OrderId(2);
        let loaded = || Booked { order: OrderId(1), discs: ROOM - 2 };
        given::<Van>(loaded()).when(Book { order, discs: 2 }).then(Booked { order, discs: 2 });
        given::<Van>(loaded()).when(Book { order, discs: 3 }).then_error(VanError::Full { left: 2 });
    }
}

//! The payment of an order. Its id is that of the order.

use es_core::prelude::*;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::order::OrderId;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// In dollars: no charge is larger.
    pub(crate) limit: u32,
    pub(crate) holder: Holder,
}

/// Whether the bank asks the card's holder before it charges, and what the holder does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Holder {
    #[default]
    IsNotAsked,
    /// Twice, as somebody does who is impatient.
    ApprovesTwice {
        after: SignedDuration,
    },
    NeverAnswers,
}

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HolderAsked {
    pub(crate) order: OrderId,
    pub(crate) price: u32,
    pub(crate) holder: Holder,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Charged {
    pub(crate) price: u32,
}

/// It is never charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancelled {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refunded {
    pub(crate) price: u32,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "payment")]
pub(crate) enum PaymentEvent {
    HolderAsked(HolderAsked),
    Charged(Charged),
    Cancelled(Cancelled),
    Refunded(Refunded),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum PaymentError {
    #[error("the card's limit is {limit} dollars")]
    OverLimit { limit: u32 },
    #[error("the payment is cancelled")]
    Cancelled,
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = OrderId, event = PaymentEvent, error = PaymentError)]
pub(crate) struct Payment {
    price: u32,
    charged: bool,
    /// Cancelled or refunded.
    over: bool,
}

impl Apply for Payment {
    fn apply(&mut self, event: &PaymentEvent) {
        match event {
            PaymentEvent::HolderAsked(e) => self.price = e.price,
            PaymentEvent::Charged(e) => (self.price, self.charged) = (e.price, true),
            PaymentEvent::Cancelled(_) | PaymentEvent::Refunded(_) => self.over = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) order: OrderId,
    pub(crate) card: Card,
    pub(crate) price: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approve {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cancel {}

#[commands]
impl Payment {
    fn charge(cmd: Charge) -> Result<PaymentEvent, PaymentError> {
        let Charge { order, card: Card { limit, holder }, price } = cmd;
        if price > limit {
            return Err(PaymentError::OverLimit { limit });
        }
        Ok(match holder {
            Holder::IsNotAsked => PaymentEvent::Charged(Charged { price }),
            holder => PaymentEvent::HolderAsked(HolderAsked { order, price, holder }),
        })
    }

    /// An approval that comes twice charges once.
    fn approve(&self, _: Approve) -> Result<Option<Charged>, PaymentError> {
        match self {
            Self { over: true, .. } => Err(PaymentError::Cancelled),
            Self { charged: true, .. } => Ok(None),
            Self { price, .. } => Ok(Some(Charged { price: *price })),
        }
    }

    /// Afterwards nothing is charged, whatever came before it.
    fn cancel(&self, _: Cancel) -> Result<Option<PaymentEvent>, PaymentError> {
        Ok(match self {
            Self { over: true, .. } => None,
            Self { charged: true, price, .. } => Some(PaymentEvent::Refunded(Refunded { price: *price })),
            _ => Some(PaymentEvent::Cancelled(Cancelled {})),
        })
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;

    use super::*;

    fn charge(limit: u32, holder: Holder) -> Charge {
        Charge { order: OrderId(1), card: Card { limit, holder }, price: 50 }
    }

    fn asked() -> HolderAsked {
        HolderAsked { order: OrderId(1), price: 50, holder: Holder::NeverAnswers }
    }

    #[test]
    fn a_charge_has_a_limit() {
        let refused = PaymentError::OverLimit { limit: 49 };
        given::<Payment>(()).when(charge(49, Holder::IsNotAsked)).then_error(refused);
        given::<Payment>(()).when(charge(50, Holder::IsNotAsked)).then(Charged { price: 50 });
        given::<Payment>(()).when(charge(50, Holder::NeverAnswers)).then(asked());
    }

    #[test]
    fn an_approval_charges_once_and_not_after_a_cancel() {
        let charged = || PaymentEvent::Charged(Charged { price: 50 });
        given::<Payment>(asked()).when(Approve {}).then(charged());
        given::<Payment>([asked().into(), charged()]).when(Approve {}).then_nothing();
        let cancelled = [asked().into(), PaymentEvent::Cancelled(Cancelled {})];
        given::<Payment>(cancelled).when(Approve {}).then_error(PaymentError::Cancelled);
    }

    #[test]
    fn what_was_charged_comes_back_once() {
        let charged = Charged { price: 50 };
        let refunded = Refunded { price: 50 };
        given::<Payment>(charged.clone()).when(Cancel {}).then(refunded.clone());
        let over = [PaymentEvent::from(charged), refunded.into()];
        given::<Payment>(over).when(Cancel {}).then_nothing();
    }
}

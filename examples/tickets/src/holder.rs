//! A card's holder, who is asked by the bank and takes some time. Played by a process: a program that is killed forgets
//! no answer.

use sagas::{Next, Refused, Timer, process};
use serde::{Deserialize, Serialize};

use crate::order::OrderId;
use crate::payment::{Approve, Holder, HolderAsked};

/// Stored: an instance for each payment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CardHolder {}

/// The holder looks at the phone.
#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Looks {
    order: OrderId,
}

#[process(name = "holder", key = OrderId, sends(Approve))]
impl CardHolder {
    #[starts(by = order)]
    fn asked(&mut self, e: &HolderAsked) -> Next<Self> {
        match e.holder {
            Holder::ApprovesTwice { after } => {
                Next::wait().timer(after.unsigned_abs(), Looks { order: e.order })
            }
            Holder::IsNotAsked | Holder::NeverAnswers => Next::end(),
        }
    }

    /// The same message comes twice.
    #[timer]
    fn looks(&mut self, Looks { order }: Looks) -> Next<Self> {
        Next::send(&order, Approve {}).and_send(&order, Approve {}).and_end()
    }

    #[refused]
    fn too_late(&mut self, _: Refused<Approve>) -> Next<Self> {
        Next::wait()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use sagas::testing::process;

    use super::*;
    use crate::payment::PaymentError;

    #[test]
    fn a_holder_who_looks_approves_twice_and_another_never_answers() {
        let (order, after) = (OrderId(7), SignedDuration::from_secs(2));
        let asked = |holder| HolderAsked { order, price: 50, holder };
        process::<CardHolder>()
            .given(asked(Holder::ApprovesTwice { after }))
            .when_elapsed(after.unsigned_abs())
            .then_sends(&order, Approve {})
            .then_sends(&order, Approve {})
            .then_ended()
            .and()
            .when_refused::<Approve>(PaymentError::Cancelled)
            .then_nothing();
        process::<CardHolder>().when(asked(Holder::NeverAnswers)).then_nothing().then_ended();
    }
}

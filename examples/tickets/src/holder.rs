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

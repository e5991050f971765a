//! The write side: a customer buys.

use es_core::prelude::*;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::money::Cents;

/// The number that the shop gave the customer, as it is written: `00042`.
#[derive(AggregateId, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct CustomerId(String);

/// Stored: change by upcasting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purchased {
    pub(crate) on: Date,
    pub(crate) cds: u32,
    pub(crate) paid: Cents,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "customer")]
pub(crate) enum CustomerEvent {
    Purchased(Purchased),
}

/// No sum of purchases this small passes the largest number of cents.
const MOST: Cents = Cents(100_000_000);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum CustomerError {
    #[error("a purchase has at least one CD")]
    Nothing,
    #[error("a purchase cannot cost less than nothing, and this one costs {0}")]
    Negative(Cents),
    #[error("a purchase costs at most {MOST} dollars, and this one costs {0}")]
    TooMuch(Cents),
}

/// What a decision needs to know of a customer: nothing yet but that there is one.
#[derive(Aggregate, Clone, Debug, Default, Serialize, Deserialize)]
#[aggregate(id = CustomerId, event = CustomerEvent, error = CustomerError)]
pub(crate) struct Customer {
    purchases: u32,
}

impl Apply for Customer {
    fn apply(&mut self, event: &CustomerEvent) {
        match event {
            CustomerEvent::Purchased(_) => self.purchases += 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purchase {
    pub(crate) on: Date,
    pub(crate) cds: u32,
    pub(crate) paid: Cents,
}

impl Purchase {
    /// What is wrong with it, whoever buys.
    pub(crate) fn check(&self) -> Result<(), CustomerError> {
        match self.paid {
            _ if self.cds == 0 => Err(CustomerError::Nothing),
            paid if paid < Cents(0) => Err(CustomerError::Negative(paid)),
            paid if paid > MOST => Err(CustomerError::TooMuch(paid)),
            _ => Ok(()),
        }
    }
}

#[commands]
impl Customer {
    /// The first purchase makes the customer. Free CDs are real: 80 of them were given away.
    #[create_if_missing]
    fn purchase(&self, cmd: Purchase) -> Result<Purchased, CustomerError> {
        cmd.check()?;
        Ok(Purchased { on: cmd.on, cds: cmd.cds, paid: cmd.paid })
    }
}

#[cfg(test)]
mod tests {
    use es_core::testing::given;
    use jiff::civil::date;

    use super::*;

    fn purchase(cds: u32, paid: i64) -> Purchase {
        Purchase { on: date(1997, 1, 12), cds, paid: Cents(paid) }
    }

    #[test]
    fn a_first_purchase_needs_no_customer() {
        let bought = Purchased { on: date(1997, 1, 12), cds: 1, paid: Cents(1_200) };
        given::<Customer>(()).when(purchase(1, 1_200)).then(bought);
    }

    #[test]
    fn a_sum_of_purchases_stays_a_number() {
        let most = Purchased { on: date(1997, 1, 12), cds: 1, paid: MOST };
        given::<Customer>(()).when(purchase(1, MOST.0)).then(most);
        let more = Cents(MOST.0 + 1);
        given::<Customer>(()).when(purchase(1, more.0)).then_error(CustomerError::TooMuch(more));
    }

    #[test]
    fn a_gift_is_a_purchase_and_nothing_is_not() {
        given::<Customer>(()).when(purchase(2, 0)).then(Purchased {
            on: date(1997, 1, 12),
            cds: 2,
            paid: Cents(0),
        });
        given::<Customer>(()).when(purchase(0, 100)).then_error(CustomerError::Nothing);
        given::<Customer>(()).when(purchase(1, -1)).then_error(CustomerError::Negative(Cents(-1)));
    }
}

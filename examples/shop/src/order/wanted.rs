//! What customers order: the same in every run.

use sagas::saga::SagaInput;
use serde::{Deserialize, Serialize};

/// What a saga is started with. Stored: fields are added with a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceOrder {
    /// From 1.
    pub(crate) number: u32,
    pub(crate) customer: String,
    pub(crate) items: Vec<Item>,
}

impl SagaInput for PlaceOrder {}

/// Some copies of a disc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) disc: String,
    pub(crate) copies: u32,
}

impl PlaceOrder {
    /// How many copies it is, of all discs.
    pub(crate) fn copies(&self) -> u32 {
        self.items.iter().map(|item| item.copies).sum()
    }
}

/// Orders that want the same discs: one after the other.
const IN_A_GROUP: u32 = 10;
/// What the discs of a group are called, and what a copy costs, in cents.
const DISCS: [(char, i64); 3] = [('a', 900), ('b', 1_250), ('c', 1_599)];
/// Fewer than the orders of a group want: some find nothing left.
pub(crate) const COPIES: u32 = 8;

/// The discs that these orders want, each with its price in cents.
pub(crate) fn discs(orders: u32) -> impl Iterator<Item = (String, i64)> {
    let groups = 1..=orders.div_ceil(IN_A_GROUP);
    groups.flat_map(|group| DISCS.map(|(letter, cents)| (format!("disc {group}-{letter}"), cents)))
}

/// The order with a number.
pub(crate) fn order(number: u32) -> PlaceOrder {
    let group = (number - 1) / IN_A_GROUP + 1;
    let item = |nth: u32, copies| {
        let (letter, _) = DISCS[((number + nth) % 3) as usize];
        Item { disc: format!("disc {group}-{letter}"), copies }
    };
    let mut items = vec![item(0, 1 + number % 2), item(1, 1)];
    if number.is_multiple_of(5) {
        items.push(item(2, 1));
    }
    PlaceOrder { number, customer: format!("customer-{}", number % 50), items }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_disc_that_is_wanted_is_among_those_of_the_shop() {
        let there: BTreeSet<String> = discs(95).map(|(disc, _)| disc).collect();
        let wanted = (1..=95).flat_map(|number| order(number).items).map(|item| item.disc).collect();
        assert_eq!(there, wanted);
        assert_eq!(discs(0).count(), 0);
    }
}

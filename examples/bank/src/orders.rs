//! What is transferred in a run: the same for the same seed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::banks::ACCOUNTS;
use crate::transfer::{AccountId, Bank, Order};

/// More than any account ever has.
const TOO_MUCH: i64 = 1_000_000_000;

/// The order with a number. One in 25 asks for more than there is.
pub(crate) fn order(seed: u64, number: u32) -> Order {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1 << 32).wrapping_add(number.into()));
    let [from, to] = if rng.random_bool(0.5) { [Bank::A, Bank::B] } else { [Bank::B, Bank::A] };
    let mut account = |bank| AccountId { bank, number: rng.random_range(1..=ACCOUNTS) };
    let (from, to) = (account(from), account(to));
    let cents = if number % 25 == 7 { TOO_MUCH } else { rng.random_range(1..=10_000) };
    Order { from, to, cents }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_can_be_repeated_and_goes_both_ways() {
        let orders: Vec<Order> = (0..100).map(|number| order(7, number)).collect();
        assert_eq!(orders, (0..100).map(|number| order(7, number)).collect::<Vec<_>>());
        assert_ne!(orders[0], order(8, 0));
        let from_a = orders.iter().filter(|order| order.from.bank == Bank::A).count();
        assert!((20..80).contains(&from_a), "{from_a}");
        assert!(orders.iter().all(|order| order.from.bank != order.to.bank && order.cents > 0));
    }
}

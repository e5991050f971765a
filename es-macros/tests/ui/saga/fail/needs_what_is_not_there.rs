#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Charge, Order};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).pivot(Charge).build()
}

fn main() {
    drop(definition());
}

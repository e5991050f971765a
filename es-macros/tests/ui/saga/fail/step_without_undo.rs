#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Charge, Order, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Reserve).step(Charge).build()
}

fn main() {
    drop(definition());
}

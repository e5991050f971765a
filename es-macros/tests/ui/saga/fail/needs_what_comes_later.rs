#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Charge, Order, Pack, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Pack).step(Reserve).pivot(Charge).build()
}

fn main() {
    drop(definition());
}

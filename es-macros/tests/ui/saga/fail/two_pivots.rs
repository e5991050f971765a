#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Charge, Mail, Order, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Reserve).pivot(Charge).pivot(Mail).build()
}

fn main() {
    drop(definition());
}

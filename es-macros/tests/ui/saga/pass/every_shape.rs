//! Each kind of step once.

#[path = "../../order.rs"]
mod order;

use std::time::Duration;

use es_core::memory::Tx;
use order::{Charge, Mail, Order, Pack, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1)
        .deadline(Duration::from_secs(60))
        .step(Reserve)
        .step(Pack)
        .pivot(Charge)
        .then(Mail)
        .build()
}

fn main() {
    drop(definition());
}

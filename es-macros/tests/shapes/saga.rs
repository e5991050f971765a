//! Each kind of step once.

use std::time::Duration;

use crate::order::{Charge, Mail, Order, Pack, Reserve};
use es_core::memory::Tx;
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

#[test]
fn it_is_what_it_says() {
    drop(definition());
}

#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Mail, Order, Pack, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).pivot(Mail).both(Reserve, Pack).build()
}

fn main() {
    drop(definition());
}

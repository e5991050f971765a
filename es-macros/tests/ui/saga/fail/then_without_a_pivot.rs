#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Mail, Order, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Reserve).then(Mail).build()
}

fn main() {
    drop(definition());
}

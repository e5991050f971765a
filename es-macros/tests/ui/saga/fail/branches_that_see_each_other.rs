#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Order, Pack, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).both(Reserve, Pack).build()
}

fn main() {
    drop(definition());
}

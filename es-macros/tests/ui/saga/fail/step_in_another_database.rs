#[path = "../../order.rs"]
mod order;

use es_core::testing::SimTx;
use order::{Order, Reserve};
use sagas::saga::Saga;

fn definition() -> Saga<Order, SimTx> {
    Saga::new("place-order", 1).step(Reserve).build()
}

fn main() {
    drop(definition());
}

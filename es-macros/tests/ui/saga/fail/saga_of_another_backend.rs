#[path = "../../order.rs"]
mod order;

use es_core::App;
use es_core::memory::Tx;
use es_core::testing::SimStore;
use order::{Order, Reserve};
use sagas::saga::{Saga, SagaApp as _};

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Reserve).build()
}

fn main() {
    drop(App::on(SimStore::new(1)).saga(definition()));
}

#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::Mail;
use sagas::saga::{Saga, SagaInput};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Refund {}
impl SagaInput for Refund {}

fn definition() -> Saga<Refund, Tx> {
    Saga::new("refund", 1).pivot(Mail).build()
}

fn main() {
    drop(definition());
}

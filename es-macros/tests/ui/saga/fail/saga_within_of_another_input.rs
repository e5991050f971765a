#[path = "../../order.rs"]
mod order;

use es_core::memory::Tx;
use order::{Order, Reserve};
use sagas::saga::{Child, Cx, Saga, SagaInput, SubSaga};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Refund {}
impl SagaInput for Refund {}

struct PlaceAgain;
impl SubSaga<Refund> for PlaceAgain {
    const NAME: &'static str = "place-again";
    type Needs = ();
    type Saga = Order;
    type Gives = Reserve;
    fn input(&self, _: Cx<'_, Refund>) -> Order {
        Order { cents: 1 }
    }
}

fn definition() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Reserve).step(Child::of(PlaceAgain)).build()
}

fn main() {
    drop(definition());
}

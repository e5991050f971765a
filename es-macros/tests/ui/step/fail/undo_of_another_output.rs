#![allow(unused_imports)]

#[path = "../../order.rs"]
mod order;

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::Tx;
use order::{Order, Reserve};
use sagas::saga::{Call, Cx, Ran, StepError, step};

struct Charge;

#[step(name = "charge", undo = refund)]
impl Charge {
    async fn charge(&self, _: Cx<'_, Order>, _: &mut Call) -> Result<u64, StepError<String>> {
        Ok(1)
    }

    async fn refund(&self, _: Cx<'_, Order>, _: Ran<String>, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
}

fn main() {}

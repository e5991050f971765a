#![allow(unused_imports)]

#[path = "../../order.rs"]
mod order;

use es_core::BoxError;
use order::{Order, Reserve};
use sagas::saga::{Call, Cx, Ran, StepError};
use sagas::tcc::tcc;

struct Hold;

#[tcc(name = "hold")]
impl Hold {
    async fn reserve(&self, _: Cx<'_, Order>, _: &mut Call) -> Result<u64, StepError<String>> {
        Ok(1)
    }

    async fn confirm(&self, _: Cx<'_, Order>, _: u64, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
}

fn main() {}

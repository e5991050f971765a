#![allow(unused_imports)]

#[path = "../../order.rs"]
mod order;

use std::convert::Infallible;

use es_core::BoxError;
use es_core::memory::Tx;
use order::{Order, Reserve};
use sagas::saga::{Call, Cx, Ran, StepError, step};

struct Charge;

#[step(name = "charge")]
impl Charge {

}

fn main() {}

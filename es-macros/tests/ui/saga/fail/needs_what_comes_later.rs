#[path = "../../trip.rs"]
mod trip;

use es_core::memory::Tx;
use sagas::saga::Saga;
use trip::{Pay, Trip};

fn main() {
    let _: Saga<Trip, Tx> = Saga::new("trip", 1).pivot(Pay).build();
}

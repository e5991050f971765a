#[path = "../../trip.rs"]
mod trip;

use es_core::memory::Tx;
use sagas::saga::Saga;
use trip::{Mail, Seat, Trip};

fn main() {
    let _: Saga<Trip, Tx> = Saga::new("trip", 1).step(Seat).then(Mail).build();
}

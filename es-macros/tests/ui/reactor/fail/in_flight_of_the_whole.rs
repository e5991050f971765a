#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::reactor;

struct Welcome;

#[reactor(name = "welcome", partition = whole, in_flight = 32)]
impl Welcome {
    fn opened(&self, _: &Opened) {}
}

fn main() {}

#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::reactor;

struct Welcome;

#[reactor(name = "welcome", was = greeting)]
impl Welcome {
    fn opened(&self, _: &Opened) {}
}

fn main() {}

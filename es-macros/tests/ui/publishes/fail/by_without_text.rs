#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{Deposited, Opened, Withdrawn};
use es_core::Recorded;
use sagas::publishes;
use sagas::relay::Message;

struct Accounts;

struct Pair;

trait Paired {
    fn pair(&self) -> Pair;
}

impl Paired for Opened {
    fn pair(&self) -> Pair {
        Pair
    }
}

#[publishes(name = "accounts")]
impl Accounts {
    #[on(by = pair())]
    fn opened(&self, e: &Opened) -> Message {
        Message::of(&e.owner)
    }
}

fn main() {}

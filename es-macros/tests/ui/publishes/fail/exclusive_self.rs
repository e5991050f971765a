#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{Deposited, Opened, Withdrawn};
use es_core::Recorded;
use sagas::publishes;
use sagas::relay::Message;

struct Accounts;

#[publishes(name = "accounts")]
impl Accounts {
    fn opened(&mut self, e: &Opened) -> Message {
        Message::of(&e.owner)
    }
}

fn main() {}

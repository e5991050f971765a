#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{Deposited, Opened, Withdrawn};
use es_core::Recorded;
use sagas::publishes;
use sagas::relay::Message;

struct Accounts;

struct Told;

#[publishes(name = "accounts")]
impl Accounts {
    fn opened(&self, _: &Opened) -> Message {
        Message::of(&Told)
    }
}

fn main() {}

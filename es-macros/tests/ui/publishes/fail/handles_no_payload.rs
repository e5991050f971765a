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
    fn opened(&self, e: &String) -> Message {
        Message::of(e)
    }
}

fn main() {}

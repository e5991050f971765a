#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{AccountId, Deposit, Deposited, Opened, Withdraw, Withdrawn};
use sagas::{Next, Refused, process};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Transfer {}

#[process(name = "transfer", key = AccountId, keep_ended_days = 0)]
impl Transfer {
    #[starts]
    fn opened(&mut self, _: &Opened) -> Next<Self> {
        Next::wait()
    }
}

fn main() {}

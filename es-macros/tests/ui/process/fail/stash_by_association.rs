#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{AccountId, Deposit, Deposited, Opened, Withdraw, Withdrawn};
use sagas::{Next, Refused, Timer, process};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Transfer {}

#[process(name = "transfer", key = AccountId)]
impl Transfer {
    #[starts]
    fn opened(&mut self, _: &Opened) -> Next<Self> {
        Next::wait()
    }

    #[on(by = amount, via = "amount", early = stash)]
    fn deposited(&mut self, _: &Deposited) -> Next<Self> {
        Next::wait()
    }
}

fn main() {}

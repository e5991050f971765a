#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{AccountId, Deposit, Deposited, Opened, Withdraw, Withdrawn};
use sagas::{Next, Refused, Timer, process};
use serde::{Deserialize, Serialize};

#[derive(Timer, Serialize, Deserialize)]
struct Expired {}

#[derive(Default, Serialize, Deserialize)]
struct Transfer {}

#[process(name = "transfer", key = AccountId, sends(Withdraw))]
impl Transfer {
    #[starts]
    fn opened(&mut self, _: &Opened) -> Next<Self> {
        Next::wait()
    }

    #[refused]
    fn refused(&mut self, _: Withdraw) -> Next<Self> {
        Next::end()
    }
}

fn main() {}

#![allow(unused_imports)]

#[path = "../../bank.rs"]
mod bank;

use bank::{AccountId, Deposit, Deposited, Opened, Withdraw, Withdrawn};
use sagas::{Next, Refused, Timer, process};
use serde::{Deserialize, Serialize};

mod first {
    #[derive(sagas::Timer, serde::Serialize, serde::Deserialize)]
    pub struct Expired {}
}

mod second {
    #[derive(sagas::Timer, serde::Serialize, serde::Deserialize)]
    pub struct Expired {}
}

#[derive(Default, Serialize, Deserialize)]
struct Transfer {}

#[process(name = "transfer", key = AccountId)]
impl Transfer {
    #[starts]
    fn opened(&mut self, _: &Opened) -> Next<Self> {
        Next::wait()
    }

    #[timer]
    fn one(&mut self, _: first::Expired) -> Next<Self> {
        Next::end()
    }
    #[timer]
    fn other(&mut self, _: second::Expired) -> Next<Self> {
        Next::end()
    }
}

fn main() {}

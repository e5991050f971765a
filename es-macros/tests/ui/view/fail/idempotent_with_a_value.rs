#[path = "../../bank.rs"]
mod bank;

use bank::{AccountId, Opened};
use es_core::view;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Balance {
    amount: u64,
}

#[view(name = "balance", key = AccountId, idempotent = true)]
impl Balance {
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}

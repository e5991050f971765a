#[path = "../../bank.rs"]
mod bank;

use bank::AccountId;
use es_core::{Recorded, view};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Balance {
    amount: u64,
}

#[view(name = "balance", key = AccountId)]
impl Balance {
    fn opened(&mut self, _: Recorded<'_>) {}
}

fn main() {}

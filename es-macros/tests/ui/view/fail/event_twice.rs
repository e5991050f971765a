#[path = "../../bank.rs"]
mod bank;

use bank::{AccountId, Opened};
use es_core::{Recorded, view};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Balance {
    amount: u64,
}

#[view(name = "balance", key = AccountId)]
impl Balance {
    fn opened(&mut self, _: &Opened) {}

    fn opened_too(&mut self, _: Recorded<'_, Opened>) {}
}

fn main() {}

#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::view;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Balance {
    amount: u64,
}

#[view(name = "balance", key = u64)]
impl Balance {
    fn opened(&mut self, _: &Opened) {}
}

fn main() {}

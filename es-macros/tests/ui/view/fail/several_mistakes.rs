#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::view;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Balance {
    amount: u64,
}

#[view(nam = "balance")]
impl Balance {
    const A: u8 = 1;

    async fn opened(&self, _: Opened, _: &str) {}
}

fn main() {}

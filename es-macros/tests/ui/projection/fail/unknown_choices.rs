#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::memory::Tx;
use es_core::projection;

struct Balances;

#[projection(name = "balances", on_failure = skipp, partition = tenant)]
impl Balances {
    fn opened(&self, _: &Opened, _: &mut Tx) {}
}

fn main() {}

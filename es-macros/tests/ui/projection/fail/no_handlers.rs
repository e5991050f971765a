#[path = "../../bank.rs"]
mod bank;

use es_core::projection;

struct Balances;

#[projection(name = "balances")]
impl Balances {

}

fn main() {}

#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::projection;

struct Balances;

#[projection(name = "balances")]
impl Balances {
    async fn opened(&self, _: &Opened) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}

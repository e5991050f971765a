#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::memory::Tx;
use es_core::projection;

struct Balances;

#[projection(name = "balances")]
impl Balances {
    async fn opened(&self, _: &Opened, _: &mut Tx) -> Result<(), u8> {
        Ok(())
    }
}

fn main() {}

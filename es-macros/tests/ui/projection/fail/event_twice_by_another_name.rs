#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::memory::Tx;
use es_core::projection;

type Same = Opened;

struct Balances;

#[projection(name = "balances")]
impl Balances {
    async fn opened(&self, _: &Opened, _: &mut Tx) -> Result<(), std::fmt::Error> {
        Ok(())
    }

    async fn opened_too(&self, _: &Same, _: &mut Tx) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}

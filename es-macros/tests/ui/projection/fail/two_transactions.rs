#[path = "../../bank.rs"]
mod bank;

use bank::{Deposited, Opened};
use es_core::memory::Tx;
use es_core::projection;

struct Balances;

#[projection(name = "balances")]
impl Balances {
    async fn opened(&self, _: &Opened, _: &mut Tx) -> Result<(), std::fmt::Error> {
        Ok(())
    }

    async fn deposited(&self, _: &Deposited, _: &mut String) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}

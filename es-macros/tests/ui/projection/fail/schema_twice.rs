#[path = "../../bank.rs"]
mod bank;

use bank::Opened;
use es_core::memory::Tx;
use es_core::projection;

struct Balances;

#[projection(name = "balances", schema = "../balances.sql", schema_sql = "create table a (b text)")]
impl Balances {
    async fn opened(&self, _: &Opened, _: &mut Tx) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

fn main() {}

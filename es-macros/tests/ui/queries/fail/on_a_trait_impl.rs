use es_core::queries;

struct Balances;
struct BalanceOf;

trait Ask {
    fn balance(&self, q: BalanceOf) -> Result<u64, std::fmt::Error>;
}

#[queries]
impl Ask for Balances {
    fn balance(&self, _: BalanceOf) -> Result<u64, std::fmt::Error> {
        Ok(1)
    }
}

fn main() {}

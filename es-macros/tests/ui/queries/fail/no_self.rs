use es_core::queries;

struct Balances;
struct BalanceOf;

#[queries]
impl Balances {
    async fn balance(_: BalanceOf) -> Result<u64, std::fmt::Error> {
        Ok(1)
    }
}

fn main() {}
